"""Kernels that are killed at random, two processes on one notebook, and disks that are really full."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from helpers import write_notebook
from matplotlib.figure import Figure

from adavipro import checkpoints
from adavipro.io import write_json
from adavipro.lessons import figures, series
from adavipro.sweeps import cluster, runs

HERE = Path(__file__)
PARAMETERS = "seed = 0\nruns = None\nout = None"
BEGIN = 'import json, os, pathlib, time\npathlib.Path(out, "kernel").write_text(str(os.getpid()))'
FINISH = (
    'pathlib.Path(out, "result.json").write_text(json.dumps({"key": pathlib.Path(out).name, "numbers": {}}))'
)


@pytest.fixture
def notebook(tmp_path) -> Path:
    """A notebook that takes a second and writes its result last."""
    return write_notebook(tmp_path / "00_slow.ipynb", PARAMETERS, BEGIN, *["time.sleep(0.1)"] * 10, FINISH)


# --- Notebooks ----------------------------------------------------------------------------------------------------


@pytest.mark.fault("a notebook whose kernel is killed", quick=0, long=40)
def test_notebook_whose_kernel_is_killed_at_any_time_is_done_again_once_or_told(notebook, tmp_path, chance):
    folder, waits = tmp_path / "run", [chance.uniform(0, 0.9) for _ in range(chance.randint(1, 2))]

    def kill() -> None:
        killed, end = "", time.monotonic() + 60
        for wait in waits:
            while not (folder / "kernel").exists() or (pid := (folder / "kernel").read_text()) in (
                "",
                killed,
            ):
                assert time.monotonic() < end
                time.sleep(0.005)
            time.sleep(wait)
            psutil.Process(int(pid)).kill()
            killed = pid

    killer = threading.Thread(target=kill)
    killer.start()
    wrong = cluster.execute(notebook, folder, {"out": str(folder)}, "result.json", 60)
    killer.join()
    if len(waits) == 2:
        assert wrong == cluster.KERNEL_DIED
        assert [path.name for path in folder.glob("*.ipynb")] == ["failed.ipynb"]
        wrong = cluster.execute(notebook, folder, {"out": str(folder)}, "result.json", 60)
    assert wrong is None
    assert [path.name for path in folder.glob("*.ipynb")] == ["notebook.ipynb"]


RERUN = """
import sys
from pathlib import Path
from adavipro.lessons import series
notebook, runs = map(Path, sys.argv[1:])
sys.exit(series.rerun(notebook, runs, {})[1])
"""


@pytest.mark.fault("two processes on one notebook of the series", quick=0, long=16)
def test_two_processes_that_run_one_notebook_of_the_series_both_end_well(notebook, tmp_path, chance):
    command = [sys.executable, "-c", RERUN, notebook, tmp_path / "runs"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    time.sleep(chance.uniform(0, 4))
    second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    told = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), told
    (folder,) = (tmp_path / "runs" / "notebooks").iterdir()
    assert series.finished(folder)
    assert [path.name for path in folder.glob("*.ipynb")] == ["notebook.ipynb"]


# --- Disks --------------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, size: int) -> Path:
    checkpoints.save_checkpoint(folder, size, {"x": torch.ones(size // 4)}, {})
    return folder / f"step-{size:08d}.safetensors"


def table(folder: Path, size: int) -> Path:
    runs.write_rows(folder / "table.csv", pd.DataFrame({"x": range(size // 6)}))
    return folder / "table.csv"


def figure(folder: Path, size: int) -> Path:
    drawn = Figure()
    drawn.subplots().plot(range(size // 200), [i * 7 % 10 for i in range(size // 200)])
    return figures.save(drawn, folder / "figure")[0]


def result(folder: Path, size: int) -> Path:
    write_json(folder / "result.json", {"x": list(range(size // 7))})
    return folder / "result.json"


WRITERS = {write.__name__: write for write in (checkpoint, table, figure, result)}
LARGE = 400_000


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.fault("disk full while a checkpoint, table, figure or notebook is written", long=20)
@pytest.mark.parametrize("name", WRITERS)
def test_file_that_cannot_grow_beyond_a_random_size_leaves_the_former(name, tmp_path, chance):
    write = WRITERS[name]
    for folder in ("own", "sample"):
        (tmp_path / folder).mkdir()
    size = write(tmp_path / "sample", LARGE).stat().st_size
    write(tmp_path / "own", 4000)
    before = content(tmp_path / "own")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (chance.randrange(size), hard))
    try:
        with pytest.raises(
            OSError, match=r"could not write .*own/.*; it needs [\d,]+ bytes, [\d,]+ are free"
        ):
            write(tmp_path / "own", LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content(tmp_path / "own") == before


def on_a_full_disk(name: str, disk: Path, left: int) -> None:
    """Write a file, fill the disk but for `left` bytes, and write a larger one; nobody else sees this disk."""
    WRITERS[name](disk, 4000)
    before = content(disk)
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - left)
    with pytest.raises(OSError, match=f"could not write {disk}/.*; it needs") as caught:
        WRITERS[name](disk, LARGE)
    assert caught.value.errno == errno.ENOSPC
    filler.unlink()
    assert content(disk) == before


ALONE = ["unshare", "--mount", "--map-root-user"]  # a disk that no other process sees
MOUNT = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$4" "$1" "$5"'
WRITE = f"""
import pathlib, sys
sys.path[:0] = {[str(HERE.parent), str(HERE.parents[1])]!r}
import test_random_kills
test_random_kills.on_a_full_disk(sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.mark.fault("disk full while a checkpoint, table, figure or notebook is written", quick=0, long=8)
@pytest.mark.parametrize("name", WRITERS)
def test_disk_that_is_full_is_told_and_the_former_file_stays(name, tmp_path, chance):
    disk = tmp_path / "disk"
    disk.mkdir()
    asked = [
        "sh",
        "-c",
        MOUNT,
        "sh",
        disk,
        sys.executable,
        WRITE,
        name,
        str(chance.randrange(0, 16_384, 4096)),  # less than any of the files needs
    ]
    if not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("no disk of one's own can be mounted here")
    done = subprocess.run([*ALONE, *map(str, asked)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
