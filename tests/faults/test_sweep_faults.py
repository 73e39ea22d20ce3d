"""Faults B1 and B2: a notebook that ends badly is told as failed, and a sweep that is hit anywhere loses nothing."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import distributed  # noqa: F401 (its settings, before one is changed)
import nbformat
import psutil
import pytest
from helpers import draw_splits, tiny, write_notebook

from adavipro import experiment
from adavipro.recipe import SettingError
from adavipro.sweeps import cluster, runs

HERE = Path(__file__).parents[1]
PARAMETERS = "out = None\nend = ''"
PROVE = "pathlib.Path(out, 'proof').write_text(str({name: os.environ.get(name) for name in watched}))"
# A notebook that ends as it is told; its kernel is known by the file that it writes.
ENDING = f"""
import os, pathlib, time
print("so far")
watched = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MALLOC_TRIM_THRESHOLD_", "PWD")
kernel = pathlib.Path(out, "kernel")
begun = kernel.exists()
kernel.write_text(str(os.getpid()))
if end == "error": raise ValueError("the sentence")
if end == "killed kernel": os.kill(os.getpid(), 9)
if end in ("timeout", "sleep") or (end == "sleep once" and not begun): time.sleep(600)
if end == "exit": raise SystemExit(0)
if end == "full disk": print(100_000 * "x")
if end == "killed worker": os.kill(os.getppid(), 9)
{PROVE}
"""
B1 = {
    "done": None,
    "error": "ValueError: the sentence",
    "killed kernel": "its kernel died: it was killed, or memory ran out",
    "timeout": "stopped after 6 s",
    "exit": "ended without proof: a cell left it",
    "killed worker": "its worker died again and again: it was killed, or memory ran out",
}


def jobs(top: Path, *ends: str) -> dict[Path, dict[str, str]]:
    return {top / end: {"out": str(top / end), "end": end} for end in ends}


def wait_until(holds: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def kernel_of(folder: Path) -> psutil.Process:
    wait_until(lambda: (folder / "kernel").exists() and (folder / "kernel").stat().st_size)
    return psutil.Process(int((folder / "kernel").read_text()))


def in_threads(count: int, function: Callable[[], Any]) -> tuple[list[threading.Thread], list[Any]]:
    """Call a function in threads, side by side; what it returns or raises comes into the list."""
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(function())
        except SettingError as error:
            found.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, found


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_notebook(tmp_path_factory.mktemp("notebook") / "ending.ipynb", PARAMETERS, ENDING)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two workers for all that can share one; a run fails with the second worker that it takes along."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        cluster.cluster([{"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": gpu} for gpu in "56"]) as started,
    ):
        yield started


# --- B1 -------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("a notebook that ends badly in another way")
def test_b1_each_end_of_a_notebook_is_told_and_what_there_is_is_kept(notebook, address, tmp_path):
    wanted = {**jobs(tmp_path, *B1), notebook / "no folder": {}}
    found = dict(cluster.execute_all(notebook, wanted, "proof", scheduler=address, limit_s=6))
    assert str(found.pop(notebook / "no folder")).startswith("NotADirectoryError: ")
    assert {folder.name: told for folder, told in found.items()} == B1
    for folder in found:
        kept = {"done": "notebook", "killed worker": "running-*"}.get(folder.name, "failed")
        (path,) = folder.glob("*.ipynb")
        assert path.match(f"{kept}.ipynb")
        assert "so far" in str(nbformat.read(path, 4)) or folder.name == "killed worker"
    environment = eval((tmp_path / "done" / "proof").read_text())
    assert environment["CUDA_VISIBLE_DEVICES"] in "56"
    assert environment | {"CUDA_VISIBLE_DEVICES": "5"} == {
        "OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "5", "MALLOC_TRIM_THRESHOLD_": None, "PWD": os.environ["PWD"],
    }  # fmt: skip


@pytest.mark.fault("disk full while a checkpoint, table, figure or notebook is written")
def test_b1_full_disk_is_a_failure_and_the_partial_notebook_is_kept(notebook, tmp_path):
    ((folder, given),) = jobs(tmp_path, "full disk").items()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # no process writes more than this into a file
    try:
        wrong = cluster.execute(notebook, folder, given, "proof", 120)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert wrong == "OSError: [Errno 27] File too large"
    assert (folder / "failed.ipynb").stat().st_size > 0
    assert not list(folder.glob("running*")) + list(folder.glob("notebook.ipynb"))


# --- B2 -------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("two sweeps at once on the same runs", long=6)
def test_b2_two_sweeps_at_once_do_each_run_once_and_nothing_that_is_finished(address, tmp_path, chance):
    pictures = f"folder:{draw_splits(tmp_path / 'pictures', ('star', 'moon'))}"
    root, quick, long = tmp_path / "runs", tiny("zero-shot", dataset=pictures), tiny("vp", dataset=pictures)
    long = long.changed(seed=chance.randrange(100))
    experiment.run(quick, root)
    done, folder = quick.folder(root), long.folder(root)
    before = {path: path.stat().st_mtime_ns for path in done.iterdir()}
    threads, found = in_threads(2, lambda: runs.sweep([quick, long], root, scheduler=address))
    written: set[int] = set()
    while any(thread.is_alive() for thread in threads):
        written |= {path.stat().st_mtime_ns for path in folder.glob("result.json")}
        time.sleep(0.02)
    (rows, errors), other = found
    assert (rows, errors) == other
    assert ([row["key"] for row in rows], errors) == ([quick.key(), long.key()], {})
    assert {path: path.stat().st_mtime_ns for path in done.iterdir()} == before
    assert len(written) == 1
    assert [path.name for path in folder.glob("*.ipynb")] == ["notebook.ipynb"]


@pytest.mark.fault("a worker killed in a sweep", long=30)
def test_b2_a_killed_worker_is_started_again_its_run_is_done_again_and_the_rest_completes(
    notebook, address, tmp_path, chance
):
    wanted = jobs(tmp_path, "sleep once", "error", "done")
    (thread,), found = in_threads(
        1, lambda: list(cluster.execute_all(notebook, wanted, "proof", scheduler=address))
    )
    kernel = kernel_of(tmp_path / "sleep once")
    time.sleep(chance.uniform(0, 0.2))
    kernel.parent().kill()
    kernel.wait(20)
    thread.join()
    ended = {folder.name: told for folder, told in found[0]}
    assert ended == {"sleep once": None, "error": "ValueError: the sentence", "done": None}
    assert len(found[0]) == 3
    assert [path.name for path in (tmp_path / "sleep once").glob("*.ipynb")] == ["notebook.ipynb"]


# What another process does: a sweep that does not come to its end.
DRIVE = """
if __name__ == "__main__":
    import signal, sys
    from pathlib import Path
    from adavipro.sweeps import cluster

    signal.signal(signal.SIGINT, signal.default_int_handler)
    notebook, folder = sys.argv[1:]
    list(cluster.execute_all(Path(notebook), {Path(folder): {"out": folder, "end": "sleep"}}, "proof", workers=1))
