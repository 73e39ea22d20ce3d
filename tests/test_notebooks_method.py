"""Notebooks 0 to 4 in their smallest mode: every cell runs, marked outputs are the committed ones, numbers hold."""

import subprocess

import nbformat
import pytest
from notebook_checks import passes_nbval, prepared, smallest_run

from adavipro import executing, series


def test_start_here(tmp_path):
    numbers = smallest_run("00_start_here", tmp_path)
    assert numbers["zero_shot"] == pytest.approx(0.409, abs=0.005)
    assert numbers["rows"] > 500


def test_visual_prompts(tmp_path):
    smallest_run("01_visual_prompts", tmp_path)


def test_edges(tmp_path):
    smallest_run("02_edges", tmp_path)


def test_deciding(tmp_path):
    numbers = smallest_run("03_deciding", tmp_path)
    assert numbers["soft_mean_hot"] < 0.3  # of the true gradient: hot, it says little
    assert numbers["soft_mean_cold"] == pytest.approx(1, abs=0.4)
    assert numbers["hard_mean_cold"] > 2
    assert numbers["relu_accuracy"] > 0.85
    assert numbers["linear_accuracy"] == pytest.approx(0.5, abs=0.08)
    assert numbers["common"] < 0.2


def test_training(tmp_path):
    numbers = smallest_run("04_training", tmp_path)
    assert numbers["zero_shot"] == pytest.approx(0.409, abs=0.005)
    assert numbers["adavipro"] > numbers["vp"] + 0.1
    assert 0.2 < numbers["share_on"] < 0.8
    assert numbers["collapsed_share_on"] < 0.05


@pytest.mark.parametrize(
    ("parameter", "value", "told"),
    [
        (
            "prompt_xp",
            3,
            "ParameterError: notebook 04_training has no parameter 'prompt_xp': its parameters are",
        ),
        ("prompt_px", "eight", "ParameterError: prompt_px is 'eight' of type str, but it must be int"),
        (
            "region_px",
            9,
            "ParameterError: region_px is 9, but regions must divide the image of 56 px: choose one",
        ),
    ],
)
def test_a_wrong_parameter_stops_papermill_in_the_second_cell_with_one_sentence(
    parameter, value, told, tmp_path
):
    out = tmp_path / "out.ipynb"
    given = {parameter: value, "runs": str(tmp_path / "runs")}
    command = executing.papermill(series.NOTEBOOKS / "04_training.ipynb", out, given)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(told)
    ran = [c for c in nbformat.read(out, 4).cells if c.cell_type == "code" and c.execution_count]
    assert "pages.begin(" in ran[-1].source
    assert not (tmp_path / "runs").exists()


def test_an_output_that_differs_from_the_committed_one_is_found(tmp_path):
    notebook = prepared("03_deciding", tmp_path)
    content = nbformat.read(notebook, 4)
    marked = [c for c in content.cells if "nbval-check-output" in c.metadata.get("tags", [])]
    marked[0].outputs[0]["text"] = marked[0].outputs[0]["text"].replace("16,610", "16,611")
    content.cells = content.cells[: content.cells.index(marked[0]) + 1]
    nbformat.write(content, notebook)
    assert "16,611" in passes_nbval(notebook)
