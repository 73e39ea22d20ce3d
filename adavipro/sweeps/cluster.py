"""Where runs go: a notebook in a kernel of its own, and Dask workers that have one at a time."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from adavipro.recipe import SettingError

LOOPBACK = "127.0.0.1"
CONNECT_S = 15.0  # for a scheduler to answer
PATIENCE_S = 60.0  # without any worker, before a sweep gives up; one that is killed is back in seconds
POLL_S = 1.0
DIED = "its worker died again and again: it was killed, or memory ran out"
KERNEL_DIED = "its kernel died: it was killed, or memory ran out"
DONE, FAILED = "notebook.ipynb", "failed.ipynb"


def execute(
    notebook: Path,
    folder: Path,
    parameters: Mapping[str, Any],
    proof: str,
    limit_s: float | None = None,
    cwd: Path | None = None,
) -> str | None:
    """Execute a notebook into <folder>/notebook.ipynb. Returns None where it is done, or one line of what went wrong.

    Done is no error and the file `proof`: papermill alone takes `exit()` in a cell for a success. What a run that
    failed left stays as failed.ipynb. A run whose kernel dies is done again, once. The kernel ends when this process
    does, however that ends.

    Args:
        proof: name of the file that the notebook writes into the folder, last.
        limit_s: seconds of wall clock for the whole notebook; none: no limit.
        cwd: where the notebook runs; none: here.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError

    # A Dask worker gives memory back at once, which would make torch on a CPU twice as slow.
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
    end = time.monotonic() + (limit_s or 0)
    try:
        str(folder).encode()  # a notebook cannot hold another path
    except UnicodeEncodeError:
        return f"the folder {os.fsencode(folder)!r} is not named in UTF-8: give another one, by --root"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("running-*.ipynb"):  # of a worker that died; a run that is at it writes it again
        left.unlink(missing_ok=True)
    running, done = folder / f"running-{os.getpid()}.ipynb", False

    def once() -> str | None:
        try:
            papermill.execute_notebook(
                notebook, running, dict(parameters), kernel_name="python3", progress_bar=False, cwd=cwd,
                timeout_func=limit_s and (lambda cell: max(0.1, end - time.monotonic())),
                extra_arguments=["--log-level=50"],  # of the kernel itself, to the terminal
            )  # fmt: skip
        except CellTimeoutError:
            return f"stopped after {limit_s:.0f} s"
        except Exception as error:  # a cell's own, a dead kernel, a full disk
            if isinstance(error, RuntimeError) and str(error).startswith("Kernel died"):
                return KERNEL_DIED
            name, told = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
            return " ".join(f"{name}: {told}".split())
        return None if (folder / proof).exists() else f"ended without {proof}: a cell left it"

    try:
        wrong = once()
        if wrong == KERNEL_DIED:
            wrong = once()
        done = wrong is None
    finally:
        if running.exists():
            running.replace(folder / (DONE if done else FAILED))
    if done:
        (folder / FAILED).unlink(missing_ok=True)
    return wrong


