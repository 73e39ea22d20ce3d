"""Tables of results: numbers and estimates in data frames, and how they are printed."""

import math
import re
import statistics
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pandas as pd

from adavipro.recipe import SettingError
from adavipro.report import published, results, studies
from adavipro.report.printing import to_csv as to_csv  # one module to import for a reader's needs
from adavipro.report.printing import to_latex as to_latex
from adavipro.report.printing import to_markdown as to_markdown
from adavipro.report.results import BASELINES, MEAN, Estimate, estimate, means_by_seed, of_studies, summarise
from adavipro.report.studies import FULL_PX, NARROW_PX

TITLES = {
    "zero-shot": "zero-shot", "linear-probe": "linear probe", "fine-tune": "full fine-tuning", "vp": "VP",
    "adavipro": "AdaViPro",
}  # fmt: skip
# Orders of methods in tables.
BY_WIDTH = (
    "zero-shot", "linear-probe", "fine-tune", "vp", "adavipro", "soft-masks", "random-masks",
)  # fmt: skip
SHOTS_PX = 30  # the frame of photographs at which few images are tried
BY_ANSWER = ("vp", "adavipro", "untrained-masks", "random-masks", "soft-masks")
# What each method learns on CLIP ViT-B/32 at the paper's sizes. A linear probe's depend on the classes: with the fewest
# and the most of the nine data sets, 10 and 397.
PAPER_PARAMETERS = {
    "zero-shot": (0,), "linear-probe": (5_130, 203_661), "fine-tune": (87_849_216,), "vp": (69_840,),
    "adavipro": (202_706,),
}  # fmt: skip


