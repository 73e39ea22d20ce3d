import importlib
import itertools
import statistics
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from scipy import stats

from adavipro import datasets, experiment
from adavipro.datasets import embedded
from adavipro.recipe import SettingError
from adavipro.report import results, studies, tables
from adavipro.report.results import Estimate, estimate

TOP = Path(__file__).parents[1]
sys.path.insert(0, str(TOP / "tools"))
shipped = importlib.import_module("make_results")

HEADER, *LINES = results.EMBEDDED.read_text().splitlines()
SHIPPED = "\n".join([HEADER, *LINES[:60]])  # enough of it to be damaged


@pytest.mark.parametrize("n", [2, 3, 5, 10, 11, 12, 20, 21, 100])
def test_interval_is_students(n):
    values = [60.0 + 1.7 * i**1.5 for i in range(n)]
    low, high = stats.t.interval(0.95, n - 1, loc=statistics.fmean(values), scale=stats.sem(values))
    assert estimate(values) == (pytest.approx((high + low) / 2), pytest.approx((high - low) / 2, rel=1e-5), 1)


def test_an_estimate_is_printed_once_rounded_and_one_value_has_no_interval():
    assert str(Estimate(11.255, 1.5637)) == "11.3 ± 1.6"
    assert str(estimate([12.2])) == "12.2"
    assert str(estimate([float("nan"), 59.17], places=2)) == "59.17"
    assert str(estimate([])) == ""


@pytest.mark.parametrize("what", ["widths", "epochs"])
def test_a_results_file_is_filled_by_one_process_at_a_time(tmp_path, monkeypatch, what):
    out, filled = tmp_path / "rows.csv", []
    monkeypatch.setattr(shipped, "_fill", filled.append)
    command = [what, "--out", str(out), "--root", str(tmp_path)]
    with (
        FileLock(f"{out}.lock"),
        pytest.raises(SystemExit, match=r"another process is filling .*rows\.csv: wait"),
    ):
        shipped.main(command)
    assert filled == []
    assert not out.exists()
    shipped.main(command)
    assert len(filled) == 1


# --- Reading --------------------------------------------------------------------------------------------------------


def test_columns_have_types_and_blank_cells_are_missing():
    rows = results.read()
    assert [str(rows[name].dtype) for name in ("prompt_px", "seed", "test_accuracy")] == [
        "Int64",
        "Int64",
        "float64",
    ]
    assert rows.loc[2, ["prompt_px", "share_on"]].isna().all()
    assert rows.loc[2, ["study", "value", "method"]].tolist() == ["main", "", "zero-shot"]
    assert len(rows) == len(LINES)


WRONG = "main,,vp,digits,23,0,,0.62,0.5909090909090909,"  # how line 12 starts


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("main,,vp,digits,23.5,0,,0.25,0.2,", "prompt_px is '23.5', but it must be a whole number"),
        ("main,,vp,digits,,0,,0.25,0.2,", "prompt_px is blank"),
        ("main,,,digits,23,0,,0.25,0.2,", "method is blank"),
        ("main,,vp,digits,23,0,,nan,0.2,", "test_accuracy is 'nan', but it must be a number from 0 to 1"),
        ("main,,vp,digits,23,0,,25.0,0.2,", "test_accuracy is '25.0', but it must be a number from 0 to 1"),
        ('main,,vp,digits,23,0,,"0,25",0.2,', "test_accuracy is '0,25', but it must be a number from 0 to 1"),
        ("main,,vp,digits,15,0,,0.25,0.2,", "this run stands there twice"),
        ("main,,vp,digits,23,0,,inf,0.2,", "test_accuracy is 'inf', but it must be a number from 0 to 1"),
        ("main,,vp,digits,1e300,0,,0.25,0.2,", "prompt_px is '1e300', but it must be a whole number"),
    ],
)
def test_a_cell_that_cannot_be_read_is_refused_with_file_line_and_column(tmp_path, new, told):
    path = tmp_path / "edited.csv"
    assert LINES[10].startswith(WRONG)
    path.write_text(SHIPPED.replace(WRONG, new))
    with pytest.raises(SettingError, match=f"edited.csv, line 12: {told}"):
        results.read(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: .*No such file"),
        (b"", "has 0 columns 'study', but needs one"),
        (SHIPPED.replace(WRONG, "," + WRONG).encode(), "line 12: it has 22 cells, but there are 21 columns"),
        (SHIPPED.replace(WRONG, WRONG.removeprefix("main,")).encode(), "line 12: it has 20 cells"),
        (SHIPPED.replace(WRONG, "\n" + WRONG).encode(), "line 12: it has 0 cells"),
        (
            SHIPPED.replace(WRONG, WRONG.replace("vp,", '"vp,')).encode(),
            "cannot be read: unexpected end of data",
        ),
        (SHIPPED.replace(WRONG, "caf\xe9" + WRONG).encode("latin-1"), "cannot be read: 'utf-8' codec"),
        (SHIPPED.replace(",", ";").encode(), "has 0 columns 'study', but needs one"),
        (SHIPPED.replace("seconds", "seed", 1).encode(), "has 2 columns 'seed', but needs one"),
        (SHIPPED.replace("memory_mb", "steps", 1).encode(), "has 2 columns 'steps', but needs one"),
    ],
)
def test_a_file_that_is_no_table_of_results_is_one_sentence(tmp_path, content, told):
    path = tmp_path / "edited.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=rf"edited\.csv,? {told}"):
        results.read(path)