"""


@pytest.mark.fault("a sweep that is interrupted or killed", long=8)
def test_b2_no_kernel_survives_a_sweep_that_is_interrupted_or_killed(notebook, tmp_path, chance):
    script, folders = tmp_path / "drive.py", (tmp_path / "interrupted", tmp_path / "killed")
    script.write_text(DRIVE)
    interrupted, killed = (
        subprocess.Popen(
            [sys.executable, script, notebook, folder], stderr=subprocess.PIPE, text=True, process_group=0
        )
        for folder in folders
    )
    kernels = [kernel_of(folder) for folder in folders]
    below = [p for sweep in (interrupted, killed) for p in psutil.Process(sweep.pid).children(recursive=True)]
    assert all(kernel in below for kernel in kernels)
    time.sleep(chance.uniform(0, 0.2))
    os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does: the workers hear it too
    killed.kill()
    killed.communicate()
    told = interrupted.communicate(timeout=60)[1]
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert told.count("Traceback") == 1
    assert psutil.wait_procs(below, 20)[1] == []


@pytest.mark.fault("nanny or scheduler killed in a sweep", long=8)
def test_b2_a_lost_scheduler_and_lost_workers_end_the_sweep_with_what_is_kept(
    notebook, tmp_path, monkeypatch, chance
):
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.5)
    monkeypatch.setattr(cluster, "POLL_S", 0.2)
    dask = shutil.which("dask", path=Path(sys.executable).parent)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
    own = ["--host", "127.0.0.1", "--no-dashboard"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def work() -> subprocess.Popen[bytes]:
        return subprocess.Popen([dask, "worker", address, *own, "--nthreads", "1"], **quiet)

    def sweep(top: Path) -> Callable[[], Any]:
        wanted = jobs(top, "done", "sleep")
        return lambda: list(cluster.execute_all(notebook, wanted, "proof", scheduler=address))

    scheduler = subprocess.Popen([dask, "scheduler", *own, "--port", address.rpartition(":")[2]], **quiet)
    worker = work()
    try:
        (thread,), found = in_threads(1, sweep(tmp_path / "a"))
        kernel = kernel_of(tmp_path / "a" / "sleep")
        time.sleep(chance.uniform(0, 0.2))
        worker.kill()
        thread.join(20)
        kept = "1 of 2 runs have ended and are kept, start it again for the others"
        assert found == [f"the Dask cluster has had no worker for 0 s: {kept}"]
        worker.wait()
        kernel.wait(20)

        monkeypatch.setattr(
            cluster, "PATIENCE_S", 20
        )  # a scheduler that dies may be seen without workers first
        worker = work()
        (thread,), found = in_threads(1, sweep(tmp_path / "b"))
        kernel = kernel_of(tmp_path / "b" / "sleep")
        scheduler.kill()
        thread.join(60)
        assert found == [f"the Dask scheduler does not answer any more: {kept}"]
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait(20)
    kernel.wait(20)
