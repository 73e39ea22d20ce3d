"""A table's runs, and what they say to a published fact that is no cell: gains, changes, best values, sizes."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from adavipro import published
from adavipro.settings import SettingError

Row = Mapping[str, Any]
Cell = tuple[str, str, str, str]  # data set, method, width, value of the setting that the table varies

WITHOUT_PROMPT = ("zero-shot", "linear-probe", "fine-tune")
DEFAULT_PX, OTHER_PX = "30", ("5", "60", "90", "112")  # Table 2's mean gain is over the others
SEVERAL = {"all nine": 9, "all four": 4}  # data sets that a fact speaks of
# The value of the table's setting that a fact tells in words, by table and quantity.
VALUES_TOLD = {("6", "accuracy"): "56", ("7", "parameters at width 8"): "8"}


class Kind(NamedTuple):
    """What is told of a run: a column of the results, in a unit."""

    quantity: str
    column: str
    unit: str
    factor: float


ACCURACY = Kind("accuracy", "test_accuracy", "%", 100)
PARAMETERS = Kind("parameters", "parameters", "million", 1e-6)


@dataclass(frozen=True)
class Table:
    """What a table wants, as text, and the runs that there are, by cell and seed."""

    number: str
    datasets: Sequence[str]
    prompt_px: Sequence[str]
    setting: str
    values: Sequence[str]
    seeds: Sequence[str]
    runs: Mapping[Cell, Mapping[str, Row]]

    def kind(self) -> Kind:
        """What its cells tell."""
        return PARAMETERS if self.number == "3" else ACCURACY

    def of_seeds(self, cell: Cell, kind: Kind) -> list[float]:
        """A cell's figure for each seed, in order; none at all where one is missing. Zero-shot's is one for all."""
        runs = self.runs.get(cell, {})
        if cell[1] == "zero-shot" and runs:
            runs = dict.fromkeys(self.seeds, next(iter(runs.values())))
        found = [text(runs.get(seed, {}).get(kind.column)) for seed in self.seeds]
        return [kind.factor * float(figure) for figure in found] if all(found) else []


def text(value: Any) -> str:
    """A cell of a results file as text; None is blank."""
    return "" if value is None else str(value)


def by_cell(rows: Iterable[Row]) -> dict[Cell, dict[str, Row]]:
    """Sort runs by cell and seed.

    Raises:
        SettingError: if a cell has two runs with one seed, or a data set was split in several ways.
    """
    rows = list(rows)
    cells: dict[Cell, dict[str, Row]] = {}
    splits: dict[str, str] = {}
    recipes = {text(r.get("recipe")) for r in rows} - {""}
    if len(recipes) > 1:
        raise SettingError(
            f"the results are of the recipes {sorted(recipes)}, which do not compare: keep the rows of one"
        )
    for r in rows:
        cell = (r["dataset"], r["method"], text(r["prompt_px"]), text(r.get("value")))
        other = cells.setdefault(cell, {}).setdefault(text(r["seed"]), r)
        if other["key"] != r["key"]:
            told = f"the results hold {' '.join(filter(None, cell))} with seed {r['seed']} twice"
            raise SettingError(f"{told}, as runs {other['key']} and {r['key']}: keep one")
        split = text(r.get("split"))
        if split and split != splits.setdefault(r["dataset"], split):
            told = f"the results of {r['dataset']} are on the splits {splits[r['dataset']]!r} and {split!r}"
            raise SettingError(f"{told}, which do not compare: keep the rows of one")
    return cells


def names(table: Table, told: Row, facts: Iterable[Row]) -> list[str]:
    """Data sets of the table that a fact speaks of; none where the table has not as many.

    Args:
        facts: all of the table's; a fact of no named data set is not of those that have the same to themselves.
    """
    titles = {name: published.TITLES.get(name, name) for name in table.datasets}
    if told["dataset"] in published.DATASETS:
        return [name for name, title in titles.items() if title == told["dataset"]]
    if told["dataset"]:
        return list(titles) if len(titles) == SEVERAL.get(told["dataset"], len(titles)) else []
    apart = {r["dataset"] for r in facts if r["quantity"] == told["quantity"]}
    return [name for name, title in titles.items() if title not in apart]


def figures(table: Table, told: Row, names: Iterable[str]) -> dict[str, list[float]]:
    """Our figures for a published fact, by data set a figure a seed; nothing where any run is missing.

    Differences are between runs of the same data set and seed. A best value is one figure, of no data set.
    """
    names, method, quantity = list(names), told["method"], told["quantity"]
    widths = table.prompt_px if len(table.prompt_px) == 1 else []  # in doubt, none
    value, rival, rival_value = VALUES_TOLD.get((table.number, quantity), ""), "", ""
    if quantity.startswith("best "):
        return _best(table, method, quantity.removeprefix("best "), names)
    if quantity.startswith("gain over "):
        rival = quantity.removeprefix("gain over ")
        widths = (
            [told["prompt_px"]] if told["prompt_px"] else OTHER_PX if table.number == "2" else [DEFAULT_PX]
        )
    elif quantity == "change without edges":
        value, rival, rival_value = "False", method, "True"
    elif quantity == "added parameters":
        rival = "vp"
    kind = PARAMETERS if "parameters" in quantity else ACCURACY
    found = {name: _over_widths(table, (name, method), widths, value, kind) for name in names}
    if rival:
        theirs = {name: _over_widths(table, (name, rival), widths, rival_value, kind) for name in names}
        # Not strict: where a run is missing, a side is empty, and so is the difference.
        found = {n: [a - b for a, b in zip(found[n], theirs[n], strict=False)] for n in names}
    return found if all(found.values()) else {}


def _over_widths(
    table: Table, start: tuple[str, str], widths: Sequence[str], value: str, kind: Kind
) -> list[float]:
    """Each seed's mean over widths; none where a run is missing."""
    cells = [(*start, "" if start[1] in WITHOUT_PROMPT else px, value) for px in widths]
    found = [table.of_seeds(cell, kind) for cell in cells]
    return [statistics.fmean(several) for several in zip(*found, strict=True)] if all(found) else []


def _best(table: Table, method: str, setting: str, names: Sequence[str]) -> dict[str, list[float]]:
    """The width, or the value of the table's setting, with the best mean over data sets and seeds."""
    tried = {px: (px, "") for px in table.prompt_px} if setting == "prompt_px" else {}
    if setting == table.setting and len(table.prompt_px) == 1:
        tried = {value: (table.prompt_px[0], value) for value in table.values}
    means: dict[str, float] = {}
    for choice, place in tried.items():
        found = [table.of_seeds((name, method, *place), ACCURACY) for name in names]
        if not found or not all(found):
            return {}
        means[choice] = statistics.fmean(figure for several in found for figure in several)
    return {"": [float(max(means, key=lambda choice: means[choice]))]} if means else {}
