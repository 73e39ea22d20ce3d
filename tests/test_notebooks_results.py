"""Notebooks 5 to 11 in their smallest mode: every cell runs, marked outputs are the committed ones, numbers hold."""

import pytest
from notebook_checks import smallest_run


def test_accuracy_and_width(tmp_path, runs):
    numbers = smallest_run("05_accuracy_and_width", tmp_path, runs)
    assert numbers["zero_shot_mean"] == pytest.approx(53.75, abs=0.1)  # of the shipped results
    assert numbers["vp_full_mean"] == pytest.approx(56.4, abs=0.1)
    assert numbers["adavipro_full_mean"] == pytest.approx(64.0, abs=0.1)
    assert numbers["adavipro_rerun"] > 30  # an epoch of twenty, on sketches at 15 px


def test_what_it_looks_like(tmp_path, runs):
    numbers = smallest_run("06_what_it_looks_like", tmp_path, runs)
    assert numbers["vp_object_cover"] == pytest.approx(0.516, abs=0.01)  # of what is drawn, not of training
    assert numbers["object_cover"] < 0.7 * numbers["vp_object_cover"]
    assert 0.3 < numbers["share_on"] < 0.95


def test_price(tmp_path, runs):
    numbers = smallest_run("07_price", tmp_path, runs)
    assert numbers["linear_probe"] == pytest.approx(0.861, abs=0.02)  # the shipped result
    assert numbers["linear_probe"] > numbers["zero_shot"] + 0.2


def test_ablations(tmp_path, runs):
    numbers = smallest_run("08_ablations", tmp_path, runs)
    assert numbers["without_edges"] == pytest.approx(1.9, abs=0.05)  # of the shipped results
    assert (numbers["sure"], numbers["compared"]) == (8, 13)


def test_is_it_real(tmp_path, runs):
    numbers = smallest_run("09_is_it_real", tmp_path, runs)
    assert numbers["true_masks"] > numbers["vp"] + 0.05  # an epoch of twenty, at full cover
    assert numbers["lead_20"] == pytest.approx(7.8, abs=0.1)  # of the shipped results


def test_your_images(tmp_path, runs):
    numbers = smallest_run("10_your_images", tmp_path, runs)
    assert (numbers["classes"], numbers["images"]) == (2, 60)
    assert numbers["test_accuracy_linear_probe"] > 0.6  # of 20 images to learn from; a guess has 0.5


def test_any_classifier(tmp_path, runs):
    numbers = smallest_run("11_any_classifier", tmp_path, runs)
    assert numbers["source_accuracy"] > 0.2  # of 54 classes; a guess has 0.02
    assert numbers["identity_zero_shot"] < 0.15
    assert numbers["frequency_zero_shot"] > numbers["identity_zero_shot"] + 0.08
    assert numbers["iterative_zero_shot"] == numbers["frequency_zero_shot"]  # no prompt: the same mapping
    assert numbers["frequency_vp"] == pytest.approx(numbers["frequency_zero_shot"], abs=0.05)
