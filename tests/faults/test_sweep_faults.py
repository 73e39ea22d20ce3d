"""Faults B1 and B2: a notebook that ends badly is told as failed, and a sweep that is hit anywhere loses nothing."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from helpers import draw_splits, tiny, write_notebook

from adavipro import baselines, executing, experiment, files, sheets, sweeps
from adavipro.experiment import Experiment

PARAMETERS = "out = None"
PROVE = "import pathlib\npathlib.Path(out, 'proof').touch()"
B1 = {
    "error": ("raise ValueError('the sentence')", "ValueError: the sentence"),
    "killed kernel": ("import os; os.kill(os.getpid(), 9)", "died"),
    "timeout": ("import time; time.sleep(600)", "stopped after 8 s"),
    "exit": ("import sys; sys.exit(0)", "ended without a result: its kernel died, or a cell left it"),
}


@pytest.mark.parametrize("end", B1)
def test_b1_notebook_that_ends_badly_has_failed_and_what_there_is_is_kept(end, tmp_path):
    code, told = B1[end]
    run, notebook = (
        tmp_path / "run",
        write_notebook(tmp_path / "a.ipynb", PARAMETERS, "print('so far')", code, PROVE),
    )
    limit_s = 8 if end == "timeout" else 120
    assert told in str(executing.execute(notebook, run, {"out": str(run)}, "proof", limit_s))
    assert [path.name for path in run.iterdir()] == ["failed.ipynb"]
    assert "so far" in str(nbformat.read(run / "failed.ipynb", 4))


def test_b1_unknown_parameter_is_refused_before_any_work(tmp_path):
    given = {"kidn": "report", "runs": str(tmp_path)}
    wrong = executing.execute(sheets.NOTEBOOK, tmp_path / "run", given, "result.json", 120)
    assert "notebook run has no parameter 'kidn': its parameters are kind, settings, runs" in str(wrong)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "failed.ipynb"]


def test_b1_full_disk_is_a_failure_and_the_partial_notebook_is_kept(tmp_path):
    run, notebook = (
        tmp_path / "run",
        write_notebook(tmp_path / "a.ipynb", PARAMETERS, "print(100_000 * 'x')", PROVE),
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # no process writes more than this into a file
    try:
        wrong = executing.execute(notebook, run, {"out": str(run)}, "proof", 120)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert wrong == "OSError: [Errno 27] File too large"
    assert {path.name for path in run.iterdir()} <= {"failed.ipynb", "proof"}
    assert (run / "failed.ipynb").stat().st_size > 0


# --- B2 ---------------------------------------------------------------------------------------------------------------


def saved(run: Experiment, root: Path) -> list[Path]:
    return list((run.folder(root) / "checkpoints").glob("*.json"))


def wait_until(holds: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def supervisor_of(run: Experiment, root: Path) -> psutil.Process:
    """The process between a Dask worker and papermill."""
    name = run.folder(root).name
    below = psutil.Process().children(recursive=True)
    (found,) = [p for p in below if "adavipro.executing" in p.cmdline() and name in " ".join(p.cmdline())]
    return found


def assert_whole(run: Experiment, root: Path) -> None:
    """Every epoch was trained once, the last ones after a stop."""
    with (run.folder(root) / "metrics.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(run.epochs))
    assert json.loads((run.folder(root) / "timing.json").read_text())["seconds"] is None  # it was resumed
    assert (run.folder(root) / "notebook.ipynb").exists()


def in_threads(*runs: sheets.Run, root: Path, count: int) -> tuple[list[threading.Thread], list[Any]]:
    """Start sweeps of the same runs, side by side."""
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(sweeps.sweep(runs, "report", root)))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads, found


def test_b2_killed_worker_is_started_again_and_its_run_goes_on(tmp_path):
    root = tmp_path / "runs"
    run = tiny("vp", dataset=f"folder:{draw_splits(tmp_path / 'pictures')}", epochs=100)
    (thread,), found = in_threads(run, root=root, count=1)
    wait_until(lambda: saved(run, root))
    supervisor = supervisor_of(run, root)
    supervisor.parent().kill()
    supervisor.wait(30)  # its run has stopped after a step
    assert experiment.read_result(run, root) is None
    thread.join()
    ((rows, errors),) = found
    assert ([row["key"] for row in rows], errors) == ([run.key()], {})
    assert_whole(run, root)
    assert not (run.folder(root) / "failed.ipynb").exists()


def test_b2_interrupted_sweep_saves_and_two_at_once_go_on_and_do_each_run_once(tmp_path):
    root, pictures = tmp_path / "runs", f"folder:{draw_splits(tmp_path / 'pictures')}"
    run = tiny("vp", dataset=pictures, epochs=100)
    driving = f"""
if __name__ == "__main__":
    import signal
    from pathlib import Path
    from helpers import tiny
    from adavipro import sweeps

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sweeps.sweep([tiny("vp", dataset={pictures!r}, epochs=100)], "report", Path({str(root)!r}))
"""
    script = tmp_path / "drive.py"
    script.write_text(driving)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    driver = subprocess.Popen(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: saved(run, root))
    below = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGINT)
    _, told = driver.communicate(timeout=60)
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert psutil.wait_procs(below, 30)[1] == []
    assert experiment.read_result(run, root) is None
    assert not list(root.glob(".wanted-*"))
    assert not list(root.rglob("failed.json"))

    threads, found = in_threads(run, root=root, count=2)
    written: set[int] = set()
    while any(thread.is_alive() for thread in threads):
        written |= {path.stat().st_mtime_ns for path in root.glob("*/result.json")}
        time.sleep(0.02)
    (rows, errors), other = found
    assert (rows, errors) == other
    assert ([row["key"] for row in rows], errors) == ([run.key()], {})
    assert len(written) == 1
    assert_whole(run, root)


def test_b2_baseline_that_another_process_learns_is_waited_for_and_read(tmp_path, monkeypatch):
    wanted = baselines.Baseline("letters", "linear-probe")
    monkeypatch.setattr(baselines, "_learn", None)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(baselines.run(wanted, tmp_path)))
    with files.locked(wanted.folder(tmp_path) / "lock"):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        files.write_json(wanted.folder(tmp_path) / "result.json", {"key": wanted.key(), "test_accuracy": 0.5})
    thread.join()
    assert found == [{"key": wanted.key(), "test_accuracy": 0.5}]
