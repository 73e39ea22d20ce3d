"""One papermill process on small notebooks: what is done, and that no run outlives who asked for it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from helpers import write_notebook

from adavipro import executing

PARAMETERS = "out = None\nword = ''"
PROVE = "import pathlib\npathlib.Path(out, 'proof').write_text(str(pathlib.Path.cwd()))"
# As training does: what came so far is saved where the kernel is interrupted.
WORK = """
import os, pathlib, time
(pathlib.Path(out) / "kernel").write_text(str(os.getpid()))
try:
    time.sleep(600)
finally:
    (pathlib.Path(out) / "saved").touch()
"""
DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"


def ask(folder: Path, *cells: str, **how) -> str | None:
    notebook = write_notebook(folder.parent / "asked.ipynb", PARAMETERS, *cells)
    return executing.execute(notebook, folder, {"out": str(folder), "word": "5"}, "proof", **how)


def wait_for(path: Path, seconds: float = 30) -> str:
    end = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < end, f"{path.name} did not come"
        time.sleep(0.05)
    return path.read_text()


def assert_gone(kernel: int) -> None:
    if psutil.pid_exists(kernel):
        psutil.Process(kernel).wait(10)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_done_lies_in_its_place_with_its_parameters(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert ask(tmp_path / "run", PROVE, cwd=elsewhere) is None
    assert left(tmp_path / "run") == ["notebook.ipynb", "proof"]
    assert (tmp_path / "run" / "proof").read_text() == str(elsewhere)
    cells = nbformat.read(tmp_path / "run" / "notebook.ipynb", 4).cells
    assert 'word = "5"' in "".join(cell.source for cell in cells)


def test_a_run_keeps_its_memory_where_a_worker_gives_it_back_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    assert (
        ask(tmp_path / "run", "import os\nassert 'MALLOC_TRIM_THRESHOLD_' not in os.environ", PROVE) is None
    )


def test_a_run_that_is_no_longer_wanted_is_interrupted_and_saves(tmp_path):
    run, wanted = tmp_path / "run", tmp_path / "wanted"
    wanted.touch()

    def end() -> None:
        wait_for(run / "kernel")
        wanted.unlink()

    ending = threading.Thread(target=end)
    ending.start()
    assert ask(run, WORK, PROVE, wanted=wanted) == "stopped before its end"
    ending.join()
    assert left(run) == ["failed.ipynb", "kernel", "saved"]
    assert_gone(int((run / "kernel").read_text()))


def test_a_run_ends_when_who_asked_for_it_is_killed(tmp_path):
    run, notebook = tmp_path / "run", write_notebook(tmp_path / "asked.ipynb", PARAMETERS, WORK, PROVE)
    asking = f"""
import pathlib
from adavipro import executing
run = pathlib.Path({str(run)!r})
executing.execute(pathlib.Path({str(notebook)!r}), run, {{"out": str(run)}}, "proof")
"""
    parent = subprocess.Popen([sys.executable, "-c", asking])
    kernel = int(wait_for(run / "kernel"))
    parent.kill()
    parent.wait()
    wait_for(run / "failed.ipynb")
    assert left(run) == ["failed.ipynb", "kernel", "saved"]
    assert_gone(kernel)


def test_a_run_that_does_not_hear_is_killed_after_the_grace(tmp_path):
    run, notebook = tmp_path / "run", write_notebook(tmp_path / "asked.ipynb", PARAMETERS, DEAF + WORK)
    run.mkdir()
    command = executing.papermill(notebook, run / "running.ipynb", {"out": str(run)})
    hasty = "import sys\nfrom adavipro import executing\nexecuting.GRACE_S = 1\nsys.exit(executing.main(sys.argv[1:]))"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", hasty, "none", "proof", str(run / "running.ipynb"), *command],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    kernel = int(wait_for(run / "kernel"))
    _, told = supervisor.communicate()  # closes stdin
    assert (supervisor.returncode, told.splitlines()[-1]) == (1, "stopped before its end")
    assert left(run) == ["failed.ipynb", "kernel"]
    assert_gone(kernel)


def test_ctrl_c_stops_the_run_and_goes_on_to_the_caller(tmp_path):
    run = tmp_path / "run"

    def interrupt() -> None:
        wait_for(run / "kernel")
        os.kill(os.getpid(), signal.SIGINT)

    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            ask(run, WORK, PROVE)
    finally:
        signal.signal(signal.SIGINT, former)
        interrupting.join()
    assert left(run) == ["failed.ipynb", "kernel", "saved"]
