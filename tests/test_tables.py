import itertools
import statistics
from collections import Counter

import pytest
from scipy import stats

from adavipro import datasets, effects, studies, sweeps, tables
from adavipro.presets import SEARCH, SEARCH_SEEDS, preset
from adavipro.settings import SettingError


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


def test_mean_over_data_sets_is_taken_seed_by_seed_where_no_data_set_is_missing():
    cells = [
        ("digits", 0, 0.5),
        ("letters", 0, 0.7),
        ("digits", 1, 0.6),
        ("letters", 1, 0.9),
        ("digits", 2, 0.1),
    ]
    rows = [
        {"dataset": d, "method": "vp", "prompt_px": 8, "seed": s, "test_accuracy": a} for d, s, a in cells
    ]
    means = [r for r in tables.with_mean(rows) if r["dataset"] == "mean"]
    assert [(r["seed"], r["test_accuracy"]) for r in means] == [
        (0, pytest.approx(0.6)),
        (1, pytest.approx(0.75)),
    ]
    line = tables.accuracy_matrix(rows)[-1]
    assert line == {"dataset": "mean", "method": "vp", "8 px": "67.5 ± 95.3"}  # 12.706 x 7.5
    one_set = [r for r in rows if r["dataset"] == "digits"]
    assert tables.with_mean(one_set) == one_set


def test_vp_tuned_for_each_width_stands_beside_vp_and_ablations_stay_out():
    row = {"dataset": "digits", "method": "vp", "prompt_px": 8, "seed": 0, "test_accuracy": 0.5}
    rows = [{**row, "study": study} for study in ("main", "vp-tuned", "edges")]
    kept = tables.of_studies(rows, "main", "vp-tuned")
    assert [line["method"] for line in tables.accuracy_matrix(kept)] == ["vp", "vp-tuned"]
    assert tables.of_studies([row], "main") == [row]


def test_ablation_pairs_each_run_with_the_recipes_own_of_the_same_data_set_and_seed():
    def rows(study, value, accuracies, method="adavipro"):
        cells = [("digits", 0), ("digits", 1), ("letters", 0), ("letters", 1)]
        return [
            {
                "study": study, "value": value, "dataset": d, "method": method, "prompt_px": 28, "seed": s,
                "test_accuracy": a,
            }
            for (d, s), a in zip(cells, accuracies, strict=True)
        ]  # fmt: skip

    found = rows("edges", "True", [0.6, 0.7, 0.3, 0.4]) + rows("edges", "False", [0.59, 0.67, 0.29, 0.37])
    head = {"method": "adavipro", "frame (px)": "28"}
    # differences -1, -3, -1, -3: mean -2, 3.182 x deviation 1.155 / 2
    assert tables.ablation_matrix(found, "edges", "True") == [
        {**head, "edges": "True", "digits": "65.0", "letters": "35.0", "mean": "50.0", "difference": ""},
        {
            **head,
            "edges": "False",
            "digits": "63.0",
            "letters": "33.0",
            "mean": "48.0",
            "difference": "-2.0 ± 1.8",
        },
    ]
    found = rows("main", "", [0.5, 0.5, 0.5, 0.5]) + rows("main", "", [0.1] * 4, "vp")
    found += rows("random_share", "0.35", [0.4, 0.4, 0.4, 0.4])
    lines = tables.ablation_matrix(found, "random_share", "learned")
    assert [(line["random_share"], line["mean"], line["difference"]) for line in lines] == [
        ("learned", "50.0", ""),
        ("random", "40.0", "-10.0 ± 0.0"),
    ]


def test_unknown_world_lists_those_that_ship():
    with pytest.raises(ValueError, match="world is 'paper', but results ship for: embedded"):
        tables.read_results("paper")


# --- What ships ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return tables.read_results("embedded")


def test_shipped_results_hold_every_run_of_every_study_under_todays_presets_and_weights(shipped):
    searched = tables.read_rows(tables.SEARCHED_VP)
    for study in studies.STUDIES:
        main = tables.of_studies(shipped, "main")
        wanted = {run.key(): str(value) for value, run in studies.runs_of(study, main, searched)}
        found = tables.of_studies(shipped, study)
        assert {r["key"]: r["value"] for r in found} == wanted, (
            f"{study}: run `adavipro sweep --studies {study}`"
        )
        assert len(found) == len(wanted)


def test_main_results_have_five_seeds_for_every_data_set_method_and_width(shipped):
    main = tables.of_studies(shipped, "main")
    cells = Counter((r["dataset"], r["method"], r["prompt_px"]) for r in main if r["method"] != "zero-shot")
    grid = itertools.product(datasets.CLASS_NAMES, ("vp", "adavipro"), ("1", "8", "15", "23", "28"))
    assert cells == dict.fromkeys(grid, 5)


@pytest.mark.parametrize("method", ["vp", "adavipro"])
def test_recipe_is_the_best_of_the_search_on_validation(method):
    """Of those that ran with every search seed."""
    rows = tables.read_rows(tables.SEARCHED_VP.with_name(f"search_{method}.csv"))
    best = sweeps.ranking([r for r in rows if r["prompt_px"] == "8"], method)[0]
    assert int(best["runs"]) == len(datasets.CLASS_NAMES) * len(SEARCH_SEEDS)
    run = preset("embedded", method)
    assert {name: best[name] for name in SEARCH[method]} == {
        name: str(getattr(run, name)) for name in SEARCH[method]
    }


def test_ablation_values_are_read_as_results_files_write_them():
    for study, values in studies.ABLATIONS.items():
        for value in values:
            read = effects.ablation_value(study, str(value))
            assert read == value
            assert type(read) is type(value)
    with pytest.raises(SettingError, match="study is 'epoch', but it must be one of: edges, region_px"):
        effects.ablation_value("epoch", "5")
    with pytest.raises(SettingError, match="value is '7', but the values of region_px are: 2, 4, 8, 14"):
        effects.ablation_value("region_px", "7")


def test_table_1_has_a_line_a_method_and_a_column_a_data_set():
    mixed = [{**r, "seed": i} for i, r in enumerate(ROWS)] + [
        {**row, "seed": 0} for row in rows_of("letters", "linear-probe", None, [0.75])
    ]
    assert tables.main_matrix(mixed, 8) == [
        {"method": "zero-shot", "digits": "", "letters": "50.0"},
        {"method": "linear probe", "digits": "", "letters": "75.0"},
        {"method": "VP", "digits": "", "letters": "60.0 ± 24.8"},
        {"method": "AdaViPro", "digits": "62.5", "letters": ""},
    ]
