import dataclasses
import itertools
import math
import statistics

import pandas as pd
import pytest

from adavipro.recipe import SettingError
from adavipro.report import printing, published, results
from adavipro.report.results import WITHOUT_PROMPT
from adavipro.sweeps import grids

ROWS = published.read()
GRIDS = {number: grids.read(grids.TABLES / f"table{number}.yaml") for number in published.NUMBERS}
NINE, FOUR = GRIDS["1"].datasets, GRIDS["2"].datasets


# --- What was read --------------------------------------------------------------------------------------------------


def test_every_figure_that_ships_has_the_source_of_its_table():
    assert len(ROWS) > 20
    for row in ROWS.itertuples():
        told = "arXiv 2203.17274 (VP)" if row.table == "VP" else f"arXiv 2403.13282, Table {row.table}"
        assert row.source == told


# What a column may hold; a data set that is blank, or a width that is missing, is several, or none that was said.
KNOWN = {
    "table": {*published.NUMBERS, "VP"},
    "dataset": {*published.DATASETS, "mean", "all nine", "all four", ""},
    "method": {"zero-shot", "linear-probe", "fine-tune", "vp", "adavipro"},
    "prompt_px": {5, 30, 60, 90, 112, 0},
    "quantity": {
        "accuracy", "gain over zero-shot", "gain over vp", "change without edges", "parameters", "added parameters",
        "parameters at width 8", "best prompt_px", "best temperature_gamma", "best region_px", "best generator_width",
    },
    "unit": {"%", "points", "million", "px", "channels", ""},
}  # fmt: skip


def test_every_figure_that_ships_stands_there_once_in_words_that_are_known():
    for column, known in KNOWN.items():
        assert set(ROWS[column].fillna(0)) <= known, column
    assert not ROWS.duplicated(["table", "dataset", "method", "prompt_px", "quantity"]).any()


def test_a_table_is_its_rows_in_order_and_what_is_blank_stays_blank():
    assert published.of_table("6")["value"].tolist() == [32, 56, 70.9]
    gain = published.of_table("1")["value"].map(printing.cell_text).tolist()
    assert gain == ["95.4", "96.8", "", ""]


# --- Ours beside it -------------------------------------------------------------------------------------------------


def run(dataset, method, prompt_px, seed, accuracy, value="", **others):
    return {
        "value": str(value), "dataset": dataset, "method": method, "prompt_px": prompt_px, "seed": seed,
        "test_accuracy": accuracy, "parameters": 10, "key": f"{dataset}{method}{prompt_px}{seed}{value}", **others,
    }  # fmt: skip


def beside(table, rows, **changes):
    """Lines of a table, by default of the seeds that the rows hold."""
    frame = pd.DataFrame(rows)
    seeds = sorted(set(frame["seed"])) if rows else [0]
    return published.beside(frame, dataclasses.replace(GRIDS[table], **{"seeds": seeds} | changes))


def the_line(lines, **wanted):
    (line,) = [line for line in lines.to_dict("records") if all(line[k] == v for k, v in wanted.items())]
    return line


def figures(line):
    """Ours, half its interval and the difference, and whether the published figure is inside."""
    return [
        *(x if x is None else round(x, 2) for x in (*line["ours"][:2], line["difference"][0])),
        line["inside"],
    ]


@pytest.mark.parametrize("table", GRIDS)
def test_without_runs_every_cell_and_every_published_figure_stands_there_once_with_blanks(table):
    grid, lines = GRIDS[table], published.beside(None, GRIDS[table])
    values = [str(v) for own in grid.values.values() for v in own] or [""]
    wanted = [
        (m, px) for m in grid.methods for px in ([""] if m in WITHOUT_PROMPT else map(str, grid.prompt_px))
    ]
    text = lines.map(printing.cell_text)
    cells = text[: len(grid.datasets) * len(wanted) * len(values)]
    found = cells[["dataset", "method", "prompt_px", "value"]].itertuples(index=False, name=None)
    titles = [published.TITLES[name] for name in grid.datasets]
    assert sorted(found) == sorted((t, *cell, v) for t in titles for cell in wanted for v in values)

    told, own = published.of_table(table), lines[lines["source"].str.contains("2403.13282", na=False)]
    assert sorted(own["published"].dropna()) == sorted(told["value"].dropna())
    assert sorted(own["note"]) == sorted(told["note"])
    assert set(text[["ours", "difference", "inside", "seeds"]].to_numpy().ravel()) == {""}


EUROSAT = [run("eurosat", "adavipro", 30, s, a, split="coop") for s, a in enumerate((0.95, 0.97, 0.96))]


