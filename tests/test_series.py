"""The series runner on small notebooks of its own: what is finished, what failed, what is kept."""

import json
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
    changed = write(tmp_path, "00_fine", FINISH, "pass")
    assert series.key(changed, {"seed": 3}) not in folder.name
    (folder / "result.json").write_text("{}")
    assert not series.finished(folder)


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
    assert error
    assert (folder / "result.json").exists()
    assert not series.finished(folder)


def test_data_that_ship_are_part_of_the_key(tmp_path, monkeypatch):
    notebook = write(tmp_path, "00_fine", FINISH)
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setattr(series, "data_folder", lambda: data)
    (data / "results.csv").write_text("1")
    before = series.key(notebook, {})
    (data / "results.csv").write_text("2")
    assert series.key(notebook, {}) != before
