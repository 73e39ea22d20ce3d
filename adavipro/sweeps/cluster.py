"""Workers for a sweep: processes of this machine, a GPU each, or a Dask cluster that runs already."""

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adavipro import executing
from adavipro.settings import SettingError

if TYPE_CHECKING:
    from distributed import Client

LOOPBACK = "127.0.0.1"
CONNECT_S = 15  # for a cluster that runs already to answer


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # here: workers of a cluster import this module, and need no torch themselves

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


def shares(workers: int | None, device: str) -> list[dict[str, str]]:
    """The environment of each worker: its share of the cores and, where the device is cuda, its GPU.

    Args:
        workers: how many; none: one a GPU, or one a core. More than there are GPUs share them.

    Raises:
        SettingError: if there is no GPU, or no worker is asked for.
    """
    if workers is not None and workers < 1:
        raise SettingError(f"workers is {workers}, but it must be at least 1")
    places: list[dict[str, str]] = [{}]
    cores = os.cpu_count() or 1
    if device.startswith("cuda:"):
        raise SettingError(
            f"device is {device!r}, but workers share all GPUs: use cuda, and CUDA_VISIBLE_DEVICES to choose"
        )
    if device == "cuda":
        places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus()]
        if not places:
            raise SettingError(f"device is {device!r}, but torch finds no GPU here: use cpu")
    count = workers or (len(places) if "CUDA_VISIBLE_DEVICES" in places[0] else cores)
    threads = {"OMP_NUM_THREADS": str(max(1, cores // count))}
    return [{**threads, **places[i % len(places)]} for i in range(count)]


@contextlib.contextmanager
def cluster(
    workers: int | None = None, device: str = "cpu", scheduler: str | None = None, runs: int | None = None
) -> Iterator["Client"]:
    """Open a Dask cluster on this machine, or reach the one of `scheduler`; what was started here ends with it.

    Each worker has one run at a time, and is started again when it dies. All of it listens on loopback only.

    Args:
        workers, device: see `shares`.
        runs: not more workers than this are started; the others' cores stay idle, since a run's rounding hangs on its
            number of threads.

    Raises:
        SettingError: if Dask is not installed, or the scheduler does not answer or has no workers.
    """
    if importlib.util.find_spec("distributed") is None:
        raise SettingError("sweeps run on Dask, which is not installed: pip install 'adavipro[sweeps]'")
    from distributed import Client, Scheduler, SpecCluster

    if scheduler is not None:
        if workers is not None:
            raise SettingError(
                f"workers is {workers}, but the cluster at {scheduler} has its own: leave it out"
            )
        with _connected(scheduler) as client:
            yield client
        return
    listen = {"host": LOOPBACK, "dashboard_address": f"{LOOPBACK}:0"}  # any free port
    with (
        SpecCluster({}, {"cls": Scheduler, "options": listen}, silence_logs=logging.CRITICAL) as started,
        _workers(started.scheduler_address, shares(workers, device)[:runs]),
        Client(started, set_as_default=False) as client,
    ):
        yield client


@contextlib.contextmanager
def _workers(scheduler: str, environments: list[dict[str, str]]) -> Iterator[None]:
    """Start workers as one does by hand, out of reach of a terminal's Ctrl-C, which is for the sweep to hear."""
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        scheduler,
        "--host",
        LOOPBACK,
        "--no-dashboard",
    ]
    command += ["--nthreads", "1", "--memory-limit", "0"]  # a run's memory is not that of its worker
    none = subprocess.DEVNULL
    processes = [
        subprocess.Popen(command, stdout=none, stderr=none, env={**os.environ, **env}, start_new_session=True)
        for env in environments
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator["Client"]:
    from distributed import Client

    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        told = "start one with `dask scheduler`, which tells its address as tcp://HOST:PORT"
        raise SettingError(f"no Dask scheduler answers at {scheduler!r} ({error}): {told}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError:
            told = f"start some with `dask worker {scheduler} --nthreads 1`"
            raise SettingError(f"the Dask scheduler at {scheduler} has no workers: {told}") from None
        yield client


def execute_all(
    client: "Client", root: Path, jobs: dict[str, dict[str, Any]], ended: Callable[[str, str | None], None]
) -> None:
    """Execute notebooks on a cluster. A job whose worker dies is done again by another, three times at most.

    Where this is interrupted, jobs that run are stopped, and have saved when it ends; the others do not start.

    Args:
        root: a folder that all machines share, above those of the jobs.
        jobs: by name, the arguments of `executing.execute`.
        ended: called with a job's name, and with what went wrong or None, as each ends.

    Raises:
        SettingError: naming the workers that do not see the root.
    """
    from distributed import as_completed, wait

    root.mkdir(parents=True, exist_ok=True)
    wanted = root / f".wanted-{uuid.uuid4().hex}"  # stands as long as the jobs are wanted
    wanted.touch()
    futures = {}
    try:
        blind = [address for address, sees in client.run(wanted.exists).items() if not sees]
        if blind:
            told = "every machine must see the folder of runs under the same path"
            raise SettingError(f"{root} is not there for the workers {', '.join(blind)}: {told}")
        for i, (name, job) in enumerate(jobs.items()):
            futures[client.submit(_execute_here, wanted=wanted, **job, pure=False, priority=-i)] = name
        for future in as_completed(futures, loop=client.loop):
            error = future.exception()
            ended(futures[future], future.result() if error is None else f"{type(error).__name__}: {error}")
    finally:
        wanted.unlink(missing_ok=True)
        with contextlib.suppress(TimeoutError), client.as_current():
            wait(list(futures), timeout=executing.GRACE_S + CONNECT_S)


def _execute_here(parameters: dict[str, Any], wanted: Path, **how: Any) -> str | None:
    """Execute a notebook on this worker, with its share of the cores. Returns None, or what went wrong."""
    if not wanted.exists():
        return f"it was stopped before it started, or {wanted.parent} is not the same folder on every machine"
    threads = int(os.environ.get("OMP_NUM_THREADS", 1))
    try:
        return executing.execute(parameters={**parameters, "threads": threads}, wanted=wanted, **how)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
