"""The published figures that were read, each with its source; what was not read is blank, and stays so."""

import re
from pathlib import Path

from adavipro.classifiers import data_folder
from adavipro.settings import SettingError
from adavipro.tables import read_rows

PATH = data_folder() / "published.csv"
COLUMNS = ("table", "dataset", "method", "prompt_px", "quantity", "value", "unit", "source", "note")
DATASETS = (
    "CIFAR10", "CIFAR100", "DTD", "EuroSAT", "Food101", "SUN397", "Flowers102", "UCF101", "OxfordPets",
)  # fmt: skip
TITLES = {name.lower(): name for name in DATASETS}  # by the id that a reader types
# What a column may hold. A blank data set or width: several, or none that was said.
KNOWN: dict[str, tuple[str, ...]] = {
    "table": ("1", "2", "3", "4", "5", "6", "7", "VP"),
    "dataset": (*DATASETS, "mean", "all nine", "all four", ""),
    "method": ("zero-shot", "linear-probe", "fine-tune", "vp", "adavipro"),
    "prompt_px": ("5", "30", "60", "90", "112", ""),
    "quantity": (
        "accuracy", "gain over zero-shot", "gain over vp", "change without edges", "parameters", "added parameters",
        "parameters at width 8", "best prompt_px", "best temperature_gamma", "best region_px", "best generator_width",
    ),
    "unit": ("%", "points", "million", "px", "channels", ""),
}  # fmt: skip


def read(path: Path = PATH) -> list[dict[str, str]]:
    """Read and check every row.

    Raises:
        SettingError: naming the line, if a column is missing or unknown, a value is none that its column knows or
            no number, a source is missing, or a cell stands there twice.
    """
    rows = read_rows(path)
    seen: dict[tuple[str, ...], int] = {}
    for line, row in enumerate(rows, start=2):
        if tuple(row) != COLUMNS:
            raise SettingError(f"{path}, line {line}: its columns must be {', '.join(COLUMNS)}")
        _check(f"{path}, line {line}", {k: v for k, v in row.items() if k in KNOWN})
        if not row["source"]:
            raise SettingError(f"{path}, line {line}: the source is blank, but every figure needs one")
        if not re.fullmatch(r"(-?\d+(\.\d+)?)?", row["value"]):
            raise SettingError(
                f"{path}, line {line}: value is {row['value']!r}, but it must be a number or blank"
            )
        cell = tuple(row[k] for k in COLUMNS[:5])
        if cell in seen:
            raise SettingError(f"{path}, line {line}: the same cell stands in line {seen[cell]}: remove one")
        seen[cell] = line
    return rows


def _check(where: str, given: dict[str, str]) -> None:
    for column, value in given.items():
        if value not in KNOWN[column]:
            known = ", ".join(k or "(blank)" for k in KNOWN[column])
            raise SettingError(f"{where}: {column} is {value!r}, but it must be one of: {known}")


def of_table(table: str) -> list[dict[str, str]]:
    """What was read of one of the paper's tables ("1" to "7"), or of VP's paper ("VP")."""
    _check("published figures", {"table": table})
    return [{k: v for k, v in r.items() if k != "table"} for r in read() if r["table"] == table]


def find(
    *, table: str, dataset: str = "", method: str, prompt_px: int | str = "", quantity: str = "accuracy"
) -> float | None:
    """A published figure; None where it was not read.

    Raises:
        SettingError: if a value is none that its column knows.
    """
    wanted = {
        "table": table, "dataset": dataset, "method": method, "prompt_px": str(prompt_px), "quantity": quantity,
    }  # fmt: skip
    _check("published figures", wanted)
    found = [r["value"] for r in read() if all(r[k] == v for k, v in wanted.items())]
    return float(found[0]) if found and found[0] else None