def shares(workers: int | None, device: str) -> list[dict[str, str]]:
    """The environment of each worker: its share of the cores that we may use and, where the device is cuda, its GPU.

    Args:
        workers: how many; none: one a GPU, or one a core. More than there are GPUs share them.

    Raises:
        SettingError: if there is no GPU, or no worker is asked for.
    """
    from dask.system import cpu_count  # those that affinity and control groups leave

    if workers is not None and workers < 1:
        raise SettingError(f"workers is {workers}, but it must be at least 1")
    places: list[dict[str, str]] = [{}] * cpu_count()
    if device.startswith("cuda"):
        import torch  # here: workers import this module, and need no torch themselves

        if device != "cuda" or not torch.cuda.is_available():
            told = "but sweeps take cpu or, where torch finds a GPU, cuda: CUDA_VISIBLE_DEVICES says which"
            raise SettingError(f"device is {device!r}, {told}")
        named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in named.split(",")]
    count = workers or len(places)
    threads = {"OMP_NUM_THREADS": str(max(1, cpu_count() // count))}
    return [threads | places[i % len(places)] for i in range(count)]


@contextlib.contextmanager
def cluster(environments: list[dict[str, str]]) -> Generator[str]:
    """Start a Dask scheduler, and a worker in each environment; it ends with what is done in it. Gives its address.

    Each worker has one run at a time, and is started again when it dies. All of it listens on loopback only. A script
    that calls this does so under `if __name__ == "__main__"`, since the workers import it.
    """
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    quiet = {"silence_logs": logging.CRITICAL}
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # Ctrl-C is for the sweep to hear
    own = {"host": LOOPBACK, "nthreads": 1, "memory_limit": 0, "preload": [deaf], **quiet}
    workers = {i: {"cls": Nanny, "options": {**own, "env": env}} for i, env in enumerate(environments)}
    listen = {"host": LOOPBACK, "dashboard_address": f"{LOOPBACK}:0"}  # any free port
    with (
        # What Dask adds to the environment of workers, it would leave in ours too; and it closes for good a worker that
        # is away 15 s after it died before, as one that was killed again.
        dask.config.set(
            {"distributed.nanny.pre-spawn-environ": {}, "distributed.deploy.lost-worker-timeout": "365d"}
        ),
        SpecCluster(workers, {"cls": Scheduler, "options": listen}, **quiet) as started,
    ):
        yield started.scheduler_address


def execute_all(
    notebook: Path,
    jobs: Mapping[Path, Mapping[str, Any]],
    proof: str,
    device: str = "cpu",
    workers: int | None = None,
    scheduler: str | None = None,
    limit_s: float | None = None,
) -> Generator[tuple[Path, str | None]]:
    """Execute a notebook many times on a Dask cluster. Gives folder, and what went wrong or None, as each ends.

    A job whose worker dies is done again, three times at most.

    Args:
        jobs: parameters by folder.
        proof, limit_s: of `execute`.
        workers: how many jobs at a time; none: one a GPU or a core. The cores are shared out; those of workers that
            have no job stay idle, since a run's rounding hangs on its number of threads.
        scheduler: address of a cluster that runs already; none: one is started here.

    Raises:
        SettingError: if there is no cluster to run on, or it is lost.
    """
    if not jobs:
        return
    try:
        from distributed import CancelledError, Client, KilledWorker, wait
        from distributed.utils import silence_logging_cmgr
    except ImportError:
        told = "sweeps run on Dask, which is not installed: pip install 'adavipro[sweeps]'"
        raise SettingError(told) from None
    if scheduler and workers:
        told = f"but the cluster at {scheduler} has its own: leave it out"
        raise SettingError(f"workers is {workers}, {told}")
    with contextlib.ExitStack() as stack:
        for logger in ("distributed", "distributed.client", "tornado.application"):
            stack.enter_context(silence_logging_cmgr(logging.CRITICAL, logger))
        address = scheduler or stack.enter_context(cluster(shares(workers, device)[: len(jobs)]))
        try:
            client = stack.enter_context(Client(address, timeout=CONNECT_S, set_as_default=False))
            client.wait_for_workers(1, timeout=CONNECT_S)
        except (OSError, ValueError) as error:
            told = "start `dask scheduler`, and `dask worker ADDRESS --nthreads 1` with the address that it tells"
            missing = f"no Dask scheduler with workers is at {address!r} ({error})"
            raise SettingError(f"{missing}: {told}") from None
        tqdm.write(f"watch the runs at {client.dashboard_link}", file=sys.stderr)
        how = {"proof": proof, "limit_s": limit_s, "cwd": Path.cwd(), "pure": False}
        left, futures, wrong = list(jobs), dict[Any, Path](), ""
        seen = time.monotonic()  # when there was a worker
        while (left or futures) and not wrong:
            done = []
            try:
                places = sum(client.sync(client.scheduler.ncores, callback_timeout=CONNECT_S).values())
                seen = time.monotonic() if places else seen
                # A worker has no second job that waits: it would be blamed for the worker's death.
                while left and len(futures) < max(1, places):
                    folder = left.pop(0)
                    futures[client.submit(execute, notebook, folder, jobs[folder], **how)] = folder
                with client.as_current(), contextlib.suppress(TimeoutError):
                    for future in wait(list(futures), timeout=POLL_S, return_when="FIRST_COMPLETED").done:
                        broken = future.exception(CONNECT_S)
                        told = f"{type(broken).__name__}: {broken}" if broken else future.result(CONNECT_S)
                        future.release()  # else it would be done again when the worker that holds it dies
                        done.append((futures.pop(future), DIED if isinstance(broken, KilledWorker) else told))
            except Exception as error:  # Dask raises several kinds once its scheduler is gone
                if client.status == "running" and not isinstance(error, OSError | CancelledError):
                    raise
                wrong = "the Dask scheduler does not answer any more"
            if time.monotonic() - seen > PATIENCE_S:
                wrong = f"the Dask cluster has had no worker for {PATIENCE_S:.0f} s"
            yield from done
        if left or futures:
            kept = f"{len(jobs) - len(left) - len(futures)} of {len(jobs)} runs have ended and are kept"
            raise SettingError(f"{wrong}: {kept}, start it again for the others")
