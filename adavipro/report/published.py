"""The published figures that were read, each with its source, and our results beside them."""

import itertools
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from adavipro.io import data_folder, write_atomically
from adavipro.recipe import SettingError
from adavipro.report import tables
from adavipro.report.results import WITHOUT_PROMPT, Estimate, estimate, read_table, spelled

PATH = data_folder() / "published.csv"
DATASETS = (
    "CIFAR10", "CIFAR100", "DTD", "EuroSAT", "Food101", "SUN397", "Flowers102", "UCF101", "OxfordPets",
)  # fmt: skip
TITLES = {name.lower(): name for name in DATASETS}  # by the id that a reader types
NUMBERS = ("1", "2", "3", "4", "5", "6", "7")
# What a column may hold; a data set that is blank, or a width that is 0, is several, or none that was said.
KNOWN: dict[str, tuple[str | int, ...]] = {
    "table": (*NUMBERS, "VP"),
    "dataset": (*DATASETS, "mean", "all nine", "all four", ""),
    "method": ("zero-shot", "linear-probe", "fine-tune", "vp", "adavipro"),
    "prompt_px": (5, 30, 60, 90, 112, 0),
    "quantity": (
        "accuracy", "gain over zero-shot", "gain over vp", "change without edges", "parameters", "added parameters",
        "parameters at width 8", "best prompt_px", "best temperature_gamma", "best region_px", "best generator_width",
    ),
    "unit": ("%", "points", "million", "px", "channels", ""),
}  # fmt: skip
PLACE = ["dataset", "method", "prompt_px"]
CELL = [*PLACE, "value"]  # what tells the cells of a table apart; value: of the setting that it varies
DEFAULT_PX, OTHER_PX = 30, (5, 60, 90, 112)  # Table 2's mean gain is over the others
SEVERAL = {"all nine": 9, "all four": 4}  # data sets that a fact speaks of
# The value of the table's setting that a fact tells in words, by table and quantity.
VALUES_TOLD = {("6", "accuracy"): "56", ("7", "parameters at width 8"): "8"}
UNITS = {"accuracy": "%", "parameters": "million"}  # of what a run tells
PLACES = {"%": 1, "points": 1, "million": 4}  # for a reader; the best value of a setting is as it is
NAMING = [*PLACE, "setting", "quantity"]
COUNTED = {"seconds": "median", "memory_mb": "max"}  # over the runs of a cell
MAKING = [*COUNTED, "device", "recipe", "split", "source", "note", "versions", "command"]
NUMBERS_TOLD = ["published", "ours", "ci95", "difference"]


def read(path: Path = PATH) -> pd.DataFrame:
    """Read and check the published figures: text, prompt_px as Int64 and value as float, missing where blank.

    Raises:
        SettingError: naming the line, if a column is missing, a value is none that its column knows or no number, a
            source is missing, or a figure stands there twice.
    """
    rows = read_table(path, [*KNOWN, "value", "source", "note"], {"prompt_px": "whole", "value": "number"})
    for column in KNOWN:
        for line, value in zip(rows.index, rows[column].fillna(0).tolist(), strict=True):
            _check(f"{path}, line {line}", column, value)
    if (blank := rows["source"] == "").any():
        raise SettingError(f"{path}, line {blank.idxmax()}: the source is blank, but every figure needs one")
    if (twice := rows.duplicated(["table", *PLACE, "quantity"])).any():
        raise SettingError(f"{path}, line {twice.idxmax()}: this figure stands there twice: remove one")
    return rows


def _check(where: str, column: str, value: Any) -> None:
    if value not in KNOWN[column]:
        known = ", ".join(str(k or "(blank)") for k in KNOWN[column])
        raise SettingError(f"{where}: {column} is {value!r}, but it must be one of: {known}")


def of_table(table: str) -> pd.DataFrame:
    """What was read of one of the paper's tables ("1" to "7"), or of VP's paper ("VP"); without the column table."""
    _check("published figures", "table", table)
    rows = read()
    return rows[rows["table"] == table].drop(columns="table")


def find(
    *, table: str, dataset: str = "", method: str, prompt_px: int | None = None, quantity: str = "accuracy"
) -> float | None:
    """A published figure; None where it was not read.

    Raises:
        SettingError: if a value is none that its column knows.
    """
    rows = of_table(table).fillna({"prompt_px": 0})
    wanted = {"dataset": dataset, "method": method, "prompt_px": prompt_px or 0, "quantity": quantity}
    for column, value in wanted.items():
        _check("published figures", column, value)
        rows = rows[rows[column] == value]
    return None if rows["value"].dropna().empty else float(rows["value"].iloc[0])


