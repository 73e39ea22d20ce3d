"""Results beside the published figures: a line for each cell of a table, and for each published fact that is none."""

import itertools
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import LATEX_ESCAPE_RULES, tabulate

from adavipro import facts, published
from adavipro.facts import PARAMETERS, WITHOUT_PROMPT, Cell, Row, Table, text
from adavipro.files import to_csv, write_atomically
from adavipro.settings import SettingError
from adavipro.tables import confidence_half_width, shown

NUMBERS = ("1", "2", "3", "4", "5", "6", "7")
# Places of the units that are measured. The best value of a setting has no interval, and no difference from another.
PLACES = {"%": 2, "points": 2, "million": 4}
NAMING = ("dataset", "method", "prompt_px", "setting", "quantity")
MAKING = ("seconds", "memory_mb", "device", "recipe", "split", "source", "note", "versions", "command")
COLUMNS = (
    "table", *NAMING, "unit", "published", "ours", "ci95", "difference", "inside", "seeds", *MAKING,
)  # fmt: skip
Line = dict[str, str]


def lines(
    table: str,
    rows: Iterable[Row],
    datasets: Sequence[str],
    methods: Sequence[str],
    prompt_px: Sequence[int],
    values: Mapping[str, Sequence[Any]],
    seeds: Sequence[int] = (),
) -> list[Line]:
    """Set a table's results beside the published figures; what was not read, or has not run, is blank.

    A line for each data set, method, width and value, with the mean over seeds and its 95 % interval; then one for
    each published fact that is no such cell, with differences over pairs of the same data set and seed.

    Args:
        table: "1" to "7".
        rows: a row a run, from the sweep of this table.
        values: the setting that the table varies and its values; empty for none.
        seeds: those that must be there for a fact; without, those that the rows hold.

    Raises:
        SettingError: if there is no such table, or the rows hold a run twice or runs that do not compare.
    """
    if table not in NUMBERS:
        raise SettingError(f"table is {table!r}, but it must be one of: {', '.join(NUMBERS)}")
    rows = [r for r in rows if text(r["test_accuracy"])]
    setting = next(iter(values), "")
    found = dict.fromkeys(text(r["seed"]) for r in rows if r["method"] not in WITHOUT_PROMPT)
    t = Table(
        table,
        datasets,
        [str(px) for px in prompt_px],
        setting,
        [str(value) for value in values[setting]] if setting else [""],
        [str(seed) for seed in seeds] or list(found),
        facts.by_cell(rows),
    )
    told = published.of_table(table)
    # Where a setting varies, no published figure says its value: all are facts.
    cells = {
        (r["dataset"], r["method"], r["prompt_px"]): r
        for r in told
        if r["quantity"] == t.kind().quantity and not setting
    }
    beside = []
    for name, method in itertools.product(datasets, methods):
        widths = [""] if method in WITHOUT_PROMPT else t.prompt_px
        for px, value in itertools.product(widths, t.values):
            figure = cells.get((_title(name), method, px))
            told = [r for r in told if r is not figure]
            beside.append(_cell_line(t, (name, method, px, value), figure or {}))
    if table == "1":  # VP's own paper tells more of these runs
        note = f"VP's own figure; ours is at {facts.DEFAULT_PX} px"
        told += [{**r, "note": note} for r in published.of_table("VP")]
    return beside + [_fact_line(t, fact, facts.names(t, fact, told)) for fact in told]


def _title(name: str) -> str:
    return published.TITLES.get(name, name)


def _beside(figures: Sequence[float], unit: str, told: str) -> Line:
    """Our mean and interval against a published figure; whether it lies inside is found before any rounding."""
    if unit == PARAMETERS.unit:  # a count has no chance in it
        figures = sorted(set(figures))
    if not figures:
        return {}
    mean, half = statistics.fmean(figures), confidence_half_width(list(figures))
    if unit not in PLACES:
        return {"ours": f"{mean:g}"}
    places = PLACES[unit]
    line = {"ours": f"{mean:.{places}f}", "ci95": "" if half is None else f"{half:.{places}f}"}
    if told:
        gap = mean - float(told)
        line["difference"] = _signed(gap, places)
        line["inside"] = "" if half is None else "yes" if abs(gap) <= half + 1e-9 else "no"
    return line


def _signed(value: float, places: int) -> str:
    return f"{round(value, places) + 0.0:+.{places}f}"  # + 0.0: no -0.0


def _command(t: Table, name: str = "", method: str = "", px: str = "") -> str:
    words = ["adavipro", "sweep", f"tables/table{t.number}.yaml"]
    words += ["--datasets", name] if name else []
    words += ["--methods", method] if method else []
    words += ["--prompt-px", px] if px and len(t.prompt_px) > 1 else []
    return shlex.join(words)


