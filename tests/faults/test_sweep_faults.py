"""Faults B1 and B2: a notebook that ends badly is told as failed, and a sweep that is hit anywhere loses nothing."""

import csv
import json
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

import nbformat
import psutil
import pytest
from helpers import draw_splits, tiny, write_notebook

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
    "killed kernel": "DeadKernelError: Kernel died",
    "timeout": "stopped after 10 s",
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


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_notebook(tmp_path_factory.mktemp("notebook") / "ending.ipynb", PARAMETERS, ENDING)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two workers for all that can share one."""
    with cluster.cluster([{"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": gpu} for gpu in "56"]) as started:
        yield started


# --- B1 -------------------------------------------------------------------------------------------------------------


def test_b1_each_end_of_a_notebook_is_told_and_what_there_is_is_kept(notebook, address, tmp_path):
    found = dict(cluster.execute_all(notebook, jobs(tmp_path, *B1), "proof", scheduler=address, limit_s=10))
    assert {folder.name: told for folder, told in found.items()} == B1
    for folder in found:
        kept = {"done": "notebook.ipynb", "killed worker": "running.ipynb"}.get(folder.name, "failed.ipynb")
        assert [(folder.name, path.name) for path in folder.glob("*.ipynb")] == [(folder.name, kept)]
        assert "so far" in str(nbformat.read(folder / kept, 4)) or folder.name == "killed worker"
    environment = eval((tmp_path / "done" / "proof").read_text())
    assert environment["CUDA_VISIBLE_DEVICES"] in "56"
    assert environment | {"CUDA_VISIBLE_DEVICES": "5"} == {
        "OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "5", "MALLOC_TRIM_THRESHOLD_": None, "PWD": os.environ["PWD"],
    }  # fmt: skip


def test_b1_unknown_parameter_is_refused_before_any_work(tmp_path):
    given = {"wrok": "report", "root": str(tmp_path)}
    wrong = cluster.execute(runs.NOTEBOOK, tmp_path / "run", given, "result.json", 120)
    assert "notebook run has no parameter 'wrok': its parameters are work, settings, root" in str(wrong)
    assert {path.name for path in tmp_path.rglob("*.*")} == {"failed.ipynb", "notebook.lock"}


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


# What another process does: a sweep of real runs, or of the notebook that sleeps.
DRIVE = """
if __name__ == "__main__":
    import json, signal, sys
    from pathlib import Path
    from adavipro.sweeps import cluster

    signal.signal(signal.SIGINT, signal.default_int_handler)
    notebook, jobs, proof = json.loads(sys.argv[1])
    print(dict(cluster.execute_all(Path(notebook), {Path(k): v for k, v in jobs.items()}, proof, workers=2)))
"""


def drive(
    notebook: Path, wanted: dict[Path, dict[str, str]], proof: str, script: Path
) -> subprocess.Popen[str]:
    script.write_text(DRIVE)
    told = json.dumps([str(notebook), {str(folder): given for folder, given in wanted.items()}, proof])
    return subprocess.Popen([sys.executable, script, told], stderr=subprocess.PIPE, text=True)


def test_b2_a_killed_sweep_leaves_no_kernel_and_two_at_once_go_on_and_do_each_run_once(
    notebook, address, tmp_path
):
    pictures = f"folder:{draw_splits(tmp_path / 'pictures', ('star', 'moon'))}"
    root, quick, long = (
        tmp_path / "runs",
        tiny("zero-shot", dataset=pictures),
        tiny("vp", dataset=pictures, epochs=100),
    )
    todo = {
        run.folder(root): {
            "work": "report",
            "settings": json.dumps(run.content()),
            "root": str(root),
            "device": "cpu",
        }
        for run in (quick, long)
    }
    done, folder = todo
    killed = drive(runs.NOTEBOOK, todo, "result.json", tmp_path / "killed.py")
    interrupted = drive(notebook, jobs(tmp_path, "sleep"), "proof", tmp_path / "interrupted.py")
    kernel = kernel_of(tmp_path / "sleep")
    below = psutil.Process(interrupted.pid).children(recursive=True)
    interrupted.send_signal(signal.SIGINT)
    wait_until(lambda: (done / "notebook.ipynb").exists() and list((folder / "checkpoints").glob("*")))
    below += psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.communicate()
    assert interrupted.communicate(timeout=60)[1].rstrip().endswith("KeyboardInterrupt")
    assert kernel in below
    assert psutil.wait_procs(below, 20)[1] == []
    assert not (folder / "result.json").exists()
    assert not list(root.rglob("failed.*"))

    before = {path: path.stat().st_mtime_ns for path in done.iterdir()}
    threads, found = in_threads(2, lambda: runs.sweep([quick, long], "report", root, scheduler=address))
    written: set[int] = set()
    while any(thread.is_alive() for thread in threads):
        written |= {path.stat().st_mtime_ns for path in folder.glob("result.json")}
        time.sleep(0.02)
    (rows, errors), other = found
    assert (rows, errors) == other
    assert ([row["key"] for row in rows], errors) == ([quick.key(), long.key()], {})
    assert {path: path.stat().st_mtime_ns for path in done.iterdir()} == before
    assert len(written) == 1
    with (folder / "metrics.csv").open() as file:  # every epoch once, the last ones after the stop
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(100))
    assert json.loads((folder / "timing.json").read_text())["seconds"] is None
    assert {path.name for path in folder.glob("*.ipynb")} == {"notebook.ipynb"}


def test_b2_a_killed_worker_is_started_again_and_its_run_is_done_again(notebook, address, tmp_path):
    wanted = jobs(tmp_path, "sleep once", "error", "done")
    (thread,), found = in_threads(
        1, lambda: list(cluster.execute_all(notebook, wanted, "proof", scheduler=address))
    )
    kernel = kernel_of(tmp_path / "sleep once")
    kernel.parent().kill()
    kernel.wait(20)
    thread.join()
    ended = {folder.name: told for folder, told in found[0]}
    assert ended == {"sleep once": None, "error": "ValueError: the sentence", "done": None}
    assert len(found[0]) == 3


def test_b2_a_lost_scheduler_and_lost_workers_end_the_sweep_with_what_is_kept(
    notebook, tmp_path, monkeypatch
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
        worker.kill()
        thread.join(20)
        kept = "1 of 2 runs have ended and are kept, start it again for the others"
        assert found == [f"the Dask cluster has had no worker for 0 s: {kept}"]
        worker.wait()
        kernel.wait(20)

        worker = work()
        (thread,), found = in_threads(1, sweep(tmp_path / "b"))
        kernel = kernel_of(tmp_path / "b" / "sleep")
        scheduler.kill()
        thread.join(20)
        assert found == [f"the Dask scheduler does not answer any more: {kept}"]
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait(20)
    kernel.wait(20)
