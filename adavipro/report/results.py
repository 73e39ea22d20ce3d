"""Results as data frames: read by type or refused, and summarised with confidence intervals."""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from adavipro.io import data_folder
from adavipro.recipe import SettingError

FOLDER = data_folder() / "results"
EMBEDDED, FIRST_CLIP, BASELINES, CONTROLS, EPOCHS, PHOTOGRAPHS = (
    FOLDER / f"{name}.csv"
    for name in ("embedded", "first_clip", "baselines", "controls", "epochs", "photographs")
)
MEAN = "mean"  # over data sets
WITHOUT_PROMPT = ("zero-shot", "linear-probe", "fine-tune")
CELL = ["study", "value", "dataset", "method", "prompt_px", "seed"]  # what tells the runs of a file apart
# What a column holds, where it is not text.
KINDS: dict[str, str] = {
    **dict.fromkeys(("prompt_px", "seed", "best_epoch", "steps", "parameters", "epochs", "epoch"), "whole"),
    "temperature": "number",
    **dict.fromkeys(("seconds", "memory_mb", "prompt_lr", "prompt_start_std", "generator_lr"), "number"),
    **dict.fromkeys(("on_bias", "logit_gap"), "number"),
    **dict.fromkeys(("test_accuracy", "val_accuracy", "last_val_accuracy", "share_on"), "share"),
    **dict.fromkeys(("mask_diversity", "object_cover", "flips", "soft"), "share"),
}


class Estimate(NamedTuple):
    """A mean, and half the width of its 95 % confidence interval; None where one value has no interval.

    str() gives "55.5 ± 0.6", or "55.5"; it is blank where the mean is not a number, for nothing was measured.
    """

    mean: float
    half: float | None = None
    places: int = 1

    def __str__(self) -> str:
        interval = "" if self.half is None else f" ± {self.half:.{self.places}f}"
        return "" if math.isnan(self.mean) else f"{self.mean:.{self.places}f}{interval}"


def estimate(values: Iterable[float], places: int = 1) -> Estimate:
    """Mean and 95 % confidence interval (Student's t) of the values that are not missing."""
    values = [float(value) for value in values if not pd.isna(value)]
    n, mean = len(values), statistics.fmean(values) if values else math.nan
    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return Estimate(mean, half, places)


def read_table(path: Path, needed: Sequence[str], kinds: Mapping[str, str] = KINDS) -> pd.DataFrame:
    """Read a CSV file as we write it. Blank cells are "" in text, and missing in numbers. The index is the line.

    Args:
        needed: columns that must be there; others are read too.
        kinds: what columns hold, by name: "whole", "number" or "share"; all others are text.

    Raises:
        SettingError: naming the file, if it is no sound CSV, and line and column of a cell that is not what its column
            holds.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        told = getattr(error, "strerror", None) or error
        raise SettingError(f"{path} cannot be read: {told}") from None
    for name in (name for name in (*needed, *header) if header.count(name) != 1):
        raise SettingError(f"{path} has {header.count(name)} columns {name!r}, but needs one")
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            told = f"it has {len(line)} cells, but there are {len(header)} columns"
            raise SettingError(f"{path}, line {number}: {told}")
    cells = pd.DataFrame(lines, range(2, len(lines) + 2), header, "str")
    typed = [_typed(path, cells[name], kinds[name]) if name in kinds else cells[name] for name in cells]
    return pd.concat(typed, axis=1)


def _typed(path: Path, cells: pd.Series, kind: str) -> pd.Series:
    """Cells as the numbers that their column holds; a SettingError with line and rule where one is something else."""
    number = pd.to_numeric(cells, errors="coerce").astype("float64")
    sound, rule = {
        "whole": ((number % 1 == 0) & (number.abs() < 2**53), "a whole number"),
        "number": (np.isfinite(number), "a number"),
        "share": (number.between(0, 1 + 1e-6), "a number from 0 to 1"),  # sums are as exact as float32
    }[kind]
    if (wrong := ~sound & (cells != "")).any():
        told = f"{cells.name} is {cells[wrong.idxmax()][:40]!r}, but it must be {rule}"
        raise SettingError(f"{path}, line {wrong.idxmax()}: {told}")
    return number.astype("Int64" if kind == "whole" else "float64")


def read(path: Path | None = None) -> pd.DataFrame:
    """Read results, a row a run: those of the small world that ship, or a file as `adavipro sweep` writes it.

    Raises:
        SettingError: as `read_table`, and if a run lacks what tells it apart, or stands there twice.
    """
    path = path or EMBEDDED
    rows = read_table(path, (*CELL, "test_accuracy", "key"))
    prompted = ~rows["method"].isin(WITHOUT_PROMPT)
    for name in (name for name in CELL if name != "value"):
        blank = rows[name].isna() & prompted if name in KINDS else rows[name] == ""
        if blank.any():
            raise SettingError(f"{path}, line {blank.idxmax()}: {name} is blank, but every run has one")
    if (twice := rows.duplicated(CELL)).any():
        raise SettingError(f"{path}, line {twice.idxmax()}: this run stands there twice: remove one")
    return rows


def shipped_for(name: str) -> Path:
    """The shipped results that a table or figure is of."""
    return {"where": CONTROLS, "photographs": PHOTOGRAPHS, "shots": PHOTOGRAPHS}.get(name, EMBEDDED)


def of_studies(rows: pd.DataFrame, *studies: str) -> pd.DataFrame:
    """Rows of some studies."""
    return rows[rows["study"].isin(studies)]


def means_by_seed(rows: pd.DataFrame, value: str = "test_accuracy") -> pd.DataFrame:
    """Mean over data sets for each method, width and seed, as rows of a data set "mean".

    Only where no data set is missing, and there is more than one.
    """
    rows = rows.dropna(subset=[value])
    count = rows["dataset"].nunique()
    groups = rows.groupby(["method", "prompt_px", "seed"], dropna=False, sort=False)[value]
    means = groups.agg([statistics.fmean, "count"]).reset_index().rename(columns={"fmean": value})
    return means[(means["count"] == count) & (count > 1)].assign(dataset=MEAN)


def summarise(rows: pd.DataFrame, value: str = "test_accuracy") -> pd.DataFrame:
    """Mean and interval over seeds, in percent, for each data set, method and width, and for the mean over data sets.

    Returns columns dataset, method, prompt_px, estimate and n, the number of runs.
    """
    rows = pd.concat([rows.dropna(subset=[value]), means_by_seed(rows, value)])
    groups = rows.groupby(["dataset", "method", "prompt_px"], dropna=False, sort=False)[value]
    found = [(*cell, estimate(100 * values), len(values)) for cell, values in groups]
    summary = pd.DataFrame(found, columns=["dataset", "method", "prompt_px", "estimate", "n"])
    return summary.astype({"prompt_px": "Int64"})