def test_a_cell_holds_the_mean_over_seeds_beside_the_published_figure():
    line = the_line(beside("1", EUROSAT), dataset="EuroSAT", method="adavipro", quantity="accuracy")
    assert line == {
        "dataset": "EuroSAT", "method": "adavipro", "prompt_px": 30, "value": "", "quantity": "accuracy", "unit": "%",
        "published": 96.8, "ours": (pytest.approx(96), pytest.approx(2.484, rel=1e-3), 1),  # 4.303 x 1 / sqrt(3)
        "difference": (pytest.approx(-0.8), None, 1), "inside": "yes", "seeds": 3,
        "source": "arXiv 2403.13282, Table 1", "note": "above a linear probe",
    }  # fmt: skip


def test_inside_is_told_before_rounding_and_one_seed_has_no_interval():
    # Two runs, 0.02 above and below their mean: half the interval is 12.706 x 0.02 = 0.25412.
    for shift, inside in ((0.2540, "yes"), (0.2543, "no")):
        accuracies = ((96.8 - shift + d) / 100 for d in (0.02, -0.02))
        pair = [run("eurosat", "adavipro", 30, *cell) for cell in enumerate(accuracies)]
        line = the_line(beside("1", pair), dataset="EuroSAT", published=96.8)
        assert figures(line)[1:] == [0.25, -0.25, inside]
    line = the_line(beside("1", EUROSAT[:1]), dataset="EuroSAT", published=96.8)
    assert figures(line) == [95, None, -1.8, ""]


def test_a_figure_that_was_not_read_stays_blank_beside_ours():
    rows = [run("dtd", "zero-shot", None, 0, 0.44), *(run("dtd", "vp", 30, s, 0.5) for s in (0, 1))]
    lines = beside("1", rows)
    line = the_line(lines.map(printing.cell_text), dataset="DTD", method="vp", quantity="accuracy")
    assert [line[c] for c in ("published", "source", "ours", "difference", "inside")] == [
        "",
        "",
        "50.0 ± 0.0",
        "",
        "",
    ]
    assert str(the_line(lines, dataset="DTD", method="zero-shot")["ours"]) == "44.0"
    line = the_line(lines, dataset="DTD", quantity="gain over zero-shot")  # of VP's own paper
    assert [line["published"], *figures(line)] == [14.1, 6, 0, -8.1, "no"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([EUROSAT[0]], "the results hold the run EuroSAT adavipro 30  0 twice"),
        (
            [run("eurosat", "vp", 30, 0, 0.5, split="own")],
            "of more than one split of a data set, which do not compare",
        ),
        (
            [run("dtd", "vp", 30, s, 0.5, recipe=r) for s, r in enumerate(("ours", "paper"))],
            "of more than one recipe, which do not compare",
        ),
        (
            [run("dtd", "vp", 30, s, 0.5, study=name) for s, name in enumerate(("main", "edges"))],
            "of more than one study, which do not compare",
        ),
    ],
)
def test_what_does_not_compare_is_refused(more, told):
    with pytest.raises(SettingError, match=told):
        beside("1", [*EUROSAT, *more])
    with pytest.raises(SettingError, match="table is 'own', but it must be one of: 1, 2"):
        published.beside(None, dataclasses.replace(GRIDS["1"], table="own"))


# --- Facts ----------------------------------------------------------------------------------------------------------


def test_gains_on_all_nine_need_all_nine_and_say_on_how_many_they_hold():
    rows = [run(name, "vp", 30, s, 0.6) for name in NINE for s in (0, 1)]
    rows += [run(name, "adavipro", 30, s, 0.5 + 0.02 * i) for i, name in enumerate(NINE) for s in (0, 1)]
    wanted = {"dataset": "all nine", "quantity": "gain over vp"}
    line = the_line(beside("1", rows), **wanted)
    assert line["ours"].mean == pytest.approx(-2)
    assert line["note"].endswith("figures not read; ours is above 0 on 3 of 9")
    fewer = beside("1", rows, datasets=NINE[:8]).map(printing.cell_text)
    assert [the_line(fewer, **wanted)[c] for c in ("ours", "seeds")] == ["", ""]


def table_2(gains):
    """Runs of Table 2 in which AdaViPro gains so much over VP, by data set and seed; 30 px would spoil the mean."""
    rows = []
    for (name, seed), gain in gains.items():
        for px, more in ((5, -2), (60, 0), (90, 0), (112, 2), (30, 50)):
            rows.append(run(name, "vp", px, seed, 0.3))
            rows.append(run(name, "adavipro", px, seed, 0.3 + (gain + more) / 100))
    return rows


