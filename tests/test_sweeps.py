import contextlib
import csv
import json
from unittest import mock

import nbformat
import pytest
from helpers import draw_splits, small_splits, tiny

from adavipro import baselines, datasets, machines, presets, sheets, sweeps
from adavipro.settings import SettingError

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
        assert (work, root, workers) == ("validate", tmp_path, 3)
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


def test_one_run_fails_the_rest_complete_and_nothing_finished_is_repeated(tmp_path, monkeypatch):
    pictures = f"folder:{draw_splits(tmp_path / 'pictures')}"
    runs = [
        tiny("zero-shot", dataset=pictures),
        tiny("vp", dataset=pictures, prompt_lr=1e30),
        baselines.Baseline(pictures, "linear-probe"),
    ]
    root = tmp_path / "runs"
    rows, errors = sweeps.sweep(runs, "report", root, workers=2, limit_s=300)
    folders = [run.folder(root) for run in runs]
    assert list(errors) == [folders[1].name]
    assert errors[folders[1].name].startswith("TrainingDiverged: the loss is not finite at step ")
    failed = json.loads((folders[1] / "failed.json").read_text())
    assert failed["error"] == errors[folders[1].name]
    assert str(sheets.NOTEBOOK) in failed["command"]
    assert (folders[1] / "failed.ipynb").exists()
    assert [row["key"] for row in rows] == [runs[0].key(), runs[2].key()]
    result = json.loads((folders[0] / "result.json").read_text())
    assert {name: rows[0][name] for name in ("test_accuracy", "parameters", "steps")} == {
        name: result[name] for name in ("test_accuracy", "parameters", "steps")
    }
    for folder in (folders[0], folders[2]):
        cells = nbformat.read(folder / "notebook.ipynb", 4).cells
        assert not list(folder.glob("*running*")) + list(folder.glob("failed*"))
        assert [c.execution_count for c in cells if c.cell_type == "code"]

    def times():
        return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}

    def start(*_):
        raise AssertionError("a finished grid starts no cluster")

    before = times()
    monkeypatch.setattr(machines, "cluster", start)
    assert sweeps.sweep([runs[0], runs[2]], "report", root) == (rows, {})
    assert times() == before


def test_what_a_failure_left_goes_when_the_run_succeeds(tmp_path, monkeypatch):
    run = tiny("zero-shot")
    folder = run.folder(tmp_path)
    monkeypatch.setattr(machines, "cluster", lambda *_: contextlib.nullcontext(mock.Mock(dashboard_link="")))
    monkeypatch.setattr(machines, "execute_all", lambda c, r, jobs, ended: ended(*jobs, "it was killed"))
    assert sweeps.sweep([run], "report", tmp_path) == ([], {folder.name: "it was killed"})
    assert (folder / "failed.json").exists()

    def succeed(client, root, jobs, ended):
        with small_splits():
            sheets.work_on(run, "report", root, "cpu")
        ended(*jobs, "stopped after 5 s")  # while it waited for another process that did the run

    monkeypatch.setattr(machines, "execute_all", succeed)
    rows, errors = sweeps.sweep([run], "report", tmp_path)
    assert ([row["key"] for row in rows], errors) == ([run.key()], {})
    assert not (folder / "failed.json").exists()


def test_without_the_sheet_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sheets, "NOTEBOOK", tmp_path / "run.ipynb")
    with pytest.raises(SettingError, match=r"there is no notebook .*run.ipynb: install the project again"):
        sweeps.sweep([tiny("zero-shot")], "report", tmp_path)


def test_search_row_comes_from_validation_and_leaves_test_alone(tmp_path, monkeypatch):
    asked, load_split, run = set(), datasets.load_split, tiny("adavipro", epochs=2)

    def load(name, split, image_px):
        asked.add(split)
        full = load_split(name, split, image_px)
        return datasets.Split(full.images[:32], full.objects[:32], full.labels[:32])

    monkeypatch.setattr(datasets, "load_split", load)
    row = sheets.work_on(run, "validate", tmp_path, "cpu")
    assert asked == {"train", "val"}
    assert not any("test" in name for name in row)
    lines = (run.folder(tmp_path) / "metrics.csv").read_text().splitlines()
    accuracies = [float(line["val_accuracy"]) for line in csv.DictReader(lines)]
    assert row["val_accuracy"] == max(accuracies)
    assert row["last_val_accuracy"] == accuracies[-1]
    assert row["key"] == run.key()
    assert sheets.finished_row(run, "validate", tmp_path) == row
    assert sheets.finished_row(run, "report", tmp_path) is None
    assert {name: row[name] for name in presets.SEARCH["adavipro"]} == {
        name: getattr(run, name) for name in presets.SEARCH["adavipro"]
    }
