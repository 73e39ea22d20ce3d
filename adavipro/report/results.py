"""Results as data frames: read by type or refused, and summarised with confidence intervals."""

import codecs
import csv
import io
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from adavipro.io import data_folder
from adavipro.recipe import SettingError

FOLDER = data_folder() / "results"
EMBEDDED, BASELINES, CONTROLS = (FOLDER / f"{name}.csv" for name in ("embedded", "baselines", "controls"))
MEAN = "mean"  # over data sets
WITHOUT_PROMPT = ("zero-shot", "linear-probe", "fine-tune")
CELL = ["study", "value", "dataset", "method", "prompt_px", "seed"]  # what tells the runs of a file apart
# What a column holds, where it is not text; "value" is that of any setting.
KINDS: dict[str, str] = {
    "value": "value",
    **dict.fromkeys(("prompt_px", "seed", "best_epoch", "steps", "parameters"), "whole"),
    **dict.fromkeys(("seconds", "memory_mb", "prompt_lr", "generator_lr"), "number"),
    **dict.fromkeys(("test_accuracy", "val_accuracy", "last_val_accuracy", "share_on"), "share"),
    **dict.fromkeys(("mask_diversity", "object_cover"), "share"),
}
_DTYPES = {"text": "str", "value": "str", "whole": "Int64", "number": "float64", "share": "float64"}
# 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom.
_T = (12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814)


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
    half = t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return Estimate(mean, half, places)


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t; beyond the table by its expansion (Abramowitz and Stegun, 26.7.5)."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**i for i, term in enumerate(terms, start=1))


def spelled(value: Any) -> str:
    """The value of a setting in one spelling, which spreadsheets do not keep: 8.0 is "8", and "TRUE" is "True"."""
    text = str(value)
    if text.lower() in ("true", "false"):
        return text.capitalize()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number) if number.is_integer() else number)


