"""Notebooks 0 to 4 in their smallest mode: every cell runs, marked outputs are the committed ones, numbers hold."""

import subprocess
import sys

import nbformat
import pytest
from notebook_checks import passes_nbval, prepared, smallest_run

from adavipro.lessons import series


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs that one notebook leaves to the next."""
    return tmp_path_factory.mktemp("runs")


def test_start_here(tmp_path, runs):
    numbers = smallest_run("00_start_here", tmp_path, runs)
    assert numbers["zero_shot"] == pytest.approx(0.430, abs=0.005)  # the shipped result
    assert numbers["adavipro"] > 0.2  # an epoch of five; a guess has 0.03
    assert numbers["rows"] > 150


def test_visual_prompts(tmp_path, runs):
    smallest_run("01_visual_prompts", tmp_path, runs)


def test_edges(tmp_path, runs):
    smallest_run("02_edges", tmp_path, runs)


def test_deciding(tmp_path, runs):
    numbers = smallest_run("03_deciding", tmp_path, runs)
    assert numbers["soft_mean_hot"] < 0.3  # of the true gradient: hot, it says little
    assert numbers["soft_mean_cold"] == pytest.approx(1, abs=0.4)
    assert numbers["hard_mean_cold"] > 2
    assert numbers["relu_accuracy"] > 0.85
    assert numbers["linear_accuracy"] == pytest.approx(0.5, abs=0.08)
    assert numbers["common"] < 0.2


def test_training(tmp_path, runs):
    numbers = smallest_run("04_training", tmp_path, runs)
    assert numbers["zero_shot"] == pytest.approx(0.430, abs=0.005)
    assert numbers["adavipro"] > numbers["vp"] + 0.1
    assert numbers["kit"] == pytest.approx(numbers["adavipro"], abs=0.02)  # other rounding, one epoch
    assert 0.2 < numbers["share_on"] < 0.8
    assert 0.1 < numbers["flips_first"] < 0.4  # the noise reaches the decisions
    assert numbers["soft_first"] > 0.95
    assert numbers["collapsed_share_on"] < 0.05


def test_a_wrong_parameter_stops_papermill_in_the_second_cell_with_one_sentence(tmp_path):
    out, runs = tmp_path / "out.ipynb", tmp_path / "runs"
    given = ["-k", "python3", "-p", "prompt_xp", "3", "-r", "runs", str(runs)]
    command = [sys.executable, "-m", "papermill", *given, series.NOTEBOOKS / "04_training.ipynb", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    told = "ParameterError: notebook 04_training has no parameter 'prompt_xp': its parameters are dataset, "
    assert done.stderr.strip().splitlines()[-1].startswith(told)
    ran = [c for c in nbformat.read(out, 4).cells if c.cell_type == "code" and c.execution_count]
    assert "pages.begin(" in ran[-1].source
    assert not runs.exists()


def test_an_output_that_differs_from_the_committed_one_is_found(tmp_path):
    notebook = prepared("02_edges", tmp_path, tmp_path)
    content = nbformat.read(notebook, 4)
    marked = [c for c in content.cells if "nbval-check-output" in c.metadata.get("tags", [])]
    marked[0].outputs[0]["text"] = marked[0].outputs[0]["text"].replace("[1, 1, 1", "[1, 1, 2")
    content.cells = marked[:1]
    nbformat.write(content, notebook)
    assert "[1, 1, 2" in passes_nbval(notebook)
