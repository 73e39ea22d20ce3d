import itertools
import re
import shlex
from pathlib import Path

import pytest
from comparison_samples import FACT, GRIDS, NINE, cells, compared, run, the_line

from adavipro import comparison, published, tables
from adavipro.files import to_csv
from adavipro.settings import SettingError


@pytest.mark.parametrize("table", GRIDS)
def test_every_published_figure_of_a_table_stands_in_exactly_one_line(table):
    found = comparison.lines(table, [], *GRIDS[table])
    told = published.of_table(table)
    for r in told:
        line = the_line(found, published=r["value"], **{k: r[k] for k in FACT})
        assert line["note"] == r["note"]
    figures = [line["published"] for line in found if line["published"] and "2403.13282" in line["source"]]
    assert sorted(figures) == sorted(r["value"] for r in told if r["value"])


@pytest.mark.parametrize("table", GRIDS)
def test_without_runs_every_cell_stands_there_with_blanks_and_its_command(table):
    names, methods, widths, values = GRIDS[table]
    found = comparison.lines(table, [], *GRIDS[table])
    prompted = [m for m in methods if m not in ("zero-shot", "linear-probe", "fine-tune")]
    settings = [f"{name}={v}" for name, several in values.items() for v in several] or [""]
    wanted = [
        *itertools.product(prompted, map(str, widths)),
        *((m, "") for m in methods if m not in prompted),
    ]
    wanted = sorted((*place, s) for place in wanted for s in settings for _ in names)
    assert sorted(tuple(cells(line, "method prompt_px setting")) for line in found[: len(wanted)]) == wanted
    for line in found:
        assert tuple(line) == comparison.COLUMNS
        assert not any(cells(line, "ours ci95 difference inside seeds seconds memory_mb split versions"))
        words = shlex.split(line["command"])
        assert words[:3] == ["adavipro", "sweep", f"tables/table{table}.yaml"]
        assert set(words[3::2]) <= {"--datasets", "--methods", "--prompt-px"}
        assert len(words) == 3 or words[4] in names


def test_command_makes_the_line_and_is_quoted():
    found = comparison.lines("2", [], ["folder:my birds", "dtd"], ["vp"], [5, 112], {})
    assert found[0]["command"] == (
        "adavipro sweep tables/table2.yaml --datasets 'folder:my birds' --methods vp --prompt-px 5"
    )
    assert the_line(found, quantity="best prompt_px")["command"] == (
        "adavipro sweep tables/table2.yaml --datasets dtd"
    )
    assert the_line(found, dataset="mean")["command"] == "adavipro sweep tables/table2.yaml"


MADE = {"split": "coop", "device": "cpu"}
EUROSAT = [
    run("eurosat", "adavipro", 30, 0, 0.95, seconds="9.0", memory_mb="700", **MADE),
    run("eurosat", "adavipro", 30, 1, 0.97, seconds="5.0", memory_mb="900", **MADE),
    run("eurosat", "adavipro", 30, 2, 0.96, seconds="6.0", memory_mb="", **MADE),
]


def test_a_cell_holds_the_mean_over_seeds_beside_the_published_figure_and_what_it_took():
    line = compared("1", EUROSAT, dataset="EuroSAT", method="adavipro", quantity="accuracy")
    assert line == {
        "table": "1", "dataset": "EuroSAT", "method": "adavipro", "prompt_px": "30", "setting": "",
        "quantity": "accuracy", "unit": "%", "published": "96.8", "ours": "96.00",
        "ci95": "2.48",  # 4.303 x 1 / sqrt(3)
        "difference": "-0.80", "inside": "yes", "seeds": "3", "seconds": "6.0", "memory_mb": "900", "device": "cpu",
        "recipe": "", "split": "coop", "source": "arXiv 2403.13282, Table 1", "note": "above a linear probe",
        "command": "adavipro sweep tables/table1.yaml --datasets eurosat --methods adavipro",
        "versions": "torch=2.14.1",
    }  # fmt: skip
    (told,) = [r for r in comparison.short([line]) if r["dataset"] == "EuroSAT"]
    assert (told["quantity"], told["ours"], told["difference"]) == ("accuracy (%)", "96.0 ± 2.5", "-0.8")