def test_mean_gain_of_table_2_is_over_pairs_of_data_set_and_seed_at_the_four_widths():
    gains = {cell: float(i) for i, cell in enumerate(itertools.product(FOUR, (0, 1)), start=-1)}
    line = the_line(beside("2", table_2(gains)), dataset="mean")
    assert line["ours"] == (
        pytest.approx(statistics.fmean(gains.values())),
        results.estimate(gains.values()).half,
        1,
    )
    assert (round(line["difference"].mean, 2), line["inside"], line["seeds"]) == (-6.5, "no", 2)
    assert line["note"] == "mean over prompts of 5, 60, 90 and 112 px; ours is above 0 on 3 of 4"


def test_a_fact_waits_for_every_run_that_it_speaks_of():
    rows = table_2(dict.fromkeys(itertools.product(FOUR, (0, 1)), 9.0))
    wanted = {"dataset": "mean", "quantity": "gain over vp"}
    assert the_line(beside("2", rows), **wanted)["ours"].mean == pytest.approx(9)
    for missing in (rows[0], rows[1], rows[-3]):
        line = the_line(beside("2", [r for r in rows if r is not missing]), **wanted)
        assert [str(line["ours"]), line["published"]] == ["", 9]
    line = the_line(beside("2", rows, seeds=[0, 1, 2]).map(printing.cell_text), **wanted)
    assert [line["ours"], line["seeds"]] == ["", ""]
    assert the_line(beside("2", rows, seeds=[0]), **wanted)["seeds"] == 1


def ablation(accuracies, **others):
    """Runs with an accuracy in percent by value, or by data set and value."""
    values = {k[1] if isinstance(k, tuple) else k for k in accuracies}
    return [
        run(name, "adavipro", 30, s, (accuracies.get((name, v), accuracies.get(v, 0)) + s) / 100, v, **others)
        for name, v, s in itertools.product(FOUR, values, (0, 1))
    ]


def test_change_without_edges_is_without_minus_with():
    rows = ablation({True: 60, False: 55, ("dtd", False): 47.7, ("ucf101", False): 61})
    lines = beside("4", rows)
    line = the_line(lines, dataset="DTD", quantity="change without edges")
    assert figures(line) == [-12.3, 0, 0, "yes"]
    several = the_line(lines, dataset="all four")
    assert several["ours"].mean == pytest.approx(-5.325)
    assert several["note"].endswith("; ours is above 0 on 1 of 4")
    assert str(the_line(beside("4", rows, datasets=FOUR[:3]), dataset="all four")["ours"]) == ""


def test_best_values_are_of_the_data_sets_that_the_fact_speaks_of():
    accuracies = {8: 50, 16: 50, 32: 60, 56: 55, ("ucf101", 56): 99, ("ucf101", 32): 10}
    lines = beside("6", ablation(accuracies))
    best = lines[lines["quantity"] == "best region_px"].map(printing.cell_text).set_index("dataset")
    assert best["published"].to_dict() == best["ours"].to_dict() == {"": "32", "UCF101": "56"}
    assert set(best[["difference", "inside"]].to_numpy().ravel()) == {""}
    line = the_line(lines, dataset="UCF101", published=70.9)
    assert [line["value"], *figures(line)[::2]] == ["56", 99.5, 28.6]
    gammas = ablation({0.9: 50, 0.94: 51, 0.98: 50.5, 0.99: 50})
    assert the_line(beside("5", gammas), published=0.98)["ours"] == 0.94
    assert math.isnan(the_line(beside("5", gammas[:-1]), published=0.98)["ours"])
    alone = beside("6", ablation(accuracies), datasets=["ucf101"])
    assert math.isnan(the_line(alone, dataset="", quantity="best region_px")["ours"])
    rows = [run("dtd", "adavipro", px, 0, px / 200) for px in (5, 30, 60, 90, 112)]
    assert the_line(beside("2", rows), quantity="best prompt_px")["ours"] == 112


def test_table_3_and_width_8_count_parameters():
    rows = [run("cifar10", "linear-probe", None, 0, 0.5, parameters=24111)]
    rows += [run(name, "vp", 30, s, 0.5, parameters=69840) for name in NINE for s in (0, 1)]
    rows += [run(name, "adavipro", 30, s, 0.6, parameters=202706) for name in NINE for s in (0, 1)]
    told = beside("3", rows).map(printing.cell_text).set_index(["dataset", "method", "quantity"])["ours"]
    assert told["", "vp", "parameters"] == "0.0698"
    assert told["", "adavipro", "added parameters"] == "0.1329"
    assert told["CIFAR10", "linear-probe", "parameters"] == "0.0241"
    narrow = beside("7", ablation(dict.fromkeys((8, 16, 32, 64), 50), parameters=86448))
    line = the_line(narrow.map(printing.cell_text), quantity="parameters at width 8")
    assert [line[c] for c in ("published", "ours", "difference")] == ["0.09", "0.0864", "-0.0036"]
