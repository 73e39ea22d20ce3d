import pytest

from adavipro import effects

NAMES, SHIFTS = ("digits", "letters", "textures"), (0.1, -0.1, 0.0)
# Mean accuracy over the data sets (percent) for two seeds, by method and width.
ACCURACIES = {
    ("vp", 1): (54, 56), ("vp", 8): (60, 62), ("vp", 15): (55, 57), ("vp", 23): (44, 50), ("vp", 28): (40, 46),
    ("adavipro", 1): (55, 57), ("adavipro", 8): (60, 61), ("adavipro", 15): (61, 63), ("adavipro", 23): (58, 60),
    ("adavipro", 28): (57, 61),
}  # fmt: skip


def row(dataset, method, px, seed, accuracy, **more):
    return {"study": "main", "value": "", "dataset": dataset, "method": method, "prompt_px": px, "seed": seed,
            "test_accuracy": accuracy, **more}  # fmt: skip


@pytest.fixture
def rows():
    """A grid whose data sets differ by 10 points; one of them knows no objects."""
    blank = {"share_on": None, "mask_diversity": None, "object_cover": None}
    found = [
        row(name, "zero-shot", None, 0, 0.4 + shift, **blank)
        for name, shift in zip(NAMES, SHIFTS, strict=True)
    ]
    for (method, px), accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            for name, shift in zip(NAMES, SHIFTS, strict=True):
                on = 1.0 if method == "vp" else (0.02 if (px, seed, name) == (28, 1, "letters") else 0.5)
                cover = None if name == "textures" else (0.8 if method == "vp" else 0.2)
                more = {"share_on": on, "mask_diversity": 0.3, "object_cover": cover}
                found.append(row(name, method, px, seed, accuracy / 100 + shift, **more))
    return found


def test_effects_are_differences_seed_by_seed_of_the_mean_over_data_sets(rows):
    told = {line["effect"]: line["points"].split(" ± ")[0] for line in effects.effects(rows)}
    assert told == {
        "VP at 8 px, over zero-shot": "21.0",
        "VP at full cover, over its best width (8 px)": "-18.0",
        "AdaViPro over VP at 1 px": "1.0",
        "AdaViPro over VP at 8 px": "-0.5",
        "AdaViPro over VP at 15 px": "6.0",
        "AdaViPro over VP at 23 px": "12.0",
        "AdaViPro over VP at 28 px": "16.0",
        "AdaViPro over VP, mean of the four other widths": "8.8",  # 1, 6, 14, 17 and 1, 6, 10, 15
        "AdaViPro at full cover, over its best width (15 px)": "-3.0",
        "AdaViPro at its worst width (1 px), over zero-shot": "16.0",
    }
    # differences 17 and 15: 12.706 x 1.414 / sqrt(2)
    (full,) = (
        line["points"] for line in effects.effects(rows) if line["effect"] == "AdaViPro over VP at 28 px"
    )
    assert full == "16.0 ± 12.7"


def test_effects_stand_beside_vp_tuned_for_each_width_where_it_ran(rows):
    tuned = [
        {**r, "study": "vp-tuned", "test_accuracy": r["test_accuracy"] + 0.01}
        for r in rows
        if r["method"] == "vp"
    ]
    told = {line["effect"]: line["points"].split(" ± ")[0] for line in effects.effects(rows + tuned)}
    assert told["AdaViPro over VP with its rate tuned for each width at 28 px"] == "15.0"
    assert told["AdaViPro over VP with its rate tuned for each width, mean of the four other widths"] == "7.8"


def test_masks_are_told_with_their_collapsed_runs_and_the_cover_of_data_sets_that_know_it(rows):
    lines = {line["frame (px)"]: line for line in effects.mask_table(rows)}
    assert list(lines) == ["1", "8", "15", "23", "28"]
    assert lines["8"]["regions on"] == "50.0 ± 0.0"
    assert lines["8"]["object cover"] == "20.0 ± 0.0"
    assert lines["8"]["VP's object cover"] == "80.0 ± 0.0"
    assert [line["collapsed runs"] for line in lines.values()] == [*["0 of 6"] * 4, "1 of 6"]
    assert lines["28"]["regions on"].startswith("42.0 ±")  # 50, and (50 + 2 + 50) / 3


@pytest.mark.parametrize(
    "name", sorted(effects.TABLES.keys() - {"1", "where"})
)  # the one leaves blanks, the other has a file
def test_a_table_says_what_the_results_lack(name):
    rows = [{"dataset": "digits", "method": "adavipro", "prompt_px": "8", "test_accuracy": "0.5"}]
    with pytest.raises(ValueError, match=f"the results hold no .* which table {name} needs"):
        effects.table(name, rows)


def test_answers_to_where_stand_beside_adavipros_with_their_cover():
    lines = effects.table("where", [])
    assert [line["frame (px)"] for line in lines] == 7 * ["8"] + 7 * ["28"]
    assert [line["where"] for line in lines[:2]] == ["vp", "adavipro"]
    at = {(line["frame (px)"], line["where"]): line for line in lines}
    assert at["28", "adavipro"]["difference"] == ""
    assert float(at["28", "random-masks"]["difference"].split()[0]) < -5
    assert at["28", "vp"]["objects covered (%)"] == "100"
    assert at["28", "smm"]["objects covered (%)"] == ""
