"""Table files: what they may say, which runs they mean, and what their results files keep."""

import importlib
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers import small_splits, tiny

from adavipro import experiment, training
from adavipro.datasets import embedded
from adavipro.recipe import SettingError
from adavipro.report import published, results, studies, tables
from adavipro.sweeps import grids, runs

TOP = Path(__file__).parents[1]
TABLES = TOP / "tables"
sys.path.insert(0, str(TOP / "tools"))
shipped = importlib.import_module("make_results")
FOUR = ["cifar10", "cifar100", "dtd", "ucf101"]
ABLATIONS = {"4": "edges", "5": "temperature_gamma", "6": "region_px", "7": "generator_width"}
SOUND = {
    "table": "x", "world": "embedded", "datasets": ["digits", "letters"], "methods": ["zero-shot", "vp"],
    "prompt_px": [8], "seeds": [0, 1],
}  # fmt: skip


def written(folder: Path, **changes) -> Path:
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (SOUND | changes).items() if v is not None}))
    return path


def of_file(name: str) -> grids.Grid:
    return grids.read(TABLES / f"{name}.yaml")


# --- What a file may say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dataset": ["digits"]}, "there is no setting 'dataset': did you mean 'datasets'?"),
        ({"methods": None}, "methods is missing"),
        ({"table": 1}, "table is 1, but it must be text: write it in quotes"),
        ({"datasets": ["digit"]}, "dataset is 'digit', but the data sets are: digits, letters"),
        ({"datasets": "digits"}, "datasets is 'digits', but it must be a list with at least one value"),
        ({"methods": ["vpp"]}, "methods has 'vpp', but the methods are: zero-shot, vp, adavipro, linear-probe"),
        ({"prompt_px": ["8"]}, "prompt_px has '8' of type str, but needs int"),
        ({"prompt_px": [0]}, "prompt_px is 0, but it must be at least 1"),
        ({"seeds": []}, "seeds is [], but it must be a list with at least one value"),
        ({"seeds": [0, True]}, "seeds has True of type bool, but needs int"),
        ({"seeds": [0, 0]}, "seeds has 0 twice: remove one"),
        ({"world": "small"}, "world is 'small', but it must be one of: embedded, photographs, paper"),
        ({"recipe": "mine"}, "recipe is 'mine', but it must be one of: paper, ours"),
        ({"values": {"edge": [True]}}, "there is no setting 'edge': did you mean 'edges'?"),
        ({"values": {"edges": ["no"]}}, "edges is 'no' of type str, but it must be bool"),
        ({"values": {"edges": True}}, "values of edges is True, but it must be a list"),
        ({"values": {"edges": [True], "hard": [True]}}, "values is {'edges': [True], 'hard': [True]}, but it must"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_with_one_sentence(changes, told, tmp_path):
    path = written(tmp_path, **changes)
    with pytest.raises(SettingError) as refused:
        grids.read(path)
    assert str(refused.value).startswith(f"{path}: {told}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "table.yaml cannot be read as a table: .*No such file"),
        ("a: [", "table.yaml cannot be read as a table: while parsing"),
        ("- a", "table.yaml: it must hold names with their values"),
        ("1: [a]", "table.yaml: there is no setting '1'"),
        ("[a]: 1\n? [a]\n: 2", "table.yaml cannot be read as a table: .*unhashable key"),
        ("seeds: [!!bool maybe]", "table.yaml cannot be read as a table: 'maybe'"),
        ("seeds: [!!int '']", "table.yaml cannot be read as a table: "),
        ("table: !!timestamp soon", "table.yaml cannot be read as a table: "),
        ("[" * 5000, "table.yaml cannot be read as a table: .*recursion"),
        ("\0", "table.yaml cannot be read as a table: .*special characters"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_one_sentence(text, told, tmp_path):
    if text is not None:
        (tmp_path / "table.yaml").write_text(text)
    with pytest.raises(SettingError, match=told):
        grids.read(tmp_path / "table.yaml")


def test_every_table_that_ships_can_be_read_and_has_its_files_name():
    names = {path.stem for path in TABLES.glob("*.yaml")}
    assert names == {f"table{n}" for n in "1234567"} | {
        "figure2",
        "controls",
        "embedded",
        "embedded_controls",
        "photographs",
        "photographs_shots",
    }
    assert {of_file(name).table for name in names} == {name.removeprefix("table") for name in names}


@pytest.mark.parametrize("number", ["1", "2", "3", *ABLATIONS])
def test_the_papers_tables_are_its_grids_by_its_recipe(number):
    grid = of_file(f"table{number}")
    methods = {"2": ["vp", "adavipro"]}.get(
        number, ["adavipro"] if number in ABLATIONS else list(tables.TITLES)
    )
    assert (grid.table, grid.world, grid.recipe, grid.seeds) == (number, "paper", "paper", [0, 1, 2])
    assert (grid.methods, grid.datasets) == (methods, list(published.TITLES) if number in "13" else FOUR)
    assert grid.prompt_px == ([5, 60, 90, 112] if number == "2" else [30])
    assert list(grid.values) == ([ABLATIONS[number]] if number in ABLATIONS else [])
    for label, run in grid.cells():
        if label["method"] == "adavipro":
            changed = {"dataset": run.dataset, "prompt_px": run.prompt.prompt_px, "seed": run.seed}
            changed |= {ABLATIONS[number]: label["value"]} if number in ABLATIONS else {}
            assert run == experiment.preset("paper", "adavipro", **changed)


def test_methods_run_at_the_widths_and_seeds_that_they_have(tmp_path):
    methods = ["zero-shot", "linear-probe", "fine-tune", "vp", "soft-masks", "random-masks"]
    cells = grids.read(
        written(tmp_path, methods=methods, prompt_px=[8, 28], values={"epochs": [5, 9]})
    ).cells()
    many = 2 * 2 * 2 * 2  # data sets, seeds, widths, values
    count = dict(zip(methods, [2, 2, 4, many, many, many], strict=True))
    assert Counter(label["method"] for label, _ in cells) == count
    assert len({(label["method"], run) for label, run in cells}) == len(cells)
    assert [run.seed for label, run in cells if label["method"] == "vp"] == sorted([0, 1] * (many // 2))
    for label, run in cells:
        assert label["value"] == (
            run.recipe.epochs if label["method"] in ("vp", "soft-masks", "random-masks") else ""
        )
        if label["method"] == "soft-masks":
            assert (run.method, run.masks.where) == ("adavipro", "sigmoid")


def test_a_table_is_narrowed_to_what_it_has(tmp_path):
    grid = grids.read(written(tmp_path))
    kept = grid.narrowed({"datasets": ["letters"], "methods": ["vp"], "prompt_px": None, "seeds": [1]})
    assert [(run.dataset, run.method, run.seed) for _, run in kept.cells()] == [("letters", "vp", 1)]
    with pytest.raises(SettingError, match=r"table x has no 15 in prompt_px, but: 8"):
        grid.narrowed({"prompt_px": [15]})


# --- Results files --------------------------------------------------------------------------------------------------


def row(dataset: str, method: str, seed: int, accuracy: float, **more) -> runs.Row:
    px = 8 if method == "vp" else None
    label = {"study": "main", "value": "", "recipe": ""}
    return dict.fromkeys(runs.COLUMNS) | label | {
        "dataset": dataset, "method": method, "prompt_px": px, "seed": seed, "test_accuracy": accuracy,
        "key": f"{dataset}{seed}", "steps": 3,
    } | more  # fmt: skip


def test_rows_of_other_cells_stay_in_a_tables_file_and_its_own_are_replaced(tmp_path):
    grid, out = grids.read(written(tmp_path)), tmp_path / "x.csv"
    former = [
        row("digits", "zero-shot", 0, 0.1),
        row("letters", "vp", 0, 0.2),
        row("letters", "vp", 7, 1 / 3),
    ]
    runs.write_rows(out, former)
    new = [row("digits", "zero-shot", 0, 0.4), row("letters", "vp", 0, 0.5)]
    part = grid.narrowed({"datasets": ["digits"]})
    runs.write_rows(out, grids.joined(part, new[:1], results.read(out)))
    runs.write_rows(out, grids.joined(grid, new, results.read(out)))
    found = results.read(out)
    assert found["test_accuracy"].tolist() == [1 / 3, 0.4, 0.5]
    assert found["seed"].tolist() == [7, 0, 0]
    assert out.read_text().count(",3,") == 3  # whole numbers stay whole


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace(",vp,8,", ",vp,eight,"), "x.csv, line 3: prompt_px is 'eight'"),
        (lambda text: text.replace("value,", "", 1), "x.csv has 0 columns 'value', but needs one"),
        (lambda text: text + text.splitlines()[1] + "\n", "x.csv, line 4: this run stands there twice"),
    ],
)
def test_a_damaged_results_file_is_refused_before_any_run(change, told, tmp_path, monkeypatch):
    out = tmp_path / "x.csv"
    runs.write_rows(out, [row("digits", "zero-shot", 0, 0.1), row("letters", "vp", 0, 0.2)])
    out.write_text(change(out.read_text()))
    with pytest.raises(SettingError, match=told):
        grids.sweep_table(grids.read(written(tmp_path)), tmp_path / "runs", out)
    assert not (tmp_path / "runs").exists()


def test_rows_that_another_sweep_wrote_meanwhile_stay(tmp_path, monkeypatch):
    grid, out, stands = grids.read(written(tmp_path)), tmp_path / "new" / "x.csv", {}

    def sweep_cells(cells, root):
        if not stands:  # while this sweep runs, another one begins and ends
            stands["other"] = True
            part = grid.narrowed({"datasets": ["letters"]})
            grids.sweep_table(part, tmp_path / "runs", out)
            return [row("digits", "zero-shot", 0, 0.4)], {}
        return [row("letters", "zero-shot", 0, 0.5)], {}

    monkeypatch.setattr(grids, "sweep_cells", sweep_cells)
    grids.sweep_table(grid.narrowed({"datasets": ["digits"]}), tmp_path / "runs", out)
    assert sorted(results.read(out)["test_accuracy"]) == [0.4, 0.5]


# --- What ships -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", studies.STUDIES)
def test_the_runs_of_a_study_are_the_rows_that_ship(study):
    own = ["dataset", "method", "prompt_px", "seed", "value"]
    rows = results.of_studies(results.read(), study)
    cells = shipped.runs_of(study)
    expected = rows.assign(prompt_px=rows["prompt_px"].fillna(0))[own].itertuples(index=False, name=None)
    found = []
    for label, run in cells:
        px = 0 if run.method == "zero-shot" else run.prompt.prompt_px
        found.append((run.dataset, run.method, px, run.seed, str(label["value"])))
        assert label["study"] == study
    assert sorted(found) == sorted(expected)
    assert len({run for _, run in cells}) == len(cells)


def test_the_embedded_table_is_the_main_study():
    assert of_file("embedded").cells() == shipped.runs_of("main")


def test_studies_change_their_setting_alone():
    for study in studies.STUDIES:
        for label, run in shipped.runs_of(study):
            cell = {"dataset": run.dataset, "prompt_px": run.prompt.prompt_px, "seed": run.seed}
            changes = {} if study == "main" else studies.changes(study, label["value"])
            assert run == experiment.preset("embedded", run.method, **cell, **changes)


RECIPE_SEARCHES = [name for name in tables.SEARCHES if name != "search-vp-widths"]


def world_of_search(name):
    """World and method of one of RECIPE_SEARCHES."""
    return ("embedded", *name.removeprefix("search-").split("-"))[-2:]


def test_the_recipe_is_what_its_search_picked():
    for name in RECIPE_SEARCHES:
        world, method = world_of_search(name)
        own = experiment.preset(world, method).flat()
        picked = shipped.picked(tables.read(name))
        assert set(picked) == set(shipped.SEARCH[method][0])
        assert picked == {name: own[name] for name in picked}


def test_of_recipes_within_a_standard_error_of_the_best_the_smallest_rate_with_masks_alive_is_picked():
    means = {1.0: (0.60, 0.62), 2.0: (0.66, 0.68), 4.0: (0.67, 0.69), 8.0: (0.675, 0.695), 16.0: (0.9, None)}
    rows = pd.DataFrame(
        [(rate, seed, mean, 0.5) for rate, both in means.items() for seed, mean in enumerate(both) if mean],
        columns=["prompt_lr", "seed", "val_accuracy", "share_on"],
    ).assign(method="adavipro")
    assert shipped.picked(rows) == {"prompt_lr": 4.0}  # an error of 0.01: 2 is too far, 16 has one seed
    rows.loc[rows["prompt_lr"] == 4, "share_on"] = [0.5, 0.99]
    assert shipped.picked(rows) == {"prompt_lr": 8.0}
    assert shipped.picked(rows.assign(method="vp")) == {"prompt_lr": 4.0}  # its frame is always on


def test_a_run_of_a_search_does_not_read_the_test_split(tmp_path, monkeypatch):
    run, asked = tiny("adavipro", epochs=2), set()
    load = embedded.Drawn.load
    told = lambda self, split, px: asked.add(split) or load(self, split, px)  # noqa: E731
    monkeypatch.setattr(embedded.Drawn, "load", told)
    with small_splits():
        row = shipped._alone(run, "validate", tmp_path)
    assert asked == {"train", "val"}
    accuracies = pd.read_csv(run.folder(tmp_path) / "metrics.csv")["val_accuracy"].tolist()
    assert (row["val_accuracy"], row["last_val_accuracy"]) == (max(accuracies), accuracies[-1])
    assert (row["prompt_lr"], row["generator_lr"], row["key"]) == (4.0, 0.01, run.key())
    assert not any("test" in name for name in row)
    monkeypatch.setattr(training, "train_step", None)  # nothing is trained again
    with small_splits():
        assert shipped._alone(run, "validate", tmp_path) == row
    assert runs.finished_row(run, run.folder(tmp_path)) is None


def test_a_search_tries_every_recipe_and_the_best_again_with_the_other_seeds(tmp_path):
    """From the rows that ship: no run is made again, on whatever machine it was made."""
    for name in RECIPE_SEARCHES:
        world, method = world_of_search(name)
        out = tmp_path / f"{name}.csv"
        rows = tables.read(name)
        runs.write_rows(out, rows.sample(frac=1, random_state=0))
        book = shipped.Results(out, tmp_path / "runs")
        shipped.search(book, method, world)
        book.close()
        assert not (tmp_path / "runs").exists()
        again = tables.read(name, out)
        by_key = [found.sort_values("key", ignore_index=True) for found in (again, rows)]
        pd.testing.assert_frame_equal(*by_key)
        ranked = tables.table(name, again)
        assert set(again["seed"]) == set(studies.SEARCH_SEEDS)
        assert ranked["runs"][0] == rows["dataset"].nunique() * len(studies.SEARCH_SEEDS)
        assert 0 < sum(ranked["runs"] == ranked["runs"][0]) < len(ranked)


def test_the_search_by_width_tries_every_recipe_on_every_data_set(tmp_path):
    """From the rows that ship, in any order: no run is made again."""
    rows, out = tables.read("search-vp-widths"), tmp_path / "again.csv"
    runs.write_rows(out, rows.sample(frac=1, random_state=0))
    book = shipped.Results(out, tmp_path / "runs")
    shipped.search_widths(book)
    assert not (tmp_path / "runs").exists()
    assert len(rows) == len(studies.TUNED_PX) * len(studies.VARIED["tuned"]) * len(shipped.NAMES)
    assert [row["key"] for row in book.rows] == rows["key"].tolist()


def test_results_that_ship_are_made_where_their_file_lacks_them_and_written_as_they_come(tmp_path):
    cells = [
        grids.Cell({"study": "main", "value": ""}, experiment.preset("embedded", "zero-shot", dataset=name))
        for name in ("digits", "letters")
    ]
    shipped_rows = results.read()
    known = shipped_rows[(shipped_rows["method"] == "zero-shot") & (shipped_rows["dataset"] == "letters")]
    other = shipped_rows[shipped_rows["method"] == "vp"].head(1)
    out = tmp_path / "x.csv"
    runs.write_rows(out, pd.concat([known, other]))
    book = shipped.Results(out, tmp_path / "runs", workers=1)
    book.make("report", cells)
    assert [path.name.split("-")[0] for path in (tmp_path / "runs").iterdir()] == ["digits"]
    assert results.read(out)["method"].tolist() == ["zero-shot", "zero-shot", "vp"]  # its turn may come
    book.close()
    again = results.read(out)
    assert again["dataset"].tolist() == ["digits", "letters"]
    expected = shipped_rows[(shipped_rows["method"] == "zero-shot") & (shipped_rows["dataset"] == "digits")]
    assert again["test_accuracy"][2] == expected["test_accuracy"].item()
    assert again["key"][2] == expected["key"].item()


def test_how_far_the_noise_reached_is_kept_of_runs_made_elsewhere_and_read_of_those_made_here(tmp_path):
    shipped_rows = results.read_table(results.EPOCHS, ("key",))
    kept = pd.DataFrame(shipped.gather_epochs(results.EPOCHS, tmp_path))
    by = ["key", "epoch"]
    pd.testing.assert_frame_equal(
        kept.sort_values(by, ignore_index=True)[list(shipped_rows)],
        shipped_rows.sort_values(by, ignore_index=True),
        check_dtype=False,
    )
    run = next(r for _, r in shipped.runs_of("main") if r.key() == shipped_rows["key"].iloc[0])
    folder = run.folder(tmp_path)
    folder.mkdir()
    own = shipped_rows[shipped_rows["key"] == run.key()].assign(flips=0.25)
    own.to_csv(folder / "metrics.csv", index=False)
    (here,) = pd.DataFrame(shipped.gather_epochs(tmp_path / "absent.csv", tmp_path))["flips"].unique()
    assert here == 0.25


def test_a_run_that_fails_is_told_and_what_is_there_stays(tmp_path):
    broken = experiment.preset("embedded", "zero-shot", dataset=f"folder:{tmp_path / 'none'}")
    cells = [grids.Cell({"study": "main", "value": ""}, experiment.preset("embedded", "zero-shot"))]
    out = tmp_path / "x.csv"
    runs.write_rows(out, results.read()[lambda rows: rows["method"] == "zero-shot"])
    before = out.read_bytes()
    book = shipped.Results(out, tmp_path / "runs", workers=1)
    with pytest.raises(SettingError, match="none"):
        book.make("report", [*cells, grids.Cell({"study": "main", "value": ""}, broken)])
    assert out.read_bytes() == before
    book.errors["digits-vp"] = "it stopped"
    with pytest.raises(SystemExit, match="failed: digits-vp: it stopped"):
        book.close()
    assert out.read_bytes() == before
