import csv
import json

import pytest
from helpers import fail_by_seed, tiny

from adavipro import datasets, presets, sweeps

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")


def test_grid_goes_seed_by_seed_after_one_zero_shot_run_a_data_set():
    runs = sweeps.grid(["digits", "letters"], ["zero-shot", "vp", "adavipro"], [8, 28], [5, 6])
    assert [(r.method, r.dataset) for r in runs[:2]] == [("zero-shot", "digits"), ("zero-shot", "letters")]
    assert [(r.seed, r.dataset, r.prompt_px, r.method) for r in runs[2:]] == [
        (seed, name, px, method)
        for seed in (5, 6)
        for name in ("digits", "letters")
        for px in (8, 28)
        for method in ("vp", "adavipro")
    ]
    for run in runs:
        assert run == presets.preset(
            "embedded", run.method, dataset=run.dataset, prompt_px=run.prompt_px, seed=run.seed
        )


@pytest.mark.parametrize("method", ["vp", "adavipro"])
def test_candidates_are_every_recipe_on_every_data_set_with_seeds_that_never_report(method):
    runs, space = sweeps.candidates(method, 8, presets.SEARCH_SEEDS), presets.SEARCH[method]
    tried = {tuple(getattr(run, name) for name in space) for run in runs}
    assert len(tried) == len(runs) / (len(datasets.CLASS_NAMES) * len(presets.SEARCH_SEEDS))
    for name, values in space.items():
        assert {getattr(run, name) for run in runs} == set(values)
    assert len({run.key() for run in runs}) == len(runs)
    assert {(run.method, run.prompt_px) for run in runs} == {(method, 8)}
    assert {run.seed for run in runs} == set(presets.SEARCH_SEEDS)
    assert not set(presets.SEARCH_SEEDS) & set(presets.REPORT_SEEDS)


@pytest.mark.parametrize(("px", "final"), [(8, {2.0, 4.0}), (15, set())])
def test_search_runs_the_best_again_with_the_other_seeds_at_the_default_width(
    px, final, monkeypatch, tmp_path
):
    accuracies = {1.0: 0.58, 2.0: 0.594, 4.0: 0.60, 8.0: 0.589, 16.0: 0.5}
    asked = []

    def validate(runs, work, root, workers):
        assert (work, root, workers) == (sweeps.validate_run, tmp_path, 3)
        asked.append({(r.seed, r.prompt_lr, r.prompt_px) for r in runs})
        return [
            {"prompt_px": r.prompt_px, "prompt_lr": r.prompt_lr, "val_accuracy": accuracies[r.prompt_lr]}
            for r in runs
        ], {}

    monkeypatch.setattr(sweeps, "sweep", validate)
    rows, errors = sweeps.search("vp", px, tmp_path, workers=3)
    first, *others = presets.SEARCH_SEEDS
    assert asked[0] == {(first, rate, px) for rate in accuracies}
    assert set().union(*asked[1:]) == {(seed, rate, px) for seed in others for rate in final}
    assert len(rows) == 4 * (5 + len(final) * len(others))
    assert errors == {}
    best = sweeps.ranking(rows, "vp")[0]
    assert best == {
        "prompt_px": str(px),
        "prompt_lr": "4.0",
        "runs": str(4 * (1 + bool(final))),
        "mean val (%)": "60.00",
    }


def test_failing_run_is_recorded_the_rest_completes_and_nothing_is_repeated(tmp_path):
    runs = [tiny("zero-shot"), tiny("vp", seed=1), tiny("vp", seed=3, epochs=1), tiny("adavipro", epochs=1)]
    rows, errors = sweeps.sweep(runs, fail_by_seed, tmp_path, workers=2)
    assert errors == {runs[1].folder(tmp_path).name: "RuntimeError: seed 1 does not work"}
    done = [runs[0], *runs[2:]]
    assert [row["key"] for row in rows] == [run.key() for run in done]
    assert [(row["method"], row["prompt_px"], row["seed"], row["steps"]) for row in rows] == [
        ("zero-shot", None, 0, 0),
        ("vp", 8, 3, 3),
        ("adavipro", 8, 0, 3),
    ]
    for run, row in zip(done, rows, strict=True):
        result = json.loads((run.folder(tmp_path) / "result.json").read_text())
        for name in ("test_accuracy", "val_accuracy", "share_on", "object_cover", "parameters"):
            assert row[name] == result[name]

    def times():
        return {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}

    before = times()
    assert sweeps.sweep(runs, fail_by_seed, tmp_path, workers=1) == (rows, errors)
    assert times() == before


def test_b2_killed_worker_is_recorded_and_the_rest_completes(tmp_path):
    runs = [tiny("zero-shot", seed=seed) for seed in (2, 3, 5, 4)]
    rows, errors = sweeps.sweep(runs, fail_by_seed, tmp_path, workers=1)
    assert list(errors) == [runs[i].folder(tmp_path).name for i in (0, 2)]
    assert [row["seed"] for row in rows] == [3, 4]


def test_search_row_comes_from_validation_and_leaves_test_alone(tmp_path, monkeypatch):
    asked, load_split, run = set(), datasets.load_split, tiny("adavipro", epochs=2)

    def load(name, split, image_px):
        asked.add(split)
        full = load_split(name, split, image_px)
        return datasets.Split(full.images[:32], full.objects[:32], full.labels[:32])

    monkeypatch.setattr(datasets, "load_split", load)
    row = sweeps.validate_run(run, tmp_path)
    assert asked == {"train", "val"}
    assert not any("test" in name for name in row)
    lines = (run.folder(tmp_path) / "metrics.csv").read_text().splitlines()
    accuracies = [float(line["val_accuracy"]) for line in csv.DictReader(lines)]
    assert row["val_accuracy"] == max(accuracies)
    assert row["last_val_accuracy"] == accuracies[-1]
    assert row["key"] == run.key()
    assert {name: row[name] for name in presets.SEARCH["adavipro"]} == {
        name: getattr(run, name) for name in presets.SEARCH["adavipro"]
    }