class _Table(NamedTuple):
    """What a table wants, and its runs; data sets by their titles in the paper, what has no prompt at width 0."""

    number: str
    datasets: Mapping[str, str]  # their ids by title
    prompt_px: Sequence[int]
    setting: str
    values: Sequence[str]
    seeds: Sequence[int]
    runs: pd.DataFrame

    def by_seed(
        self, measure: str, names: Sequence[str], method: str, widths: Sequence[int], value: str = ""
    ) -> pd.DataFrame:
        """Mean over widths, a row a data set and a column a seed; missing where a run is. Zero-shot has all seeds."""
        own = self.runs[(self.runs["method"] == method) & (self.runs["value"] == value)]
        wide = own.pivot(index=["dataset", "prompt_px"], columns="seed", values=measure)
        if method == "zero-shot":
            wide = pd.DataFrame({seed: wide.mean(axis=1) for seed in self.seeds})
        widths = [0] if method in WITHOUT_PROMPT else widths
        cells = [(name, px) for px in widths for name in names]
        found = wide.reindex(pd.MultiIndex.from_tuples(cells, names=PLACE[::2]), columns=self.seeds)
        return found.groupby("dataset").agg(lambda figures: figures.mean(skipna=False))


def beside(
    table: str,
    rows: pd.DataFrame | None,
    datasets: Sequence[str],
    methods: Sequence[str],
    prompt_px: Sequence[int],
    values: Mapping[str, Sequence[Any]],
    seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """Set a table's results beside the published figures; what was not read, or has not run, is missing.

    A line for each data set, method, width and value, with the mean over seeds and its 95 % interval; then one for
    each published fact that is no such cell, with differences over pairs of the same data set and seed. Columns:
    table, dataset (the title in the paper), method, prompt_px (Int64), setting ("edges=False"), quantity, unit,
    published, ours, ci95, difference (floats), inside ("yes", "no" or ""), seeds (Int64, missing where nothing
    has run), seconds (median), memory_mb (most), device, recipe, split, source, note, versions, command.

    Args:
        table: "1" to "7".
        rows: a row a run, from the sweep of this table; None: nothing has run.
        datasets, methods, prompt_px: of the sweep's grid.
        values: the setting that the table varies and its values; empty for none.
        seeds: those that must be there for a fact; without, those that the rows hold.

    Raises:
        SettingError: if there is no such table, or the rows hold a run twice or runs that do not compare.
    """
    if table not in NUMBERS:
        raise SettingError(f"table is {table!r}, but it must be one of: {', '.join(NUMBERS)}")
    runs = _comparable(pd.DataFrame() if rows is None else rows)
    seeds = list(seeds) or sorted(runs[~runs["method"].isin(WITHOUT_PROMPT)]["seed"].unique())
    setting = next(iter(values), "")
    options = [spelled(value) for value in values[setting]] if setting else [""]
    t = _Table(table, {TITLES.get(n, n): n for n in datasets}, prompt_px, setting, options, seeds, runs)
    told, more = (
        of_table(of).rename(columns={"value": "published"}).fillna({"prompt_px": 0}) for of in (table, "VP")
    )
    measure = "parameters" if table == "3" else "accuracy"
    widths = {method: [0] if method in WITHOUT_PROMPT else prompt_px for method in methods}
    cells = [
        (d, m, px, v) for d, m in itertools.product(t.datasets, methods) for px in widths[m] for v in options
    ]
    lines = _cells(t, measure, pd.DataFrame(cells, columns=CELL))
    # Where a setting varies, no published figure says its value: all are facts.
    is_cell = pd.MultiIndex.from_frame(told[PLACE]).isin(pd.MultiIndex.from_frame(lines[PLACE]))
    is_cell &= (told["quantity"] == measure) & (not setting)
    lines = lines.join(told[is_cell].set_index(PLACE)[["published", "source", "note"]], PLACE)
    facts = told[~is_cell]
    if table == "1":  # VP's own paper tells more of these runs
        facts = pd.concat([facts, more.assign(note=f"VP's own figure; ours is at {DEFAULT_PX} px")])
    lines = pd.concat([lines, pd.DataFrame(_fact(t, fact, facts) for fact in facts.to_dict("records"))])

    lines = lines.reset_index(drop=True).fillna({"prompt_px": 0, "value": "", "published": math.nan})
    ours = map(_ours, lines["figures"], lines["unit"], lines["published"])
    lines[["ours", "ci95", "difference", "inside"]] = list(ours)
    lines["setting"] = [f"{setting}={value}" if value else "" for value in lines["value"]]
    lines["prompt_px"] = lines["prompt_px"].replace(0, pd.NA)
    kinds = {**dict.fromkeys([*NUMBERS_TOLD, *COUNTED], "float64"), "prompt_px": "Int64", "seeds": "Int64"}
    lines = lines.assign(table=table)[["table", *NAMING, "unit", *NUMBERS_TOLD, "inside", "seeds", *MAKING]]
    text = lines.columns.difference(list(kinds))
    return lines.astype(kinds).astype(dict.fromkeys(text, object)).fillna(dict.fromkeys(text, ""))


def _comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """Runs with a result, in the units that are told, with every column that is told of them."""
    rows = rows.reindex(columns=[*CELL, "seed", "test_accuracy", "parameters", "versions", *MAKING[:5]])
    runs = rows.dropna(subset=["test_accuracy"]).fillna({"prompt_px": 0, "seed": 0, "value": ""})
    if (twice := runs.duplicated([*CELL, "seed"])).any():
        run = " ".join(str(said) for said in runs.loc[twice, [*CELL, "seed"]].iloc[0] if said != "")
        raise SettingError(f"the results hold the run {run} twice: keep one")
    for name, groups in (("recipe", [("", runs)]), ("split", runs.groupby("dataset"))):
        for dataset, group in groups:
            if "; " in (several := _joined(group[name])):
                told = f"the results {f'of {dataset} ' if dataset else ''}are of the {name}s {several}"
                raise SettingError(f"{told}, which do not compare: keep the rows of one")
    figures = {"accuracy": 100 * runs["test_accuracy"], "parameters": runs["parameters"].astype(float) / 1e6}
    return runs.assign(dataset=runs["dataset"].replace(TITLES), **figures)


def _joined(cells: Iterable[Any]) -> str:
    return "; ".join(dict.fromkeys(cell for cell in cells if not pd.isna(cell) and cell))


def _cells(t: _Table, measure: str, cells: pd.DataFrame) -> pd.DataFrame:
    """What the runs of each cell tell, and the sweep that makes them."""
    groups = t.runs.groupby(CELL)
    told: dict[str, Any] = {"figures": groups[measure].agg(list), "seeds": groups["seed"].count()}
    told |= {name: groups[name].agg(how) for name, how in COUNTED.items()}
    told |= {name: groups[name].agg(_joined) for name in ("device", "recipe", "split", "versions")}
    commands = []
    for title, method, px in cells[PLACE].itertuples(index=False):
        width = ["--prompt-px", str(px)] if px and len(t.prompt_px) > 1 else []
        commands.append(_command(t, "--datasets", t.datasets[title], "--methods", method, *width))
    cells = cells.assign(quantity=measure, unit=UNITS[measure], command=commands)
    return cells.join(pd.DataFrame(told), CELL)


def _command(t: _Table, *words: str) -> str:
    return shlex.join(["adavipro", "sweep", f"tables/table{t.number}.yaml", *words])


def _ours(figures: Any, unit: str, published: float) -> tuple[float, float | None, float | None, str]:
    """Our mean, its interval, its difference from a published figure, and whether that lies inside."""
    figures = figures if isinstance(figures, list) else []
    mean, half, _ = estimate(set(figures) if unit == "million" else figures)  # a count has no chance in it
    if unit not in PLACES:  # the best value of a setting
        return mean, None, None, ""
    gap = mean - published
    if half is None or math.isnan(gap):
        return mean, half, gap, ""
    return mean, half, gap, "yes" if abs(gap) <= half + 1e-9 else "no"


def _fact(t: _Table, told: Mapping[str, Any], facts: pd.DataFrame) -> dict[str, Any]:
    """A published fact with our figures: of all runs that it speaks of, or none."""
    if told["dataset"] in DATASETS:
        names = [name for name in t.datasets if name == told["dataset"]]
    elif told["dataset"]:
        names = list(t.datasets) if len(t.datasets) == SEVERAL.get(told["dataset"], len(t.datasets)) else []
    else:  # those that have the same to themselves are not meant
        apart = set(facts[facts["quantity"] == told["quantity"]]["dataset"])
        names = [name for name in t.datasets if name not in apart]
    found, note = _figures(t, told, names), told["note"]
    if len(found) > 1 and told["unit"] == "points":
        note += f"{'; ' if note else ''}ours is above 0 on {sum(found.mean(axis=1) > 0)} of {len(found)}"
    return {
        **told,
        "value": VALUES_TOLD.get((t.number, told["quantity"]), ""),
        "figures": found.to_numpy().ravel().tolist(),
        "seeds": len(t.seeds) if len(found) else None,
        "note": note,
        "command": _command(t, *(["--datasets", t.datasets[names[0]]] if names == [told["dataset"]] else [])),
    }


def _figures(t: _Table, told: Mapping[str, Any], names: Sequence[str]) -> pd.DataFrame:
    """Our figures for a fact, a row a data set and a column a seed; empty where any run is missing.

    Differences are between runs of the same data set and seed. A best value is one figure.
    """
    method, quantity = told["method"], told["quantity"]
    measure = "parameters" if "parameters" in quantity else "accuracy"
    widths = t.prompt_px if len(t.prompt_px) == 1 else []  # in doubt, none
    value, rival = VALUES_TOLD.get((t.number, quantity), ""), None
    if quantity.startswith("best "):
        return _best(t, method, quantity.removeprefix("best "), names)
    if quantity.startswith("gain over "):
        rival = (quantity.removeprefix("gain over "), "")
        widths = [told["prompt_px"] or DEFAULT_PX] if told["prompt_px"] or t.number != "2" else OTHER_PX
    elif quantity == "change without edges":
        value, rival = "False", (method, "True")
    elif quantity == "added parameters":
        rival = ("vp", "")
    found = t.by_seed(measure, names, method, widths, value)
    if rival:
        found = found - t.by_seed(measure, names, rival[0], widths, rival[1])
    return found if found.size and not found.isna().any(axis=None) else pd.DataFrame()


def _best(t: _Table, method: str, setting: str, names: Sequence[str]) -> pd.DataFrame:
    """The width, or the value of the table's setting, with the best mean over data sets and seeds."""
    tried: dict[float, Any] = {}
    if setting == "prompt_px":
        tried = {px: ([px], "") for px in t.prompt_px}
    elif setting == t.setting and len(t.prompt_px) == 1:
        tried = {float(value): (t.prompt_px, value) for value in t.values}
    found = {choice: t.by_seed("accuracy", names, method, *place) for choice, place in tried.items()}
    if not found or any(runs.isna().any(axis=None) or not runs.size for runs in found.values()):
        return pd.DataFrame()
    return pd.DataFrame([[float(max(found, key=lambda choice: found[choice].mean(axis=None)))]])


def short(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines of `beside` as a reader's table: our mean with its interval, and not how a line was made."""
    found = lines[[*NAMING, "published", "ours", "difference", "inside", "seeds"]].astype(object)
    found["quantity"] += [f" ({unit})" if unit else "" for unit in lines["unit"]]
    for i, line in enumerate(lines.to_dict("records")):
        if (places := PLACES.get(line["unit"])) is not None:
            half, gap = (None if math.isnan(line[c]) else line[c] for c in ("ci95", "difference"))
            found.at[i, "ours"] = Estimate(line["ours"], half, places)
            found.at[i, "difference"] = (
                "" if gap is None else f"{round(gap, places) + 0.0:+.{places}f}"
            )  # no -0.0
        if line["unit"] in ("%", "points"):
            found.at[i, "published"] = Estimate(line["published"])
    return found


def caption(lines: pd.DataFrame) -> str:
    """What a reader must know to compare."""
    sources, splits, recipe = (_joined(lines[column]) for column in ("source", "split", "recipe"))
    return (
        f"Published figures ({sources}) beside ours: mean ± 95 % interval over seeds (of gains and changes: over "
        "pairs of the same data set and seed); inside says whether the published figure lies in it. VP's published "
        "code picks the epoch on the test split, AdaViPro's text does not say; ours is picked on validation and tested "
        f"once. VP and its successors use CoOp's splits; ours: {splits or 'not said'}. Our recipe: "
        f"{recipe or 'not said'}. A blank was not read, or has not run."
    )


def write(lines: pd.DataFrame, stem: Path) -> list[Path]:
    """Write lines of `beside` as stem.md, stem.csv and stem.tex, which needs booktabs. Returns the paths.

    The CSV file has every column; the others have the reader's table, then one of how each line was made.
    """
    told = [short(lines), lines[[*NAMING, *MAKING]]]
    pages = {
        ".md": "\n".join([caption(lines) + "\n", *map(tables.to_markdown, told)]),
        ".csv": tables.to_csv(lines),
        ".tex": "\n".join([tables.to_latex(caption(lines)) + "\n", *map(tables.to_latex, told)]),
    }
    paths = [stem.with_name(stem.name + ending) for ending in pages]
    stem.parent.mkdir(parents=True, exist_ok=True)
    for path, page in zip(paths, pages.values(), strict=True):
        write_atomically(path, page.encode())
    return paths
