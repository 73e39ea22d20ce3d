import statistics
from collections import Counter

import pytest
from scipy import stats

from adavipro import datasets, tables
from adavipro.presets import FRAMES_PX, preset


def rows_of(dataset, method, prompt_px, accuracies):
    return [
        {"dataset": dataset, "method": method, "prompt_px": prompt_px, "test_accuracy": a} for a in accuracies
    ]


ROWS = [
    *rows_of("letters", "zero-shot", None, [0.5]),
    *rows_of("letters", "vp", 8, [0.5, 0.6, 0.7]),
    *rows_of("letters", "vp", 28, [0.25, 0.25]),
    *rows_of("digits", "adavipro", 8, [0.625]),
]


@pytest.mark.parametrize("n", [2, 3, 5, 10, 20])
def test_interval_is_scipys(n):
    values = [60.0 + 1.7 * i**1.5 for i in range(n)]
    low, high = stats.t.interval(0.95, n - 1, loc=statistics.fmean(values), scale=stats.sem(values))
    assert tables.confidence_half_width(values) == pytest.approx((high - low) / 2, rel=5e-4)


def test_interval_of_many_values_is_a_little_wider_and_of_one_there_is_none():
    values = [float(i) for i in range(60)]
    low, high = stats.t.interval(0.95, 59, scale=stats.sem(values))
    assert (high - low) / 2 < tables.confidence_half_width(values) < 1.06 * (high - low) / 2
    assert tables.confidence_half_width([1.0]) is None


def test_summary_is_mean_and_interval_in_percent_of_each_group():
    assert tables.summarise(ROWS) == [
        {
            "dataset": dataset,
            "method": method,
            "prompt_px": px,
            "seeds": seeds,
            "mean": mean,
            "ci95": interval,
        }
        for dataset, method, px, seeds, mean, interval in [
            ("letters", "zero-shot", "", 1, "50.00", ""),
            ("letters", "vp", "8", 3, "60.00", "24.84"),  # 4.303 x 10 / sqrt(3)
            ("letters", "vp", "28", 2, "25.00", "0.00"),
            ("digits", "adavipro", "8", 1, "62.50", ""),
        ]
    ]


def test_summary_is_the_same_for_rows_read_from_a_file_and_skips_what_is_blank():
    text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in ROWS]
    assert tables.summarise([*text, {**text[0], "test_accuracy": ""}]) == tables.summarise(ROWS)


def test_matrix_has_a_line_a_method_and_a_column_a_width():
    markdown = tables.to_markdown(tables.accuracy_matrix(ROWS)).splitlines()
    assert markdown == [
        "| dataset | method | 8 px | 28 px |",
        "| --- | --- | --- | --- |",
        "| digits | adavipro | 62.5 |  |",
        "| letters | zero-shot | 50.0 | 50.0 |",
        "| letters | vp | 60.0 ± 24.8 | 25.0 ± 0.0 |",
    ]


def test_unknown_world_lists_those_that_ship():
    with pytest.raises(ValueError, match="world is 'paper', but results ship for: embedded"):
        tables.read_results("paper")


# --- What ships ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return tables.read_results("embedded")


def test_shipped_results_are_a_whole_grid_of_at_least_three_seeds(shipped):
    runs = Counter((r["dataset"], r["method"], r["prompt_px"]) for r in shipped)
    grid = [(m, str(px)) for m in ("vp", "adavipro") for px in (1, 8, 15, 23, 28)] + [("zero-shot", "")]
    assert runs.keys() == {(name, *cell) for name in datasets.CLASS_NAMES for cell in grid}
    seeds = {n for (_, method, _), n in runs.items() if method != "zero-shot"}
    assert len(seeds) == 1
    assert min(seeds) >= 3
    assert len({r["key"] for r in shipped}) == len(shipped)
    assert sorted(FRAMES_PX.values()) == [1, 8, 15, 23, 28]


def test_shipped_results_are_those_of_todays_presets_and_weights(shipped):
    for row in shipped:
        changes = {"prompt_px": int(row["prompt_px"])} if row["prompt_px"] else {}
        run = preset("embedded", row["method"], dataset=row["dataset"], seed=int(row["seed"]), **changes)
        assert run.key() == row["key"], f"{row['dataset']} {row['method']} {row['prompt_px']}: run it again"
