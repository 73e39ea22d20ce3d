"""Notebooks 11 and 12 in their smallest mode: every cell runs, marked outputs are the committed ones, numbers hold."""

import pytest
from notebook_checks import smallest_run


def test_any_classifier(tmp_path):
    numbers = smallest_run("11_any_classifier", tmp_path, tmp_path / "runs")
    assert numbers["source_accuracy"] > 0.2  # of 54 classes; a guess has 0.02
    assert numbers["identity_zero_shot"] < 0.15
    assert numbers["frequency_zero_shot"] > numbers["identity_zero_shot"] + 0.08
    assert numbers["iterative_zero_shot"] == numbers["frequency_zero_shot"]  # no prompt: the same mapping
    assert numbers["frequency_vp"] == pytest.approx(numbers["frequency_zero_shot"], abs=0.05)


def test_tables_and_machines(tmp_path):
    numbers = smallest_run("12_tables_and_machines", tmp_path, tmp_path / "runs")
    assert numbers["zero_shot"] == pytest.approx(43.0, abs=0.05)  # the shipped result
    assert numbers["adavipro"] > numbers["vp"] + 10
    assert (numbers["runs"], numbers["failed"]) == (3, 1)
    assert numbers["least_steps"] == numbers["steps"] == 32
    assert (numbers["table1_runs"], numbers["table1_ours"]) == (99, 0)
