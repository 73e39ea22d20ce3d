import itertools
import re
import shlex
import statistics

import pandas as pd
import pytest

from adavipro.recipe import SettingError
from adavipro.report import published, results, tables
from adavipro.report.results import WITHOUT_PROMPT

ROWS = published.read()
NINE = [name.lower() for name in published.DATASETS]
FOUR = ["cifar10", "cifar100", "dtd", "ucf101"]
# What each table wants: data sets, methods, widths, the setting that varies.
GRIDS = {
    "1": (NINE, ["zero-shot", "linear-probe", "fine-tune", "vp", "adavipro"], [30], {}),
    "2": (FOUR, ["vp", "adavipro"], [5, 30, 60, 90, 112], {}),
    "3": (["dtd"], ["linear-probe", "vp", "adavipro"], [30], {}),
    "4": (FOUR, ["adavipro"], [30], {"edges": [True, False]}),
    "5": (FOUR, ["adavipro"], [30], {"temperature_gamma": [0.9, 0.94, 0.98, 0.99]}),
    "6": (FOUR, ["adavipro"], [30], {"region_px": [8, 16, 32, 56]}),
    "7": (FOUR, ["adavipro"], [30], {"generator_width": [8, 16, 32, 64]}),
}


# --- What was read --------------------------------------------------------------------------------------------------


def test_every_figure_that_ships_has_the_source_of_its_table():
    assert len(ROWS) > 20
    for row in ROWS.itertuples():
        told = "arXiv 2203.17274 (VP)" if row.table == "VP" else f"arXiv 2403.13282, Table {row.table}"
        assert row.source == told


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ({"table": "1", "dataset": "CIFAR10", "method": "adavipro", "prompt_px": 30}, 95.4),
        ({"table": "3", "method": "vp", "quantity": "parameters"}, 0.07),
        ({"table": "4", "dataset": "DTD", "method": "adavipro", "quantity": "change without edges"}, -12.3),
        ({"table": "VP", "dataset": "Food101", "method": "vp", "quantity": "gain over zero-shot"}, -0.9),
        ({"table": "1", "dataset": "CIFAR10", "method": "linear-probe"}, None),  # no row
        (
            {
                "table": "1",
                "dataset": "all nine",
                "method": "adavipro",
                "prompt_px": 30,
                "quantity": "gain over vp",
            },
            None,
        ),
    ],
)
def test_a_figure_is_found_and_none_where_it_was_not_read(wanted, value):
    assert published.find(**wanted) == value


@pytest.mark.parametrize(
    ("column", "value"),
    [("table", "8"), ("dataset", "MNIST"), ("method", "lora"), ("prompt_px", 31), ("quantity", "speed")],
)
def test_a_value_that_no_column_knows_is_refused(column, value):
    with pytest.raises(SettingError, match=f"{column} is {value!r}, but it must be one of: "):
        published.find(**{"table": "1", "dataset": "CIFAR10", "method": "vp"} | {column: value})


