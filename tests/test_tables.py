import csv
import math
import statistics
import subprocess
import sys

import open_clip
import pandas as pd
import pytest
import torch
from torch import nn

from adavipro import experiment
from adavipro.prompts import FramePrompt
from adavipro.recipe import SettingError
from adavipro.report import printing, results, studies, tables
from adavipro.report.results import BASELINES, CONTROLS, EMBEDDED, Estimate
from adavipro.where import MaskGenerator

T = {
    1: 12.706205,
    2: 4.302653,
    3: 3.182446,
    4: 2.776445,
    7: 2.364624,
    11: 2.200985,
}  # 97.5 % quantiles of Student's t
NAMES = ("digits", "letters", "sketches", "textures")
PLACE = ("dataset", "method", "prompt_px", "seed")


def interval(values):
    """Mean and half the width of the 95 % interval, as an estimate of the module's must be."""
    half = None
    if len(values) > 1:
        half = pytest.approx(T[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5, rel=1e-5)
    return (pytest.approx(statistics.fmean(values)), half)


def read(path, column="test_accuracy"):
    """A column of a file in percent, by study, value, data set, method, width and seed: by the standard library."""
    with path.open(newline="") as file:
        return {
            (r["study"], r.get("value", ""), r["dataset"], r["method"], r["prompt_px"], r["seed"]): 100
            * float(r[column])
            for r in csv.DictReader(file)
            if r[column]
        }


def by_seed(found, study, value, names, method, px):
    """Mean over data sets for each seed."""
    cells = [
        {seed: v for (s, val, name, m, w, seed), v in found.items() if (s, name, m, w) == (study, n, method, px)
         and value in (None, val)}
        for n in names
    ]  # fmt: skip
    return {seed: statistics.fmean(cell[seed] for cell in cells) for seed in cells[0]}


# --- Against the files that ship, computed anew ---------------------------------------------------------------------


def test_table_2_is_mean_and_interval_over_seeds_of_every_cell():
    found = read(EMBEDDED)
    table = tables.table("2").set_index(["dataset", "method"])
    assert list(table.index) == [
        (name, method) for name in (*NAMES, "mean") for method in ("zero-shot", "vp", "adavipro")
    ]
    for (name, method), line in table.iterrows():
        names = NAMES if name == "mean" else [name]
        for px, cell in line.items():
            width = "" if method == "zero-shot" else px.removesuffix(" px")
            assert cell[:2] == interval(list(by_seed(found, "main", None, names, method, width).values()))


def test_table_1_has_a_line_a_method_and_a_column_a_data_set():
    found = read(EMBEDDED) | read(BASELINES)
    table = tables.table("1").set_index("method")
    assert list(table) == [*NAMES, "mean"]
    methods = {
        "zero-shot": ("zero-shot", ""), "linear probe": ("linear-probe", ""), "full fine-tuning": ("fine-tune", ""),
        "VP": ("vp", "8"), "AdaViPro": ("adavipro", "8"),
    }  # fmt: skip
    assert list(table.index) == list(methods)
    for title, (method, px) in methods.items():
        for name, cell in table.loc[title].items():
            names = NAMES if name == "mean" else [name]
            assert cell[:2] == interval(list(by_seed(found, "main", "", names, method, px).values()))


def test_the_lead_is_the_difference_by_seed_of_each_data_set_and_of_those_with_an_object():
    found, mean = read(EMBEDDED), "mean of those with an object"
    table = tables.table("lead").set_index("dataset")
    assert list(table.index) == [*NAMES[:3], mean, "textures"]
    for name, line in table.iterrows():
        names = NAMES[:3] if name == mean else [name]
        for px, cell in line.items():
            width = px.removesuffix(" px")
            vp, own = (by_seed(found, "main", "", names, m, width) for m in ("vp", "adavipro"))
            assert cell[:2] == interval([own[seed] - vp[seed] for seed in vp])


def runs(found, study, value, method, px):
    """Accuracy by data set and seed."""
    return {
        (name, seed): v
        for (s, own, name, m, w, seed), v in found.items()
        if (s, own, m, w) == (study, value, method, px)
    }


@pytest.mark.parametrize("name", [*studies.TABLES, "training", "where"])
def test_an_ablation_pairs_each_run_with_the_recipes_own_of_the_same_data_set_and_seed(name):
    study, found = studies.TABLES.get(name, name), read(CONTROLS if name == "where" else EMBEDDED)
    own = "adavipro" if name == "where" else studies.own_value(study)
    lines = tables.table(name).to_dict("records")
    if name != "where":
        assert {line[study] for line in lines} == set(studies.VARIED[study])
    for line in lines:
        px, value = str(line["frame (px)"]), line[study]
        if name == "where":
            ours, theirs = (runs(found, "main", "", method, px) for method in (value, own))
        else:  # the recipe's own runs are those of the main grid beside the others
            ours = runs(found, study, value, line["method"], px)
            beside = ours or runs(found, study, lines[-1][study], line["method"], px)
            theirs = {
                cell: v for cell, v in runs(found, "main", "", line["method"], px).items() if cell in beside
            }
            ours = ours or theirs
        assert line["mean"][0] == pytest.approx(statistics.fmean(ours.values()))
        for data_set in NAMES:
            accuracies = [v for (d, _), v in ours.items() if d == data_set]
            assert line[data_set] == (pytest.approx(statistics.fmean(accuracies)), None, 1)
        if value == own:
            assert str(line["difference"]) == ""
        else:
            assert line["difference"][:2] == interval([v - theirs[cell] for cell, v in ours.items()])


def test_tuned_sets_both_methods_side_by_side_with_one_recipe_and_with_that_of_the_width():
    found, best = read(EMBEDDED), tables.read("search-vp-widths").rename(columns={"prompt_lr": "rate"})
    best = best.groupby(["prompt_px", "rate", "prompt_start_std"])["val_accuracy"].mean()
    lines = tables.table("tuned").to_dict("records")
    assert [line["frame (px)"] for line in lines] == studies.TUNED_PX
    for line in lines:
        px, value = line["frame (px)"], line["VP's recipe for this width"]
        rate, start = best[px].idxmax()
        assert value == f"20 epochs at rate {rate:g} from start {start:g}"
        tuned = {m: runs(found, "tuned", value, m, str(px)) for m in ("vp", "adavipro")}
        whole = {m: runs(found, "main", "", m, str(px)) for m in tuned}
        one = {m: {cell: whole[m][cell] for cell in tuned[m]} for m in tuned}
        for name, own in (("one recipe", one), ("tuned", tuned)):
            assert len(own["vp"]) == len(NAMES) * len(studies.ABLATION_SEEDS)
            for method, title in (("vp", "VP"), ("adavipro", "AdaViPro")):
                assert line[f"{title}, {name}"].mean == pytest.approx(statistics.fmean(own[method].values()))
            gaps = [own["adavipro"][cell] - v for cell, v in own["vp"].items()]
            assert line[f"lead, {name}"][:2] == interval(gaps)


def test_the_noise_is_told_by_width_and_epoch_as_the_mean_over_runs():
    table = tables.table("noise").set_index(["frame (px)", "epoch"])
    rows = results.read_table(results.EPOCHS, ())
    assert set(table.index) == {(px, epoch) for px in studies.ENDS_PX for epoch in (1, 5, 10, 15, 20)}
    for (px, epoch), line in table.iterrows():
        own = rows[(rows["prompt_px"] == px) & (rows["epoch"] == epoch - 1)]
        assert line["flips (%)"].mean == pytest.approx(100 * own["flips"].mean())
        assert line["temperature"].mean == pytest.approx(5 * 0.02 ** ((epoch - 1) / 19), abs=1e-4)


def test_each_small_clip_has_its_own_effects_in_its_column():
    table = tables.table("thumb").set_index("effect")
    name = f"VP at {studies.NARROW_PX} px, over zero-shot"
    for column, shown in zip(table, (results.read(results.FIRST_CLIP), results.read()), strict=True):
        assert table.loc[name, column] == tables.effects(shown).set_index("effect")["points"][name]
    assert table.notna().all(axis=None)


def test_effects_of_the_shipped_results_are_differences_seed_by_seed():
    found = read(EMBEDDED)
    vp, adavipro = (by_seed(found, "main", "", NAMES, method, "15") for method in ("vp", "adavipro"))
    told = tables.table("effects").set_index("effect")["points"]
    assert told["AdaViPro over VP at 15 px"][:2] == interval([adavipro[seed] - vp[seed] for seed in vp])


def test_masks_are_told_with_the_cover_of_the_data_sets_that_know_their_objects():
    table = tables.table("masks").set_index("frame (px)")
    cover, shares = read(EMBEDDED, "object_cover"), read(EMBEDDED, "share_on")
    told = {
        "regions on": (shares, NAMES, "adavipro"), "object cover": (cover, NAMES[:3], "adavipro"),
        "VP's object cover": (cover, NAMES[:3], "vp"),
    }  # fmt: skip
    for px, line in table.iterrows():
        for column, (found, names, method) in told.items():
            assert line[column][:2] == interval(
                [*by_seed(found, "main", "", names, method, str(px)).values()]
            )
        chance = {}  # by seed, of each data set
        for name in NAMES[:3]:
            on = by_seed(shares, "main", "", [name], "adavipro", str(px))
            under_vp = by_seed(cover, "main", "", [name], "vp", str(px))
            for seed in on:
                chance.setdefault(seed, []).append(on[seed] * under_vp[seed] / 100)
        assert line["by chance"][:2] == interval([*map(statistics.fmean, chance.values())])
        assert line["collapsed runs"] == "0 of 20"


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_what_methods_learn_at_the_papers_sizes_is_counted_on_the_modules():
    e = experiment.preset("paper", "adavipro")
    sizes = open_clip.get_model_config(e.network.model)
    image_px = sizes["vision_cfg"]["image_size"]
    with torch.device("meta"):  # shapes, and no memory
        tower = open_clip.CLIP(**sizes).visual
        masks = MaskGenerator(image_px, e.masks.region_px, e.masks.generator_width)
        probes = [nn.Linear(sizes["embed_dim"], classes) for classes in (10, 397)]
    frame = count(FramePrompt(image_px, e.prompt.prompt_px))
    assert {
        "zero-shot": (0,), "linear-probe": tuple(map(count, probes)), "fine-tune": (count(tower),), "vp": (frame,),
        "adavipro": (frame + count(masks),),
    } == tables.PAPER_PARAMETERS  # fmt: skip
    table = tables.table("3").set_index("method").map(str)
    assert table.loc["zero-shot"].tolist() == ["0", "", "0", ""]
    assert table.loc["linear probe"].tolist() == ["650 to 1,950", "12", "5,130 to 203,661", ""]
    assert table.loc["AdaViPro"].tolist() == ["7,106", "110", "202,706", "VP's + 0.13 M"]


# --- Against results made up ----------------------------------------------------------------------------------------

SETS = {"digits": 0.1, "letters": -0.1, "textures": 0.0}  # what is added to the mean over data sets
# Mean accuracy over the data sets (percent) for two seeds, by method and width.
ACCURACIES = {
    ("vp", 1): (54, 56), ("vp", 8): (60, 62), ("vp", 15): (55, 57), ("vp", 23): (44, 50), ("vp", 28): (40, 46),
    ("adavipro", 1): (55, 57), ("adavipro", 8): (60, 61), ("adavipro", 15): (61, 63), ("adavipro", 23): (58, 60),
    ("adavipro", 28): (57, 61),
}  # fmt: skip


@pytest.fixture
def rows():
    """A grid whose data sets differ by 10 points; one of them knows no objects, and one run has collapsed."""
    cells = [
        ("zero-shot", None, 0, 40.0),
        *((m, px, s, a) for (m, px), both in ACCURACIES.items() for s, a in enumerate(both)),
    ]
    found = pd.DataFrame(
        [(*cell[:3], cell[3] / 100 + shift, name) for cell in cells for name, shift in SETS.items()],
        columns=["method", "prompt_px", "seed", "test_accuracy", "dataset"],
    ).astype({"prompt_px": "Int64", "seed": "Int64"})
    found = found.assign(study="main", value="", share_on=0.5, mask_diversity=0.3, object_cover=0.2)
    found.loc[found["dataset"] == "textures", "object_cover"] = math.nan
    lost = found.query("method == 'adavipro' and prompt_px == 28 and seed == 1 and dataset == 'letters'")
    found.loc[lost.index, "share_on"] = 0.02
    return found


def told(rows):
    return {line["effect"]: str(line["points"]) for line in tables.effects(rows).to_dict("records")}


def test_effects_name_the_best_and_the_worst_width(rows):
    points = tables.effects(rows).set_index("effect")["points"]
    assert {name: size.mean for name, size in points.items()} == {
        "VP at 8 px, over zero-shot": pytest.approx(21),
        "VP at full cover, over its best width (8 px)": pytest.approx(-18),
        "AdaViPro over VP at 1 px": pytest.approx(1),
        "AdaViPro over VP at 8 px": pytest.approx(-0.5),
        "AdaViPro over VP at 15 px": pytest.approx(6),
        "AdaViPro over VP at 23 px": pytest.approx(12),
        "AdaViPro over VP at 28 px": pytest.approx(16),
        "AdaViPro over VP, mean of the four other widths": pytest.approx(
            8.75
        ),  # 1, 6, 14, 17 and 1, 6, 10, 15
        "AdaViPro at full cover, over its best width (15 px)": pytest.approx(-3),
        "AdaViPro at its worst width (1 px), over zero-shot": pytest.approx(16),
    }


def test_a_rival_with_one_seed_leaves_one_pair_and_no_interval(rows):
    fewer = rows.query("not (method == 'vp' and prompt_px == 28 and seed == 0)")
    assert told(rows)["AdaViPro over VP at 28 px"] == "16.0 ± 12.7"  # 17 and 15: 12.706 x 1.414 / sqrt(2)
    assert told(fewer)["AdaViPro over VP at 28 px"] == "15.0"
    assert told(fewer)["AdaViPro over VP, mean of the four other widths"] == "8.0"
    assert told(fewer)["AdaViPro over VP at 23 px"] == "12.0 ± 25.4"


def test_collapsed_runs_are_counted(rows):
    table = tables.masks(rows).set_index("frame (px)").map(str)
    assert table["collapsed runs"].tolist() == [*["0 of 6"] * 4, "1 of 6"]
    assert table.loc[28, "regions on"].startswith("42.0 ±")  # 50, and (50 + 2 + 50) / 3
    assert table.loc[8, "object cover"] == "20.0 ± 0.0"


def test_methods_that_table_1_does_not_know_come_last_and_a_mean_needs_all_data_sets(rows):
    soft = rows.query("method == 'vp' and dataset == 'digits'").assign(method="soft-masks")
    table = tables.by_method(pd.concat([soft, rows])).set_index("method").map(printing.cell_text)
    assert list(table.index) == [
        "zero-shot",
        "linear probe",
        "full fine-tuning",
        "VP",
        "AdaViPro",
        "soft-masks",
    ]
    assert table.loc["soft-masks"].tolist() == ["71.0 ± 12.7", "", "", ""]


@pytest.mark.parametrize("name", ["2", "effects", "masks", "4", "search-vp", "9"])
def test_a_table_says_what_is_missing(name):
    rows = pd.DataFrame({"study": ["edges"], "value": ["True"], "dataset": ["digits"], "method": ["vp"]})
    rows = rows.assign(prompt_px=8, seed=0, key="").assign(test_accuracy=math.nan)
    with pytest.raises(SettingError, match=r"the results hold no |table is '9', but it must be one of: 1, 2"):
        tables.table(name, rows)


# --- Printed --------------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame(
    {
        "method": ["vp", "a|b_c"],
        "px": pd.array([8, None], "Int64"),
        "points": [Estimate(-1.25, 0.5), Estimate(math.nan)],
    }
)


def test_a_frame_is_printed_as_markdown_as_csv_with_every_digit_and_as_latex():
    assert tables.to_markdown(FRAME).splitlines() == [
        "| method | px | points |",
        "| --- | --- | --- |",
        "| vp | 8 | -1.2 ± 0.5 |",
        r"| a\|b_c |  |  |",
    ]
    assert tables.to_csv(FRAME) == "method,px,points,points ci95\nvp,8,-1.25,0.5\na|b_c,,,\n"
    latex = tables.to_latex(FRAME)
    assert r"$-$1.2 $\pm$ 0.5" in latex
    assert r"a|b\_c" in latex
    assert latex.count("rule") == 3


def test_a_table_of_results_needs_neither_torch_nor_open_clip():
    command = (
        "import sys; from adavipro.report import published, tables; tables.to_markdown(tables.table('2')); "
        "print({'torch', 'open_clip', 'matplotlib'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, text=True).stdout == "set()\n"