def test_inside_is_told_before_rounding_and_one_seed_has_no_interval():
    # Two runs, 0.02 above and below their mean: half the interval is 12.706 x 0.02 = 0.25412.
    for shift, inside in ((0.2540, "yes"), (0.2543, "no")):
        accuracies = ((96.8 - shift + d) / 100 for d in (0.02, -0.02))
        pair = [run("eurosat", "adavipro", 30, *cell) for cell in enumerate(accuracies)]
        line = compared("1", pair, dataset="EuroSAT", published="96.8")
        assert cells(line, "difference ci95 inside") == ["-0.25", "0.25", inside]
    line = compared("1", EUROSAT[:1], dataset="EuroSAT", published="96.8")
    assert cells(line, "ours ci95 difference inside seeds") == ["95.00", "", "-1.80", "", "1"]
    near = compared("1", [run("eurosat", "adavipro", 30, 0, 0.9678)], dataset="EuroSAT", published="96.8")
    assert (near["difference"], comparison.short([near])[0]["difference"]) == ("-0.02", "+0.0")


def test_a_figure_that_was_not_read_stays_blank_beside_ours():
    rows = [run("dtd", "zero-shot", None, 0, 0.44), *(run("dtd", "vp", 30, s, 0.5) for s in (0, 1))]
    found = comparison.lines("1", rows, *GRIDS["1"])
    line = the_line(found, dataset="DTD", method="vp", quantity="accuracy")
    assert cells(line, "published source difference inside ours ci95") == ["", "", "", "", "50.00", "0.00"]
    assert the_line(found, dataset="DTD", method="zero-shot")["ours"] == "44.00"


@pytest.mark.parametrize(
    ("table", "more", "told"),
    [
        ("VP", [], "table is 'VP', but it must be one of: 1, 2"),
        (
            "1",
            [{**EUROSAT[0], "key": "b"}],
            "eurosat adavipro 30 with seed 0 twice, as runs eurosatadavipro300 and b",
        ),
        (
            "1",
            [run("eurosat", "vp", 30, 0, 0.5, split="own")],
            "splits 'coop' and 'own', which do not compare",
        ),
    ],
)
def test_what_does_not_compare_is_refused(table, more, told):
    with pytest.raises(SettingError, match=re.escape(told)):
        comparison.lines(table, [*EUROSAT, *more], *GRIDS["1"])


def test_the_same_row_twice_and_rows_of_older_files_count_once():
    old = [{k: v for k, v in r.items() if k not in ("memory_mb", "device", "split")} for r in EUROSAT]
    line = compared("1", old + old[:1], dataset="EuroSAT", published="96.8")
    assert cells(line, "seeds memory_mb device split") == ["3", "", "", ""]


def test_files_are_a_whole_csv_and_two_tables_in_markdown_and_latex(tmp_path: Path):
    rows = [*EUROSAT, run("folder:a|b & c_d", "vp", 30, 0, 0.5)]
    found = comparison.lines("1", rows, [*NINE, "folder:a|b & c_d"], *GRIDS["1"][1:])
    paths = comparison.write(found, tmp_path / "new" / "table1.v2")
    assert [p.name for p in paths] == ["table1.v2.md", "table1.v2.csv", "table1.v2.tex"]
    assert tables.read_rows(paths[1]) == found
    assert paths[1].read_text() == to_csv(found)

    blocks = [b.splitlines() for b in paths[0].read_text().split("\n\n")[1:]]
    assert [len(b) for b in blocks] == [len(found) + 2] * 2
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1

    latex = paths[2].read_text()
    for block in re.findall(r"\\begin\{tabular\}\{(l+)\}\n(.*?)\\end\{tabular\}", latex, re.DOTALL):
        body = [line for line in block[1].splitlines() if not re.match(r"\\(top|mid|bottom)rule", line)]
        assert len(body) == len(found) + 1
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(block[0]) - 1}
        assert all(line.endswith(r"\\") for line in body)
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 2
    assert r"96.0 $\pm$ 2.5" in latex
    assert r" $-$0.8 " in latex
    assert r"-{}-datasets eurosat -{}-methods adavipro" in latex
    assert r"folder:a|b \& c\_d" in latex
    assert not re.search(r"(?<!\\)[%#_]|±|--", latex)
    assert len(re.findall(r"(?<!\\)\$", latex)) % 2 == 0
    assert not [line for line in latex.splitlines() if line.count("{") != line.count("}")]


def test_caption_says_how_the_epoch_was_picked_and_on_which_splits():
    told = comparison.caption(comparison.lines("1", EUROSAT, *GRIDS["1"]))
    assert "Published figures (arXiv 2403.13282, Table 1; arXiv 2203.17274 (VP))" in told
    assert "AdaViPro's text does not say; ours is picked on validation" in told
    assert "ours: coop." in told
    assert "ours: not said." in comparison.caption(comparison.lines("1", [], *GRIDS["1"]))