def test_a_table_is_its_rows_in_order_and_what_is_blank_stays_blank():
    assert published.of_table("6")["value"].tolist() == [32, 56, 70.9]
    gain = published.of_table("1")["value"].map(tables.cell_text).tolist()
    assert gain == ["95.4", "96.8", "", ""]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (",95.4,", ",about 95,", "line 2: value is 'about 95', but it must be a number"),
        (",%,", ",furlongs,", "line 2: unit is 'furlongs', but it must be one of: %, points"),
        (",adavipro,", ",AdaViPro,", "line 2: method is 'AdaViPro'"),
        (",30,", ",31,", "line 2: prompt_px is 31, but it must be one of: 5, 30"),
        ('"arXiv 2403.13282, Table 1"', "", "line 2: the source is blank"),
        ("1,EuroSAT", "1,CIFAR10", "line 3: this figure stands there twice"),
        ("source", "origin", "line 1: there are 0 columns 'source'"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(tmp_path, old, new, told):
    path = tmp_path / "wrong.csv"
    path.write_text(published.PATH.read_text().replace(old, new, 1))
    with pytest.raises(SettingError, match=told):
        published.read(path)


# --- Ours beside it -------------------------------------------------------------------------------------------------


def run(dataset, method, prompt_px, seed, accuracy, value="", **others):
    return {
        "value": results.spelled(value), "dataset": dataset, "method": method, "prompt_px": prompt_px, "seed": seed,
        "test_accuracy": accuracy, "parameters": 10, "key": f"{dataset}{method}{prompt_px}{seed}{value}", **others,
    }  # fmt: skip


def beside(table, rows, *grid, **how):
    frame = pd.DataFrame(rows)
    frame = frame.astype({"prompt_px": "Int64", "seed": "Int64", "parameters": "Int64"}) if rows else frame
    return published.beside(table, frame, *(grid or GRIDS[table]), **how)


def the_line(lines, **wanted):
    (line,) = [line for line in lines.to_dict("records") if all(line[k] == v for k, v in wanted.items())]
    return line


def figures(line):
    """Ours, half its interval and the difference, as read in a table, and whether the published figure is inside."""
    return [
        *(round(line[c], 2) if line[c] == line[c] else "" for c in ("ours", "ci95", "difference")),
        line["inside"],
    ]


@pytest.mark.parametrize("table", GRIDS)
def test_without_runs_every_cell_and_every_published_figure_stands_there_once_with_blanks(table):
    names, methods, widths, values = GRIDS[table]
    lines = beside(table, [])
    settings = [f"{name}={v}" for name, several in values.items() for v in several] or [""]
    wanted = [(m, px) for m in methods for px in ([""] if m in WITHOUT_PROMPT else map(str, widths))]
    cells = lines[: len(names) * len(wanted) * len(settings)].map(tables.cell_text)
    found = cells[["dataset", "method", "prompt_px", "setting"]].itertuples(index=False, name=None)
    titles = [published.TITLES[name] for name in names]
    assert sorted(found) == sorted((t, *cell, s) for t in titles for cell in wanted for s in settings)

    told = published.of_table(table)
    own = lines[lines["source"].str.contains("2403.13282")]
    assert sorted(own["published"].dropna()) == sorted(told["value"].dropna())
    assert sorted(own["note"]) == sorted(told["note"])
    blank = [
        "ours",
        "ci95",
        "difference",
        "inside",
        "seeds",
        "seconds",
        "memory_mb",
        "device",
        "split",
        "versions",
    ]
    assert set(lines[blank].map(tables.cell_text).to_numpy().ravel()) == {""}
    for command in lines["command"]:
        words = shlex.split(command)
        assert words[:3] == ["adavipro", "sweep", f"tables/table{table}.yaml"]
        assert set(words[3::2]) <= {"--datasets", "--methods", "--prompt-px"}
        assert len(words) == 3 or words[4] in names


def test_command_makes_the_line_and_is_quoted():
    lines = beside("2", [], ["folder:my birds", "dtd"], ["vp"], [5, 112], {})
    sweep = "adavipro sweep tables/table2.yaml"
    assert lines["command"][0] == f"{sweep} --datasets 'folder:my birds' --methods vp --prompt-px 5"
    assert the_line(lines, quantity="best prompt_px")["command"] == f"{sweep} --datasets dtd"
    assert the_line(lines, dataset="mean")["command"] == sweep


MADE = {"split": "coop", "device": "cpu", "versions": "torch=2.14.1"}
EUROSAT = [
    run("eurosat", "adavipro", 30, 0, 0.95, seconds=9.0, memory_mb=700, **MADE),
    run("eurosat", "adavipro", 30, 1, 0.97, seconds=5.0, memory_mb=900, **MADE),
    run("eurosat", "adavipro", 30, 2, 0.96, seconds=6.0, memory_mb=None, **MADE),
]


def test_a_cell_holds_the_mean_over_seeds_beside_the_published_figure_and_what_it_took():
    lines = beside("1", EUROSAT)
    line = the_line(lines, dataset="EuroSAT", method="adavipro", quantity="accuracy")
    assert line == {
        "table": "1", "dataset": "EuroSAT", "method": "adavipro", "prompt_px": 30, "setting": "",
        "quantity": "accuracy", "unit": "%", "published": 96.8, "ours": pytest.approx(96),
        "ci95": pytest.approx(2.484, rel=1e-3),  # 4.303 x 1 / sqrt(3)
        "difference": pytest.approx(-0.8), "inside": "yes", "seeds": 3, "seconds": 6, "memory_mb": 900, "device": "cpu",
        "recipe": "", "split": "coop", "source": "arXiv 2403.13282, Table 1", "note": "above a linear probe",
        "command": "adavipro sweep tables/table1.yaml --datasets eurosat --methods adavipro",
        "versions": "torch=2.14.1",
    }  # fmt: skip
    told = the_line(published.short(lines).map(tables.cell_text), dataset="EuroSAT", method="adavipro")
    assert told["quantity"] == "accuracy (%)"
    assert [told[c] for c in ("published", "ours", "difference", "seeds")] == [
        "96.8",
        "96.0 ± 2.5",
        "-0.8",
        "3",
    ]


def test_inside_is_told_before_rounding_and_one_seed_has_no_interval():
    # Two runs, 0.02 above and below their mean: half the interval is 12.706 x 0.02 = 0.25412.
    for shift, inside in ((0.2540, "yes"), (0.2543, "no")):
        accuracies = ((96.8 - shift + d) / 100 for d in (0.02, -0.02))
        pair = [run("eurosat", "adavipro", 30, *cell) for cell in enumerate(accuracies)]
        line = the_line(beside("1", pair), dataset="EuroSAT", published=96.8)
        assert figures(line)[1:] == [0.25, -0.25, inside]
    line = the_line(beside("1", EUROSAT[:1]), dataset="EuroSAT", published=96.8)
    assert figures(line) == [95, "", -1.8, ""]
    near = beside("1", [run("eurosat", "adavipro", 30, 0, 0.9678)])
    assert the_line(published.short(near), dataset="EuroSAT", method="adavipro")["difference"] == "+0.0"


def test_a_figure_that_was_not_read_stays_blank_beside_ours():
    rows = [run("dtd", "zero-shot", None, 0, 0.44), *(run("dtd", "vp", 30, s, 0.5) for s in (0, 1))]
    lines = beside("1", rows)
    line = the_line(lines, dataset="DTD", method="vp", quantity="accuracy")
    assert [tables.cell_text(line["published"]), line["source"], *figures(line)] == ["", "", 50, 0, "", ""]
    assert the_line(lines, dataset="DTD", method="zero-shot")["ours"] == pytest.approx(44)
    line = the_line(lines, dataset="DTD", quantity="gain over zero-shot")  # of VP's own paper
    assert [line["published"], *figures(line)] == [14.1, 6, 0, -8.1, "no"]


@pytest.mark.parametrize(
    ("table", "more", "told"),
    [
        ("VP", [], "table is 'VP', but it must be one of: 1, 2"),
        ("1", [{**EUROSAT[0], "key": "b"}], "the results hold the run eurosat adavipro 30 0 twice"),
        ("1", [run("eurosat", "vp", 30, 0, 0.5, split="own")], "splits coop; own, which do not compare"),
        (
            "1",
            [run("dtd", "vp", 30, s, 0.5, recipe=r) for s, r in enumerate(("ours", "paper"))],
            "recipes ours; paper",
        ),
    ],
)
def test_what_does_not_compare_is_refused(table, more, told):
    with pytest.raises(SettingError, match=told):
        beside(table, [*EUROSAT, *more], *GRIDS["1"])


# --- Facts ----------------------------------------------------------------------------------------------------------


def test_gains_on_all_nine_need_all_nine_and_say_on_how_many_they_hold():
    rows = [run(name, "vp", 30, s, 0.6) for name in NINE for s in (0, 1)]
    rows += [run(name, "adavipro", 30, s, 0.5 + 0.02 * i) for i, name in enumerate(NINE) for s in (0, 1)]
    wanted = {"dataset": "all nine", "quantity": "gain over vp"}
    line = the_line(beside("1", rows), **wanted)
    assert line["ours"] == pytest.approx(-2)
    assert line["note"].endswith("figures not read; ours is above 0 on 3 of 9")
    fewer = beside("1", rows, NINE[:8], *GRIDS["1"][1:]).map(tables.cell_text)
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
    assert line["ours"] == pytest.approx(statistics.fmean(gains.values()))
    assert line["ci95"] == pytest.approx(results.estimate(gains.values()).half)
    assert (round(line["difference"], 2), line["inside"], line["seeds"]) == (-6.5, "no", 2)
    assert line["note"] == "mean over prompts of 5, 60, 90 and 112 px; ours is above 0 on 3 of 4"


def test_a_fact_waits_for_every_run_that_it_speaks_of():
    rows = table_2(dict.fromkeys(itertools.product(FOUR, (0, 1)), 9.0))
    wanted = {"dataset": "mean", "quantity": "gain over vp"}
    assert the_line(beside("2", rows), **wanted)["ours"] == pytest.approx(9)
    for missing in (rows[0], rows[1], rows[-3]):
        line = the_line(beside("2", [r for r in rows if r is not missing]), **wanted)
        assert [tables.cell_text(line["ours"]), line["published"]] == ["", 9]
    line = the_line(beside("2", rows, seeds=[0, 1, 2]).map(tables.cell_text), **wanted)
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
    assert figures(several)[0] == -5.32
    assert several["note"].endswith("; ours is above 0 on 1 of 4")
    of_three = beside("4", rows, FOUR[:3], *GRIDS["4"][1:])
    assert tables.cell_text(the_line(of_three, dataset="all four")["ours"]) == ""


def test_best_values_are_of_the_data_sets_that_the_fact_speaks_of():
    accuracies = {8: 50, 16: 50, 32: 60, 56: 55, ("ucf101", 56): 99, ("ucf101", 32): 10}
    lines = beside("6", ablation(accuracies))
    best = lines[lines["quantity"] == "best region_px"].map(tables.cell_text).set_index("dataset")
    assert best["published"].to_dict() == best["ours"].to_dict() == {"": "32", "UCF101": "56"}
    assert set(best[["ci95", "difference", "inside"]].to_numpy().ravel()) == {""}
    line = the_line(lines, dataset="UCF101", published=70.9)
    assert [line["setting"], *figures(line)[::2]] == ["region_px=56", 99.5, 28.6]
    gammas = ablation({0.9: 50, 0.94: 51, 0.98: 50.5, 0.99: 50})
    assert the_line(beside("5", gammas), published=0.98)["ours"] == 0.94
    rows = [run("dtd", "adavipro", px, 0, px / 200) for px in (5, 30, 60, 90, 112)]
    assert the_line(beside("2", rows), quantity="best prompt_px")["ours"] == 112


def test_table_3_and_width_8_count_parameters():
    rows = [run("dtd", "linear-probe", None, 0, 0.5, parameters=24111)]
    rows += [run("dtd", "vp", 30, s, 0.5, parameters=69840) for s in (0, 1)]
    rows += [run("dtd", "adavipro", 30, s, 0.6, parameters=202706) for s in (0, 1)]
    told = (
        published.short(beside("3", rows))
        .map(tables.cell_text)
        .set_index(["dataset", "method", "quantity"])["ours"]
    )
    assert told["", "vp", "parameters (million)"] == "0.0698"
    assert told["", "adavipro", "added parameters (million)"] == "0.1329"
    assert told["DTD", "linear-probe", "parameters (million)"] == "0.0241"
    narrow = beside("7", ablation(dict.fromkeys((8, 16, 32, 64), 50), parameters=86448))
    line = the_line(published.short(narrow).map(tables.cell_text), quantity="parameters at width 8 (million)")
    assert [line[c] for c in ("published", "ours", "difference")] == ["0.09", "0.0864", "-0.0036"]


# --- For a reader ---------------------------------------------------------------------------------------------------


def test_files_are_a_whole_csv_and_two_tables_in_markdown_and_latex(tmp_path):
    rows = [*EUROSAT, run("folder:a|b & c_d", "vp", 30, 0, 0.5)]
    lines = beside("1", rows, [*NINE, "folder:a|b & c_d"], *GRIDS["1"][1:])
    paths = published.write(lines, tmp_path / "new" / "table1.v2")
    assert [p.name for p in paths] == ["table1.v2.md", "table1.v2.csv", "table1.v2.tex"]
    kinds = {
        "prompt_px": "whole",
        "seeds": "whole",
        **dict.fromkeys(["published", "ours", "ci95", "difference"], "number"),
    }
    saved = results.read_table(paths[1], list(lines), {**kinds, "seconds": "number", "memory_mb": "number"})
    pd.testing.assert_frame_equal(saved.reset_index(drop=True), lines, check_dtype=False)

    _, *blocks = paths[0].read_text().strip().split("\n\n")
    assert [len(block.splitlines()) for block in blocks] == [len(lines) + 2] * 2
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1

    latex = paths[2].read_text()
    for columns, block in re.findall(r"\\begin\{tabular\}\{(l+)\}\n(.*?)\\end\{tabular\}", latex, re.DOTALL):
        body = [line for line in block.splitlines() if not re.match(r"\\(top|mid|bottom)rule", line)]
        assert len(body) == len(lines) + 1
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(columns) - 1}
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 2
    for sign in (
        r"96.0 $\pm$ 2.5",
        r" $-$0.8 ",
        r"-{}-datasets eurosat -{}-methods adavipro",
        r"folder:a|b \& c\_d",
    ):
        assert sign in latex
    assert not re.search(r"(?<!\\)[%#_]|±|--", latex)


def test_caption_says_how_the_epoch_was_picked_and_on_which_splits():
    told = published.caption(beside("1", EUROSAT))
    assert "Published figures (arXiv 2403.13282, Table 1; arXiv 2203.17274 (VP))" in told
    assert "AdaViPro's text does not say; ours is picked on validation" in told
    assert "ours: coop." in told
    assert "ours: not said." in published.caption(beside("1", []))
