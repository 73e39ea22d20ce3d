"""The published figures that were read, each with its source, and our results beside them."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from adavipro.io import data_folder
from adavipro.recipe import SettingError
from adavipro.report.results import WITHOUT_PROMPT, Estimate, estimate, read_table

if TYPE_CHECKING:
    from adavipro.sweeps.grids import Grid

PATH = data_folder() / "published.csv"
DATASETS = (
    "CIFAR10", "CIFAR100", "DTD", "EuroSAT", "Food101", "SUN397", "Flowers102", "UCF101", "OxfordPets",
)  # fmt: skip
TITLES = {name.lower(): name for name in DATASETS}  # by the id that a reader types
NUMBERS = ("1", "2", "3", "4", "5", "6", "7")
CELL = ["dataset", "method", "prompt_px", "value"]  # value: of the setting that its table varies
OTHER_PX = (5, 60, 90, 112)  # than the default; Table 2's mean gain is over them
SEVERAL = {"all nine": 9, "all four": 4}  # data sets that a fact speaks of
# The value of its table's setting that a figure is of, by table and quantity.
VALUES = {
    ("4", "change without edges"): "False",
    ("6", "accuracy"): "56",
    ("7", "parameters at width 8"): "8",
}
# What a difference is from: a method and a value.
RIVALS = {
    "gain over zero-shot": ("zero-shot", ""), "gain over vp": ("vp", ""), "added parameters": ("vp", ""),
    "change without edges": ("adavipro", "True"),
}  # fmt: skip
PLACES = {"%": 1, "points": 1, "million": 4}  # for a reader; the best value of a setting is as it is
CAPTION = (
    "Published figures beside ours: mean ± 95 % interval over seeds (of gains and changes: over pairs of the same "
    "data set and seed); inside says whether the published figure lies in it. VP's published code picks the epoch on "
    "the test split, AdaViPro's text does not say; ours is picked on validation and tested once. VP and its successors "
    "use CoOp's splits. A blank was not read, or has not run."
)
COLUMNS = [
    *CELL, "quantity", "unit", "published", "ours", "difference", "inside", "seeds", "source", "note",
]  # fmt: skip
Row = dict[str, Any]


def read() -> pd.DataFrame:
    """Read the published figures: text, prompt_px as Int64 and value as float, missing where blank."""
    columns = ["table", *CELL, "quantity", "unit", "source", "note"]
    return read_table(PATH, columns, {"prompt_px": "whole", "value": "number"})


def of_table(table: str) -> pd.DataFrame:
    """What was read of one of the paper's tables ("1" to "7"), or of VP's paper ("VP"); without the column table."""
    rows = read()
    return rows[rows["table"] == table].drop(columns="table")


def beside(rows: pd.DataFrame | None, grid: "Grid") -> pd.DataFrame:
    """Set a table's results beside the published figures; what was not read, or has not run, is missing.

    A line for each data set, method, width and value, with the mean over seeds; then one for each published fact that
    is no such cell, with differences over pairs of the same data set and seed. Columns: dataset (the title in the
    paper), method, prompt_px, value (of the setting that the table varies), quantity, unit, published, ours and
    difference (Estimates; ours a number for a best value), inside ("yes", "no" or ""), seeds, source, note.

    Args:
        rows: a row a run, from the sweep of this table; None: nothing has run.
        grid: the table, one of the paper's. A fact needs all runs that it speaks of.

    Raises:
        SettingError: if the paper has no such table, or the rows hold a run twice or runs that do not compare.
    """
    if grid.table not in NUMBERS:
        raise SettingError(f"table is {grid.table!r}, but it must be one of: {', '.join(NUMBERS)}")
    figures = functools.partial(_by_seed, _comparable(pd.DataFrame(rows), grid.seeds), grid.seeds)
    read = pd.concat([of_table(of) for of in (["1", "VP"] if grid.table == "1" else [grid.table])])
    only_px = grid.prompt_px[0] if len(grid.prompt_px) == 1 else 0  # of what says no width; in doubt, none
    read = read.rename(columns={"value": "published"}).fillna({"prompt_px": only_px})
    read["value"] = [VALUES.get((grid.table, quantity), "") for quantity in read["quantity"]]
    told = {tuple(line[c] for c in [*CELL, "quantity"]): line for line in read.to_dict("records")}

    titles = [TITLES.get(name, name) for name in grid.datasets]
    options = [str(value) for own in grid.values.values() for value in own] or [""]
    measure, unit = ("parameters", "million") if grid.table == "3" else ("accuracy", "%")
    lines = []
    for name, method in itertools.product(titles, grid.methods):
        for px, value in itertools.product([0] if method in WITHOUT_PROMPT else grid.prompt_px, options):
            cell = dict(zip(CELL, (name, method, px, value), strict=True))
            line = {**cell, "quantity": measure, "unit": unit} | told.pop((*cell.values(), measure), {})
            lines.append(_compared(line, figures(measure, [name], method, [px], value)))
    for fact in told.values():
        name = fact["dataset"]
        if not name:  # all, but those with the same to themselves
            same = [other["dataset"] for other in told.values() if other["quantity"] == fact["quantity"]]
            names = [title for title in titles if title not in same]
        else:  # one, or all where they are as many as are meant
            names = titles if name == "mean" or len(titles) == SEVERAL.get(name) else [name]
        found = _of_fact(fact, names or [name], grid, figures)
        if len(found) > 1 and fact["unit"] == "points":
            fact["note"] += f"; ours is above 0 on {sum(found.mean(axis=1) > 0)} of {len(found)}"
        lines.append(_compared(fact, found))
    lines = pd.DataFrame(lines, columns=COLUMNS).astype({"prompt_px": "Int64", "seeds": "Int64"})
    return lines.replace({"prompt_px": {0: pd.NA}})


def _comparable(rows: pd.DataFrame, seeds: Sequence[int]) -> pd.DataFrame:
    """Accuracy (percent) and parameters (million) by the columns of CELL and seed."""
    rows = rows.reindex(columns=[*CELL, "seed", "test_accuracy", "parameters", "study", "recipe", "split"])
    rows = rows.dropna(subset=["test_accuracy"]).fillna({"prompt_px": 0, "seed": 0, "value": ""})
    several = [name for name in ("study", "recipe") if rows[name].nunique() > 1]
    if several or (rows.groupby("dataset")["split"].nunique() > 1).any():
        told = f"the results are of more than one {several[0] if several else 'split of a data set'}"
        raise SettingError(f"{told}, which do not compare: keep the rows of one")
    bare = rows["method"] == "zero-shot"  # nothing is drawn: one for all seeds
    rows = pd.concat([rows[~bare], *(rows[bare].assign(seed=seed) for seed in seeds)])
    rows = rows.assign(accuracy=100 * rows["test_accuracy"], parameters=rows["parameters"] / 1e6)
    rows = rows.replace({"dataset": TITLES}).astype({"prompt_px": int, "seed": int})
    if (twice := rows.duplicated([*CELL, "seed"])).any():
        run = " ".join(map(str, rows.loc[twice, [*CELL, "seed"]].iloc[0]))
        raise SettingError(f"the results hold the run {run} twice: keep one")
    return rows.set_index([*CELL, "seed"])[["accuracy", "parameters"]]


def _by_seed(
    runs: pd.DataFrame, seeds: Sequence[int], measure: str, names: Sequence[str], method: str, widths: Sequence[int],
    value: str = "",
) -> np.ndarray:  # fmt: skip
    """Our figures, (data sets, seeds), mean over widths; not a number where any run is missing."""
    widths = [0] if method in WITHOUT_PROMPT else widths
    wanted = pd.MultiIndex.from_product([names, [method], widths, [value], seeds])
    found = runs[measure].reindex(wanted).to_numpy(float)
    return found.reshape(len(names), len(widths), len(seeds)).mean(axis=1)


def _of_fact(fact: Row, names: Sequence[str], grid: "Grid", figures: Callable[..., np.ndarray]) -> np.ndarray:
    """Our figures for a fact, (data sets, seeds), or (1, 1) for a best value; empty where any run is missing."""
    method, quantity, px = fact["method"], fact["quantity"], fact["prompt_px"]
    if quantity.startswith("best "):
        tried = [(px, value) for value in grid.values.get(quantity.removeprefix("best "), ())]
        tried = [(px, "") for px in grid.prompt_px] if quantity == "best prompt_px" else tried
        means = {v or px: figures("accuracy", names, method, [px], str(v)).mean() for px, v in tried}
        complete = means and not np.isnan(list(means.values())).any()
        return np.array([[float(max(means, key=means.__getitem__))]] if complete else [])
    measure = "parameters" if "parameters" in quantity else "accuracy"
    widths = OTHER_PX if fact["dataset"] == "mean" else [px]
    found = figures(measure, names, method, widths, fact["value"])
    if quantity in RIVALS:
        rival, value = RIVALS[quantity]
        found = found - figures(measure, names, rival, widths, value)
    return found[:0] if np.isnan(found).any() else found


def _compared(line: Row, figures: np.ndarray) -> Row:
    """A line with our mean, its interval, its difference from a published figure, and whether that lies inside."""
    exact = line["unit"] == "million" or line["method"] == "zero-shot"  # no chance in it
    mean, half, _ = estimate(set(figures.flat) if exact else figures.flat)
    line = {**line, "ours": mean, "inside": "", "seeds": np.isfinite(figures).any(axis=0).sum() or None}
    if line["unit"] in PLACES:  # not the best value of a setting
        places, gap = PLACES[line["unit"]], mean - line.get("published", math.nan)
        line |= {"ours": Estimate(mean, half, places), "difference": Estimate(gap, None, places)}
        if half is not None and not math.isnan(gap):
            line["inside"] = "yes" if abs(gap) <= half + 1e-9 else "no"
    return line
