"""Notebooks 0 to 4 and 12 in their smallest mode: cells run, marked outputs are the committed ones, numbers hold."""

import shutil
import subprocess
import sys

import nbformat
import pytest
from helpers import write_notebook
from notebook_checks import passes_nbval, smallest_run

from adavipro.lessons import series


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


def test_tables_and_machines(tmp_path, runs):
    """Where VP and AdaViPro are finished, as notebook 4 leaves them; zero-shot and a run that fails are swept."""
    own = tmp_path / "runs"
    for result in runs.glob("sketches-*-28px-seed0-*/result.json"):
        shutil.copytree(result.parent, own / result.parent.name)
    numbers = smallest_run("12_tables_and_machines", tmp_path, own)
    assert numbers["zero_shot"] == pytest.approx(43.0, abs=0.05)  # the shipped result
    assert numbers["adavipro"] > numbers["vp"] + 10
    assert (numbers["runs"], numbers["failed"]) == (3, 1)
    assert numbers["least_steps"] == numbers["steps"] == 32
    assert (numbers["table1_runs"], numbers["table1_ours"]) == (99, 0)


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
    notebook = write_notebook(tmp_path / "two.ipynb", "two = 2", "print(two)")
    content = nbformat.read(notebook, 4)
    content.cells[1].update(execution_count=2, metadata={"tags": ["nbval-check-output"]})
    for printed, told in (("2\n", ""), ("three\n", "three")):
        content.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed)]
        nbformat.write(content, notebook)
        found = passes_nbval(notebook)
        assert bool(found) == bool(told)
        assert told in found