def read_table(path: Path, needed: Sequence[str], kinds: Mapping[str, str] = KINDS) -> pd.DataFrame:
    """Read a CSV file, as we write it or as a spreadsheet saves it: BOM, UTF-16, semicolons, decimal commas, 8.0 for 8.

    Blank cells are "" in text, and missing in numbers. The index is the line in the file.

    Args:
        needed: columns that must be there; others are read too.
        kinds: what columns hold, by name: "whole", "number", "share" or "value"; all others are text.

    Raises:
        SettingError: naming file, line and column, if the file is no sound CSV or a cell not what its column holds.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}") from None
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = content.decode(encoding, errors="replace")  # what is damaged is refused with its cell
    separator = max(",;\t", key=text.partition("\n")[0].count)
    lines, line = {}, 1  # by where a row starts: a quote can make it long
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            lines[line], line = [cell.strip() for cell in row], reader.line_num + 1
    except csv.Error as error:
        raise SettingError(f"{path}, line {line}: it is no sound CSV: {error}") from None
    header = lines.pop(1, [])
    for name in (*needed, *header):
        if (count := header.count(name)) != 1:
            told = (
                f"there are {count} columns {name[:40]!r}, but one is needed, in {', '.join(header)[:200]!r}"
            )
            raise SettingError(f"{path}, line 1: {told}")
    rows = {line: row for line, row in lines.items() if any(row)}
    for line, row in rows.items():
        if len(row) != len(header):
            raise SettingError(
                f"{path}, line {line}: it has {len(row)} cells, but there are {len(header)} columns"
            )
    columns = {}
    numeric = [i for i, name in enumerate(header) if name in kinds]
    comma = separator != "," and any("," in row[i] for row in rows.values() for i in numeric)
    for i, name in enumerate(header):
        kind, cells = kinds.get(name, "text"), []
        for line, row in rows.items():
            try:
                cells.append(_typed(row[i], kind, "," if comma else "."))
            except ValueError as rule:
                told = f"{name} is {row[i][:40]!r}, but it must be {rule}"
                raise SettingError(f"{path}, line {line}: {told}") from None
        columns[name] = pd.Series(cells, rows.keys(), _DTYPES[kind])
    return pd.DataFrame(columns)


def _typed(cell: str, kind: str, point: str) -> Any:
    """A cell as what its column holds. Raises ValueError with the rule where it is something else."""
    if re.search("[\0\r\n\ufffd]", cell):
        raise ValueError("one line of text in UTF-8")
    number = math.nan
    if re.fullmatch(rf"[+-]?(\d+([{point}]\d*)?|[{point}]\d+)([eE][+-]?\d\d?)?", cell, re.ASCII):
        number = float(cell.replace(",", "."))
    if kind == "value":
        return spelled(cell if math.isnan(number) else number)
    if kind == "text" or not cell:
        return cell if kind == "text" else None
    if kind == "whole":
        if not (number.is_integer() and abs(number) < 2**53):
            raise ValueError("a whole number")
        return int(number)
    if kind == "share" and not 0 <= number <= 1 + 1e-6:  # sums of shares are as exact as float32
        raise ValueError("a number from 0 to 1")
    if math.isnan(number):
        raise ValueError("a number")
    return number


def read(path: Path | None = None) -> pd.DataFrame:
    """Read results, a row a run: those of the small world that ship, or a file as `adavipro sweep` writes it.

    Raises:
        SettingError: as `read_table`, and if a run lacks what tells it apart, or stands there twice.
    """
    path = path or EMBEDDED
    rows = read_table(path, (*CELL, "test_accuracy", "key"))
    prompted = ~rows["method"].isin(WITHOUT_PROMPT)
    blank = {name: rows[name].eq("") for name in ("study", "dataset", "method")}
    blank |= {name: rows[name].isna() & prompted for name in ("prompt_px", "seed")}
    for name, lines in blank.items():
        if lines.any():
            raise SettingError(f"{path}, line {lines.idxmax()}: {name} is blank, but every run has one")
    if (twice := rows.duplicated(CELL)).any():
        raise SettingError(f"{path}, line {twice.idxmax()}: this run stands there twice: remove one")
    return rows


def search_file(method: str) -> Path:
    """The shipped search of a method's recipe on validation."""
    return FOLDER / f"search_{method}.csv"


def of_studies(rows: pd.DataFrame, *studies: str) -> pd.DataFrame:
    """Rows of some studies."""
    return rows[rows["study"].isin(studies)]


def _measured(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Rows that have a value; VP with its rate tuned for each width is a method by itself."""
    rows = rows.dropna(subset=[value])
    return rows.assign(method=rows["method"].mask(rows["study"] == "vp-tuned", "vp-tuned"))


def means_by_seed(rows: pd.DataFrame, value: str = "test_accuracy") -> pd.DataFrame:
    """Mean over data sets for each method, width and seed, as rows of a data set "mean".

    Only where no data set is missing, and there is more than one.
    """
    rows = _measured(rows, value)
    count = rows["dataset"].nunique()
    groups = rows.groupby(["method", "prompt_px", "seed"], dropna=False, sort=False)[value]
    means = groups.agg([statistics.fmean, "count"]).reset_index().rename(columns={"fmean": value})
    return means[(means["count"] == count) & (count > 1)].assign(dataset=MEAN)


def summarise(rows: pd.DataFrame, value: str = "test_accuracy") -> pd.DataFrame:
    """Mean and interval over seeds, in percent, for each data set, method and width, and for the mean over data sets.

    Returns columns dataset, method, prompt_px, estimate and n, the number of runs.
    """
    rows = pd.concat([_measured(rows, value), means_by_seed(rows, value)])
    groups = rows.groupby(["dataset", "method", "prompt_px"], dropna=False, sort=False)[value]
    found = [(*cell, estimate(100 * values), len(values)) for cell, values in groups]
    summary = pd.DataFrame(found, columns=["dataset", "method", "prompt_px", "estimate", "n"])
    return summary.astype({"prompt_px": "Int64"})