# --- Means ----------------------------------------------------------------------------------------------------------


def made(*cells):
    """Rows of the main grid: data set, method, width, seed and accuracy."""
    rows = pd.DataFrame(cells, columns=["dataset", "method", "prompt_px", "seed", "test_accuracy"])
    return rows.astype({"prompt_px": "Int64", "seed": "Int64"}).assign(study="main", value="")


def test_mean_over_data_sets_is_taken_seed_by_seed_where_none_is_missing():
    accuracies = [
        ("digits", 0, 0.5),
        ("letters", 0, 0.7),
        ("digits", 1, 0.6),
        ("letters", 1, 0.9),
        ("digits", 2, 0.1),
    ]
    rows = made(*((name, "vp", 8, seed, accuracy) for name, seed, accuracy in accuracies))
    means = results.means_by_seed(rows)
    assert means[["seed", "test_accuracy"]].values.tolist() == [
        [0, pytest.approx(0.6)],
        [1, pytest.approx(0.75)],
    ]
    summary = results.summarise(rows).set_index("dataset")
    assert summary["n"].to_dict() == {"digits": 3, "letters": 2, "mean": 2}
    assert str(summary["estimate"]["mean"]) == "67.5 ± 95.3"  # 12.706 x 7.5
    assert results.means_by_seed(rows[rows["dataset"] == "digits"]).empty


def test_a_summary_skips_what_is_blank():
    rows = made(
        ("digits", "zero-shot", None, 0, 0.5), ("digits", "vp", 8, 0, 0.25), ("digits", "vp", 8, 1, None)
    )
    rows = pd.concat([rows, rows.assign(study="edges")])
    summary = results.summarise(results.of_studies(rows, "main")).fillna({"prompt_px": 0})
    assert summary.drop(columns="dataset").values.tolist() == [
        ["zero-shot", 0, (50, None, 1), 1],
        ["vp", 8, (25, None, 1), 1],
    ]


# --- What ships -----------------------------------------------------------------------------------------------------


def test_the_main_grid_has_all_seeds_for_every_data_set_method_and_width():
    main = results.of_studies(results.read(), "main")
    prompted = main[main["method"] != "zero-shot"]
    cells = Counter(prompted[["dataset", "method", "prompt_px"]].itertuples(index=False, name=None))
    assert set(cells.values()) == {len(studies.REPORT_SEEDS)}
    assert len(cells) == 2 * len(embedded.CLASS_NAMES) * len(studies.FRAMES_PX)


def test_a_study_has_every_other_value_with_the_same_runs():
    rows = results.read()
    for study in (*studies.ABLATIONS, "training"):
        found = results.of_studies(rows, study)
        methods = ["adavipro"] if study in studies.ABLATIONS else ["vp", "adavipro"]
        widths = [studies.FULL_PX] if study in studies.OURS else studies.ENDS_PX
        names, seeds = embedded.CLASS_NAMES, studies.ABLATION_SEEDS
        values = {*studies.VARIED[study]} - {studies.own_value(study)}
        cells = found[["value", "method", "dataset", "prompt_px", "seed"]].itertuples(index=False, name=None)
        assert Counter(cells) == Counter(itertools.product(values, methods, names, widths, seeds))


def share(rows, row):
    """The share of regions that AdaViPro learned in the cell of a run with random masks."""
    cell = rows[(rows["study"] == "main") & (rows["method"] == "adavipro")]
    for name in ("dataset", "prompt_px", "seed"):
        cell = cell[cell[name] == row[name]]
    return min(max(round(cell["share_on"].item(), 2), 0.01), 0.99)


def run_of(rows, row, world):
    """The experiment that a row is of."""
    study, method, value = row.get("study", "main"), row["method"], row.get("value", "")
    changes = {name: row[name] for name in ("dataset", "prompt_px", "seed") if not pd.isna(row[name])}
    if "last_val_accuracy" in row:  # of a search
        changes |= {name: row[name] for name in studies.SEARCHED if name in row and not pd.isna(row[name])}
    if method == "fine-tune":
        changes["learning_rate"] = float(row["setting"].removeprefix("learning_rate="))
    if method == "random-masks":
        changes["random_share"] = share(rows, row)
    if study == "shots":
        changes["shots"] = int(value)
    if study in studies.VARIED:
        changes |= studies.changes(study, value)
    return experiment.preset(world, method, **changes)


@pytest.mark.parametrize("name", ["embedded", "controls", "photographs", "baselines", *tables.SEARCHES])
def test_every_row_that_ships_has_the_key_of_its_run(name):
    if name in tables.SEARCHES:
        rows = tables.read(name)
    elif name == "baselines":
        rows = results.read_table(results.BASELINES, ("study", "setting", "key"))
    else:
        rows = results.read(results.FOLDER / f"{name}.csv")
    sources = {dataset: datasets.find(dataset) for dataset in set(rows["dataset"])}
    world = "photographs" if "photographs" in name else "embedded"
    assert rows["key"].tolist() == [
        run_of(rows, row, world).key(sources[row["dataset"]]) for _, row in rows.iterrows()
    ]