def _cell_line(t: Table, cell: Cell, told: Row) -> Line:
    name, method, px, value = cell
    runs, kind, figure = t.runs.get(cell, {}).values(), t.kind(), told.get("value", "")
    figures = [kind.factor * float(r[kind.column]) for r in runs if text(r.get(kind.column))]
    known = {c: [said for r in runs if (said := text(r.get(c)))] for c in MAKING}
    seconds, memory_mb = ([float(said) for said in known[c]] for c in ("seconds", "memory_mb"))
    return {
        **dict.fromkeys(COLUMNS, ""),
        "table": t.number,
        "dataset": _title(name),
        "method": method,
        "prompt_px": px,
        "setting": f"{t.setting}={value}" if value else "",
        "quantity": kind.quantity,
        "unit": kind.unit,
        "published": figure,
        **_beside(figures, kind.unit, figure),
        "seeds": str(len(runs) or ""),
        "seconds": f"{statistics.median(seconds):.1f}" if seconds else "",
        "memory_mb": f"{max(memory_mb):.0f}" if memory_mb else "",
        **{c: "; ".join(dict.fromkeys(known[c])) for c in ("device", "recipe", "split", "versions")},
        **{c: told.get(c, "") for c in ("source", "note")},
        "command": _command(t, name, method, px),
    }


def _fact_line(t: Table, told: Row, names: Sequence[str]) -> Line:
    found, value = facts.figures(t, told, names), facts.VALUES_TOLD.get((t.number, told["quantity"]))
    note = told["note"]
    if len(found) > 1 and told["unit"] == "points":
        above = sum(statistics.fmean(figures) > 0 for figures in found.values())
        note += f"{'; ' if note else ''}ours is above 0 on {above} of {len(found)}"
    return {
        **dict.fromkeys(COLUMNS, ""),
        "table": t.number,
        **{c: told[c] for c in ("dataset", "method", "prompt_px", "quantity", "unit", "source")},
        "setting": f"{t.setting}={value}" if value else "",
        "published": told["value"],
        **_beside([f for figures in found.values() for f in figures], told["unit"], told["value"]),
        "seeds": str(len(t.seeds)) if found else "",
        "note": note,
        "command": _command(t, names[0] if told["dataset"] in published.DATASETS and names else ""),
    }


# --- For a reader ----------------------------------------------------------------------------------------------


def short(lines: Iterable[Line]) -> list[Line]:
    """Lines as a reader's table: one place, our mean with its interval, and not how a line was made."""
    found = []
    for line in lines:
        told = {c: line[c] for c in (*NAMING, "published", "ours", "difference", "inside", "seeds")}
        told["quantity"] += f" ({line['unit']})" if line["unit"] else ""
        if line["unit"] in ("%", "points") and line["ours"]:
            told["ours"] = shown({"mean": line["ours"], "ci95": line["ci95"]})
            told["difference"] = _signed(float(line["difference"]), 1) if line["difference"] else ""
        found.append(told)
    return found


def caption(lines: Sequence[Line]) -> str:
    """What a reader must know to compare."""
    sources, splits, recipe = (
        "; ".join(dict.fromkeys(ln[c] for ln in lines if ln[c])) for c in ("source", "split", "recipe")
    )
    return (
        f"Published figures ({sources}) beside ours: mean ± 95 % interval over seeds (of gains and changes: over "
        "pairs of the same data set and seed); inside says whether the published figure lies in it. VP's published "
        "code picks the epoch on the test split, AdaViPro's text does not say; ours is picked on validation and tested "
        f"once. VP and its successors use CoOp's splits; ours: {splits or 'not said'}. Our recipe: "
        f"{recipe or 'not said'}. A blank was not read, or has not run."
    )


def write(lines: Sequence[Line], stem: Path) -> list[Path]:
    """Write lines as stem.md, stem.csv and stem.tex, which needs booktabs. Returns the paths.

    The CSV file has every column; the others have the reader's table, then one of how each line was made.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    made = [{c: line[c] for c in (*NAMING, *MAKING)} for line in lines]
    pages = {
        ".md": "\n\n".join([caption(lines), _markdown(short(lines)), _markdown(made)]) + "\n",
        ".csv": to_csv(lines),
        ".tex": "\n\n".join([_escaped(caption(lines)), to_latex(short(lines)), to_latex(made)]) + "\n",
    }
    paths = [stem.with_name(stem.name + ending) for ending in pages]
    for path, page in zip(paths, pages.values(), strict=True):
        write_atomically(path, page.encode())
    return paths


def _markdown(lines: Iterable[Line]) -> str:
    cells = [{column: cell.replace("|", r"\|") for column, cell in line.items()} for line in lines]
    return tabulate(cells, headers="keys", tablefmt="github", disable_numparse=True)


def to_latex(lines: Iterable[Line]) -> str:
    """Lines as a LaTeX table with booktabs."""
    return _signs(tabulate(list(lines), headers="keys", tablefmt="latex_booktabs", disable_numparse=True))


def _escaped(prose: str) -> str:
    return _signs("".join(LATEX_ESCAPE_RULES.get(letter, letter) for letter in prose))


def _signs(latex: str) -> str:
    """Signs that LaTeX would not set as they are meant: a minus, a plus-minus, the two hyphens of an option."""
    latex = re.sub(r"(?<= )-(?=\d)", "$-$", latex)
    return latex.replace("±", r"$\pm$").replace("--", "-{}-")
