"""Notebooks 5 to 9 in their smallest mode: every cell runs, marked outputs are the committed ones, numbers hold."""

import pytest
from notebook_checks import smallest_run

from adavipro import tables


def test_accuracy_and_width(tmp_path):
    numbers = smallest_run("05_accuracy_and_width", tmp_path)
    shipped = {
        (r["method"], r["prompt_px"]): float(r["mean"])
        for r in tables.summarise(tables.with_mean(tables.of_studies(tables.read_results(), "main")))
        if r["dataset"] == tables.MEAN
    }
    assert numbers["zero_shot_mean"] == shipped["zero-shot", ""]
    assert numbers["vp_full_mean"] == shipped["vp", "28"]
    assert numbers["adavipro_full_mean"] == shipped["adavipro", "28"]
    assert numbers["adavipro_rerun"] > 40  # an epoch of five, on sketches at 15 px


def test_what_it_looks_like(tmp_path):
    numbers = smallest_run("06_what_it_looks_like", tmp_path)
    assert numbers["vp_object_cover"] == pytest.approx(
        0.516, abs=0.01
    )  # of the drawn objects: no training in it
    assert numbers["object_cover"] < 0.7 * numbers["vp_object_cover"]
    assert 0.3 < numbers["share_on"] < 0.95


def test_price(tmp_path):
    numbers = smallest_run("07_price", tmp_path)
    (shipped,) = (
        float(r["test_accuracy"])
        for r in tables.read_rows(tables.BASELINES)
        if (r["dataset"], r["method"]) == ("digits", "linear-probe")
    )
    assert numbers["linear_probe"] == pytest.approx(shipped, abs=0.02)
    assert numbers["linear_probe"] > numbers["zero_shot"] + 0.2


def test_ablations(tmp_path):
    numbers = smallest_run("08_ablations", tmp_path)
    assert numbers["without_edges"] == pytest.approx(-6.3, abs=0.05)  # of the shipped results
    assert (numbers["sure"], numbers["compared"]) == (5, 14)


def test_your_images(tmp_path):
    numbers = smallest_run("09_your_images", tmp_path)
    assert (numbers["classes"], numbers["images"] > 300) == (6, True)
    assert numbers["test_accuracy_adavipro"] > numbers["test_accuracy_vp"]


def test_any_classifier(tmp_path):
    numbers = smallest_run("10_any_classifier", tmp_path)
    assert numbers["source_accuracy"] > 0.2  # of 54 classes; a guess has 0.02
    assert numbers["identity_zero_shot"] < 0.15
    assert numbers["frequency_zero_shot"] > numbers["identity_zero_shot"] + 0.08
    assert numbers["iterative_zero_shot"] == numbers["frequency_zero_shot"]  # no prompt: the same mapping
    assert numbers["frequency_vp"] == pytest.approx(numbers["frequency_zero_shot"], abs=0.05)


def test_tables_and_machines(tmp_path):
    numbers = smallest_run("11_tables_and_machines", tmp_path)
    (shipped,) = (
        float(r["test_accuracy"])
        for r in tables.of_studies(tables.read_results(), "main")
        if (r["dataset"], r["method"]) == ("sketches", "zero-shot")
    )
    assert numbers["zero_shot"] == pytest.approx(100 * shipped, abs=0.05)
    assert numbers["adavipro"] > numbers["vp"] + 20
    assert (numbers["runs"], numbers["failed"], numbers["killed"]) == (3, 1, 1)
    assert numbers["least_steps"] == numbers["steps"] == 32  # the killed run's too
    assert (numbers["table1_runs"], numbers["table1_ours"]) == (99, 0)
