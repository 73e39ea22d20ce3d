"""The series runner on small notebooks of its own: what is finished, what failed, what is kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import write_notebook

from adavipro.lessons import series

PARAMETERS = "seed = 0\nruns = None\nout = None"
FINISH = """
import json, pathlib
folder = pathlib.Path(out)
with open(pathlib.Path(runs) / "log", "a") as log:
    log.write("x")
(folder / "result.json").write_text(json.dumps({"key": folder.name, "numbers": {"seed": seed}, "seconds": 0}))
"""


def write(folder: Path, name: str, *cells: str) -> Path:
    return write_notebook(folder / f"{name}.ipynb", PARAMETERS, *cells)


def test_a_finished_notebook_is_kept_and_a_changed_one_runs_again(tmp_path):
    notebook, log = write(tmp_path, "00_fine", FINISH), tmp_path / "runs" / "log"
    folder, error = series.rerun(notebook, tmp_path / "runs", {"seed": 3})
    assert error is None
    assert json.loads((folder / "result.json").read_text())["numbers"] == {"seed": 3}
    executed = nbformat.read(folder / "notebook.ipynb", 4)
    assert "seed = 3" in "".join(c.source for c in executed.cells)
    assert series.rerun(notebook, tmp_path / "runs", {"seed": 3}) == (folder, None)
    assert log.read_text() == "x"
    for damaged in (b"{}", b"[]", b"null", b"", b"\xff", b"\0", b"[" * 100_000):
        (folder / "result.json").write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"result\.json is damaged and counts as not there: "):
            assert not series.finished(folder)
    with pytest.warns(UserWarning, match=r"result\.json is damaged"):
        assert series.rerun(notebook, tmp_path / "runs", {"seed": 3}) == (folder, None)
    assert series.finished(folder)
    assert log.read_text() == "xx"
    changed = write(tmp_path, "00_fine", FINISH, "pass")
    assert series.key(changed, {"seed": 3}) not in folder.name


def test_outputs_do_not_change_a_notebooks_key(tmp_path):
    notebook = write(tmp_path, "00_fine", FINISH)
    before = series.key(notebook, {})
    content = nbformat.read(notebook, 4)
    content.cells[1].outputs = [nbformat.v4.new_output("stream", text="told")]
    nbformat.write(content, notebook)
    assert series.key(notebook, {}) == before


def test_an_end_without_a_result_is_a_failure_and_what_there_is_stays(tmp_path):
    notebook = write(tmp_path, "00_bad", "print('so far')", "import sys; sys.exit(0)", FINISH)
    folder, error = series.rerun(notebook, tmp_path / "runs", {})
    assert "ended without result.json" in str(error)
    assert not series.finished(folder)
    assert "so far" in (folder / "failed.ipynb").read_text()
    assert not (folder / "notebook.ipynb").exists()


def test_one_that_fails_does_not_stop_the_others(tmp_path):
    notebooks = [write(tmp_path, "00_bad", "raise ValueError('no')"), write(tmp_path, "01_fine", FINISH)]
    (bad, error), (fine, none) = series.reproduce(tmp_path / "runs", notebooks).items()
    assert (bad.name[:7], error) == ("00_bad-", "ValueError: no")
    assert (fine.name[:8], none) == ("01_fine-", None)
    assert json.loads((fine / "result.json").read_text())["numbers"] == {"seed": 0}


def test_the_series_is_in_order_and_a_wheel_without_notebooks_says_so(monkeypatch, tmp_path):
    numbers = [path.name[:2] for path in series.series()]
    assert numbers == [f"{i:02d}" for i in range(12)]
    assert [path.name[:2] for path in series.series(["05", "02"])] == ["05", "02"]
    with pytest.raises(ValueError, match="there is no notebook '5': the numbers are 00, 01, 02"):
        series.series(["5"])
    monkeypatch.setattr(series, "NOTEBOOKS", tmp_path)
    with pytest.raises(
        ValueError, match=r"there are no notebooks in .*: run this in a checkout of the project"
    ):
        series.series()


def test_a_kernel_that_was_killed_after_the_result_is_a_failure(tmp_path):
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    notebook = write(tmp_path, "00_late", FINISH, kill)
    folder, error = series.rerun(notebook, tmp_path / "runs", {})
    assert error == "its kernel died: it was killed, or memory ran out"
    assert (folder / "result.json").exists()
    assert not series.finished(folder)
    assert (tmp_path / "runs" / "log").read_text() == "xx"  # it was tried twice


def test_a_kernel_that_was_killed_once_is_started_again(tmp_path):
    kill = """
import os, pathlib, signal
begun = pathlib.Path(out, "begun")
if not begun.exists():
    begun.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    folder, error = series.rerun(write(tmp_path, "00_fine", kill, FINISH), tmp_path / "runs", {})
    assert error is None
    assert series.finished(folder)
    assert not (folder / "failed.ipynb").exists()


def test_a_folder_that_is_not_named_in_utf8_is_one_sentence(tmp_path):
    runs = tmp_path / os.fsdecode(b"caf\xe9")
    folder, error = series.rerun(write(tmp_path, "00_fine", FINISH), runs, {})
    assert error == f"the folder {os.fsencode(folder)!r} is not named in UTF-8: give another one, by --root"
    assert not list(folder.glob("*.ipynb"))


# What another process does: it reproduces a notebook at the same time.
DRIVE = """
import sys
from pathlib import Path
from adavipro.lessons import series
print(series.rerun(Path(sys.argv[1]), Path(sys.argv[2]), {}))
"""


def test_of_two_processes_one_waits_and_takes_what_the_other_has_finished(tmp_path):
    notebook, runs = write(tmp_path, "00_slow", "import time; time.sleep(2)", FINISH), tmp_path / "runs"
    command = [sys.executable, "-c", DRIVE, notebook, runs]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[0] for process in both]
    folder = runs / "notebooks" / f"00_slow-{series.key(notebook, {})}"
    assert told == 2 * [f"{(folder, None)}\n"]
    assert (runs / "log").read_text() == "x"
    assert series.finished(folder)


def test_data_that_ship_are_part_of_the_key(tmp_path, monkeypatch):
    notebook = write(tmp_path, "00_fine", FINISH)
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setattr(series, "data_folder", lambda: data)
    (data / "results.csv").write_text("1")
    before = series.key(notebook, {})
    (data / "results.csv").write_text("2")
    assert series.key(notebook, {}) != before