def table(name: str, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """Compute a table of NAMES from results, as `read` gives them; by default from those that ship.

    Raises:
        SettingError: if there is no such table, or the results lack a run or column that it needs.
    """
    if name not in NAMES:
        raise SettingError(f"table is {name!r}, but it must be one of: {', '.join(NAMES)}")
    rows = read(name) if rows is None else rows
    try:
        if not (found := rows).empty:
            found = ablation(rows, studies.TABLES[name]) if name in studies.TABLES else OTHERS[name](rows)
    except LookupError as error:
        raise SettingError(f"the results hold no {error}, which table {name} needs") from None
    if found.empty:
        way_out = (
            "tools/make_results.py" if name in (*SEARCHES, "noise", "training", "tuned") else "adavipro sweep"
        )
        raise SettingError(f"the results hold no runs for table {name}: make them with `{way_out}`")
    return found


def read(name: str, path: Path | None = None) -> pd.DataFrame:
    """Read the results that a table is of, a row a run (of noise: an epoch): those that ship, or a file like them."""
    if name in SEARCHES:
        needed = ("dataset", "prompt_px", "seed", "prompt_lr", "val_accuracy", "key")
        shipped = results.FOLDER / f"{name.replace('-', '_')}.csv"
        return results.read_table(path or shipped, needed)
    if name == "noise":
        return results.read_table(
            path or results.EPOCHS, ("prompt_px", "epoch", "logit_gap", "flips", "soft")
        )
    return results.read(path or results.shipped_for(name))


def _ordered(names: Collection[str], order: Collection[str] = (), last: str = "") -> list[str]:
    """Names, once each: those of the order first, then the others by name, and one of them last."""
    places = {name: i for i, name in enumerate(order)}
    return sorted(set(names), key=lambda name: (name == last, places.get(name, len(places)), name))


def with_baselines(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the main grid at the narrow frame, and those of the baselines that ship beside them (Tables 1 and 3)."""
    main = of_studies(rows, "main")
    main = main[main["prompt_px"].fillna(NARROW_PX) == NARROW_PX]
    shipped = results.read_table(BASELINES, ("study", "dataset", "method", "test_accuracy"))
    shipped = of_studies(shipped, "main")
    shipped = shipped[shipped["dataset"].isin(main["dataset"]) & ~shipped["method"].isin(main["method"])]
    return pd.concat([main, shipped], ignore_index=True)


def by_method(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 1: every method, prompts at the narrow frame, on every data set and on their mean."""
    wide = summarise(with_baselines(rows)).pivot(index="method", columns="dataset", values="estimate")
    wide = wide.reindex(_ordered(wide.index, TITLES), columns=_ordered(wide, last=MEAN))
    return wide.rename(index=TITLES).reset_index()


def by_width(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 2: every method at every width of the frame, on every data set and on their mean."""
    wide = _wide(summarise(of_studies(rows, "main")).fillna({"prompt_px": 0}), "prompt_px")
    if 0 in wide:  # without a prompt: the same at every width
        bare = wide.pop(0)
        wide = wide.apply(lambda cells: cells.where(cells.notna(), bare))
    return wide.rename(columns="{} px".format).reset_index()


def by_shots(rows: pd.DataFrame) -> pd.DataFrame:
    """Photographs: methods at the frame of 30 px with few training images a class, and with all of them."""
    main, few = of_studies(rows, "main"), of_studies(rows, "shots")
    if few.empty:
        return few
    parts = {f"{value} shots": own for value, own in few.groupby("value", sort=False)}
    beside = main["method"].isin(few["method"]) & (main["prompt_px"].fillna(SHOTS_PX) == SHOTS_PX)
    parts["all images"] = main[beside]
    told = pd.concat([summarise(own).assign(shots=name) for name, own in parts.items()])
    return _wide(told, "shots")[list(parts)].reset_index()


def _wide(summary: pd.DataFrame, column: str) -> pd.DataFrame:
    """A summary with a line for each data set and method, and a column for each value of one of its columns."""
    wide = summary.pivot(index=["dataset", "method"], columns=column, values="estimate")
    order = [_ordered(wide.index.unique(0), last=MEAN), _ordered(wide.index.unique(1), BY_WIDTH)]
    return wide.reindex(pd.MultiIndex.from_product(order, names=wide.index.names)).dropna(how="all")


def price(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 3: what each method learns, here and at the paper's sizes, and the seconds of a run here.

    Of runs with one thread, mean over data sets and seeds; prompts at the narrow frame.
    """
    figures = published.of_table("3").set_index(["method", "quantity"])["value"]
    added = figures["adavipro", "added parameters"]
    told = {"vp": f"{figures['vp', 'parameters']:g} M", "adavipro": f"VP's + {added:g} M"}
    groups = with_baselines(rows).groupby("method")
    own = {method: groups.get_group(method) for method in TITLES if method in groups.groups}
    lines = [
        {
            "method": TITLES[method],
            "parameters": _from_to(runs["parameters"]),
            "seconds": Estimate(runs["seconds"].mean(), places=0),
            "parameters at the paper's sizes": _from_to(PAPER_PARAMETERS[method]),
            "published": told.get(method, ""),
        }
        for method, runs in own.items()
    ]
    return pd.DataFrame(lines)


def _from_to(counts: Collection[int]) -> str:
    """A count, or the least and the most of several."""
    return " to ".join(f"{n:,}" for n in sorted({min(counts), max(counts)}))


def _means(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean over data sets in percent: a row a seed, columns (method, width); zero-shot has width 0."""
    means = means_by_seed(rows, value).fillna({"prompt_px": 0})
    return 100 * means.pivot(index="seed", columns=["method", "prompt_px"], values=value)


def effects(rows: pd.DataFrame) -> pd.DataFrame:
    """List each effect with its size, mean over data sets with its 95 % interval over seeds.

    Accuracy in points of percent, differences taken seed by seed. The paper reports the first three of AdaViPro's
    on CLIP, where its mean gain over VP at the four other widths is 9.0 (Table 2).
    """
    found = _means(of_studies(rows, "main"), "test_accuracy")
    vp, ada = found["vp"], found["adavipro"]
    zero_shot = found["zero-shot", 0].dropna().iloc[0]  # nothing is drawn: one for all seeds
    vp_best, best, worst = vp.mean().idxmax(), ada.mean().idxmax(), ada.mean().idxmin()
    lines = {
        f"VP at {NARROW_PX} px, over zero-shot": vp[NARROW_PX] - zero_shot,
        f"VP at full cover, over its best width ({vp_best} px)": vp[FULL_PX] - vp[vp_best],
    }
    gaps = ada - vp
    lines |= {f"AdaViPro over VP at {px} px": gaps[px] for px in gaps}
    others = gaps.drop(columns=NARROW_PX).mean(axis=1, skipna=False)
    lines["AdaViPro over VP, mean of the four other widths"] = others
    lines[f"AdaViPro at full cover, over its best width ({best} px)"] = ada[FULL_PX] - ada[best]
    lines[f"AdaViPro at its worst width ({worst} px), over zero-shot"] = ada[worst] - zero_shot
    return pd.DataFrame({"effect": lines.keys(), "points": map(estimate, lines.values())})


def lead(rows: pd.DataFrame) -> pd.DataFrame:
    """AdaViPro over VP in points, by data set and width, with the 95 % interval over pairs of the same seed.

    A line for each data set, and one for the mean of those that show an object.
    """
    rows = of_studies(rows, "main").dropna(subset=["prompt_px"])
    objects = rows[rows["dataset"].isin(rows.loc[rows["object_cover"].notna(), "dataset"])]
    mean = "mean of those with an object"
    rows = pd.concat([rows, means_by_seed(objects).assign(dataset=mean)])
    own = 100 * rows.pivot(index=["dataset", "prompt_px", "seed"], columns="method", values="test_accuracy")
    wide = (own["adavipro"] - own["vp"]).groupby(level=[0, 1]).apply(estimate).unstack()
    order = [*_ordered(objects["dataset"]), mean]
    return wide.reindex(_ordered(wide.index, order)).rename(columns="{} px".format).reset_index()


def masks(rows: pd.DataFrame) -> pd.DataFrame:
    """AdaViPro's masks by width: regions on, how much masks differ, object pixels under the prompt beside VP's.

    In percent, mean over data sets (those that know their objects, for the cover), and the number of runs whose
    masks are collapsed (under 5 or over 95 % on). "by chance" is the cover of a mask with as many regions on, at places
    that know nothing of the image: that share of VP's.
    """
    rows = of_studies(rows, "main")
    cover = _means(rows, "object_cover")
    own, vp = (rows[rows["method"] == method].dropna(subset=["share_on"]) for method in ("adavipro", "vp"))
    beside = own.merge(vp, on=["dataset", "prompt_px", "seed"], suffixes=("", "_vp"))
    beside["chance"] = beside["share_on"] * beside["object_cover_vp"]
    columns = {
        "regions on": _means(rows, "share_on")["adavipro"],
        "diversity": _means(rows, "mask_diversity")["adavipro"],
        "object cover": cover["adavipro"],
        "by chance": _means(beside, "chance")["adavipro"],
        "VP's object cover": cover["vp"],
    }
    told = {name: pd.Series({px: estimate(means[px]) for px in means}) for name, means in columns.items()}
    lost = (~own["share_on"].between(0.05, 0.95)).groupby(own["prompt_px"])
    told["collapsed runs"] = lost.agg(lambda runs: f"{sum(runs)} of {len(runs)}")
    return pd.DataFrame(told).rename_axis("frame (px)").reset_index()


def ablation(rows: pd.DataFrame, study: str) -> pd.DataFrame:
    """An ablation as a reader's table: a line for each method, width and value.

    Columns method, frame (px), <study> (the value as text), each data set and their mean over seeds, and the difference
    from the recipe's own value with its 95 % interval over pairs of the same data set and seed; blank of that value
    itself. Where the study has no runs of that value, those of the main grid beside its own are taken.
    """
    found, own = of_studies(rows, study), studies.own_value(study)
    if own not in set(found["value"]):
        beside = found[["dataset", "method", "prompt_px", "seed"]].drop_duplicates()
        found = pd.concat([of_studies(rows, "main").merge(beside).assign(value=own), found])
    return _compared(found, study, own)


def _compared(rows: pd.DataFrame, title: str, own: str) -> pd.DataFrame:
    """Accuracy by method, width and value, and the difference from the value `own`."""
    rows = rows.assign(percent=100 * rows["test_accuracy"]).dropna(subset=["percent"])
    names = _ordered(rows["dataset"])
    cells = rows.set_index(["dataset", "seed"]).groupby(["method", "prompt_px", "value"], sort=False)
    groups = dict(iter(cells["percent"]))
    lines = []
    for (method, px, value), percent in groups.items():
        line: dict[str, Any] = {"method": method, "frame (px)": px, title: value}
        line |= {name: Estimate(estimate(percent.get(name, ())).mean) for name in names}
        whole = all(name in percent for name in names)
        line[MEAN] = Estimate(statistics.fmean(percent) if whole else math.nan)
        others = groups.get((method, px, own))
        line["difference"] = estimate(() if value == own or others is None else percent - others)
        lines.append(line)
    return pd.DataFrame(lines)


def training(rows: pd.DataFrame) -> pd.DataFrame:
    """Both methods at both ends of the widths, by length of training, start of the template and its rate."""
    return ablation(rows, "training").sort_values(["frame (px)", "method"], kind="stable")


def tuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Both methods with their one recipe, and both with the rate and start that validation picks for VP at each width.

    Means over data sets; AdaViPro's lead over VP with its 95 % interval over pairs of the same data set and seed.
    """
    found, runs, lines = of_studies(rows, "tuned"), ["dataset", "prompt_px", "seed"], []
    for px, picked in found.groupby("prompt_px"):
        line: dict[str, Any] = {"frame (px)": px, "VP's recipe for this width": picked["value"].iloc[0]}
        beside = of_studies(rows, "main").merge(picked[runs].drop_duplicates())
        for name, own in (("one recipe", beside), ("tuned", picked)):
            wide = 100 * own.pivot(index=runs, columns="method", values="test_accuracy")
            line |= {f"{TITLES[m]}, {name}": Estimate(wide[m].mean()) for m in ("vp", "adavipro")}
            line[f"lead, {name}"] = estimate(wide["adavipro"] - wide["vp"])
        lines.append(line)
    return pd.DataFrame(lines)


def where(rows: pd.DataFrame) -> pd.DataFrame:
    """Every answer to "where" beside AdaViPro's, from the sweep of tables/embedded_controls.yaml.

    Accuracy by data set and on the mean, difference from AdaViPro with its 95 % interval over pairs of the same data
    set and seed, and how much of the objects the prompt covers (textures tell none).
    """
    order = {name: place for place, name in enumerate(_ordered(rows["method"], BY_ANSWER))}
    rows = rows.dropna(subset=["test_accuracy"])
    rows = rows.sort_values(["prompt_px", "method"], key=lambda column: column.replace(order), kind="stable")
    found = _compared(rows.assign(value=rows["method"], method=""), "where", "adavipro")
    cover = 100 * rows.groupby(["prompt_px", "method"], sort=False)["object_cover"].mean()
    found["objects covered (%)"] = [Estimate(share, places=0) for share in cover]
    return found.drop(columns="method")


def thumb(rows: pd.DataFrame) -> pd.DataFrame:
    """The effects with the first small CLIP, whose pretraining knew the method's grid, and with its successor.

    Each with its own recipe: of five epochs the first, of twenty the other.
    """
    parts = {
        "first CLIP, 5 epochs": results.read(results.FIRST_CLIP),
        "this CLIP, 20 epochs": of_studies(rows, "main"),
    }
    by_effect = [effects(own).set_index("effect")["points"] for own in parts.values()]
    by_effect = [own.rename(index=lambda name: re.sub(r" \(\d+ px\)", "", name)) for own in by_effect]
    return pd.concat(by_effect, axis=1, keys=parts).rename_axis("effect").reset_index()


def noise(rows: pd.DataFrame) -> pd.DataFrame:
    """How far the Gumbel noise of training reaches, by width and epoch: means over runs (see `where.settled`)."""
    last = rows["epoch"].max()
    rows = rows[rows["epoch"].isin([0, *range(4, last, 5), last])]
    lines = []
    for (px, epoch), runs in rows.groupby(["prompt_px", "epoch"]):
        shares = {"regions on (%)": "share_on", "flips (%)": "flips", "soft (%)": "soft"}
        line = {
            "frame (px)": px,
            "epoch": epoch + 1,
            "temperature": Estimate(runs["temperature"].mean(), places=2),
        }
        line["median of abs(on - off)"] = Estimate(runs["logit_gap"].mean())
        lines.append(line | {k: Estimate(100 * runs[v].mean(), places=0) for k, v in shares.items()})
    return pd.DataFrame(lines)


def search(rows: pd.DataFrame) -> pd.DataFrame:
    """A search by width and recipe, those with most runs first, then those with the best mean validation accuracy.

    Columns prompt_px, those settings of studies.SEARCHED that differ, runs and mean.
    """
    settings = [name for name in studies.SEARCHED if name in rows and rows[name].nunique() > 1]
    groups = rows.groupby(["prompt_px", *settings], sort=False)["val_accuracy"]
    found = groups.agg(runs="count", mean="mean").reset_index()
    order = {"by": ["prompt_px", "runs", "mean"], "ascending": [True, False, False]}
    found = found.sort_values(**order, ignore_index=True, kind="stable")
    found["mean"] = [Estimate(100 * mean, places=2) for mean in found["mean"]]
    return found.rename(columns={"mean": "mean val (%)"})


SEARCHES = (
    "search-vp", "search-adavipro", "search-vp-widths", "search-photographs-vp", "search-photographs-adavipro",
)  # fmt: skip
OTHERS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {  # than ablations
    "1": by_method, "2": by_width, "3": price, "effects": effects, "lead": lead, "thumb": thumb, "masks": masks,
    "noise": noise, "training": training, "tuned": tuned, "where": where, "photographs": by_width, "shots": by_shots,
    **dict.fromkeys(SEARCHES, search),
}  # fmt: skip
NAMES = (*OTHERS, *studies.TABLES)
