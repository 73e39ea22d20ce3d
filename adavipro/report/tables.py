"""Results as tables: means and confidence intervals over seeds."""

import csv
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adavipro.classifiers import data_folder

RESULTS = {"embedded": "embedded.csv"}
MEAN = "mean"  # over data sets
BASELINES = data_folder() / "results" / "baselines.csv"
SEARCHED_VP = data_folder() / "results" / "search_vp.csv"
# 97.5 % quantiles of Student's t for 1 to 19 degrees of freedom.
_T: tuple[float, ...] = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_T += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)


def confidence_half_width(values: list[float]) -> float | None:
    """Half the width of the 95 % confidence interval of the mean (Student's t); None for a single value."""
    n = len(values)
    if n < 2:
        return None
    return _T[min(n - 2, len(_T) - 1)] * statistics.stdev(values) / n**0.5


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file, a row a dictionary."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_results(world: str = "embedded", path: Path | None = None) -> list[dict[str, str]]:
    """Read the results that ship with the project, a row a run.

    Raises:
        ValueError: if the world ships no results.
    """
    if path is None:
        if world not in RESULTS:
            raise ValueError(f"world is {world!r}, but results ship for: {', '.join(RESULTS)}")
        path = data_folder() / "results" / RESULTS[world]
    rows = read_rows(path)
    needed = {"dataset", "method", "prompt_px", "test_accuracy"}
    if not rows or not needed <= rows[0].keys():
        raise ValueError(f"{path} holds no results: it needs rows with {', '.join(sorted(needed))}")
    return rows


def of_studies(rows: Iterable[dict[str, Any]], *studies: str) -> list[dict[str, Any]]:
    """Rows of some studies. A file without a column `study` holds a main grid."""
    return [r for r in rows if r.get("study", "main") in studies]


def method_of(row: dict[str, Any]) -> str:
    """A row's method as tables name it: VP with a rate tuned for each width stands by itself."""
    return "vp-tuned" if row.get("study") == "vp-tuned" else str(row["method"])


def with_mean(rows: Iterable[dict[str, Any]], value: str = "test_accuracy") -> list[dict[str, Any]]:
    """Add, for each seed, the mean over all data sets as a data set named "mean", so that it gets an interval too.

    A cell where some data set is missing gets none.
    """
    rows = list(rows)
    names = {r["dataset"] for r in rows}
    cells: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for r in rows:
        cells.setdefault((method_of(r), str(r["prompt_px"]), str(r.get("seed"))), []).append(r)
    for cell in cells.values():
        if (
            len(names) > 1
            and {r["dataset"] for r in cell} == names
            and all(r[value] not in ("", None) for r in cell)
        ):
            mean = statistics.fmean(float(r[value]) for r in cell)
            rows.append({**cell[0], "dataset": MEAN, value: mean})
    return rows


def summarise(rows: Iterable[dict[str, Any]], value: str = "test_accuracy") -> list[dict[str, Any]]:
    """Mean and 95 % confidence interval over seeds, in percent, for each data set, method and prompt width."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row[value] in ("", None):
            continue
        px = "" if row["prompt_px"] in ("", None) else str(row["prompt_px"])
        groups.setdefault((row["dataset"], method_of(row), px), []).append(100 * float(row[value]))
    return [
        {
            "dataset": dataset,
            "method": method,
            "prompt_px": px,
            "seeds": len(values),
            **mean_and_interval(values),
        }
        for (dataset, method, px), values in groups.items()
    ]


def mean_and_interval(values: list[float]) -> dict[str, str]:
    """Mean and half the width of its 95 % confidence interval, as text with two places; blank for one value."""
    half = confidence_half_width(values)
    return {"mean": f"{statistics.fmean(values):.2f}", "ci95": "" if half is None else f"{half:.2f}"}


def shown(row: dict[str, str]) -> str:
    """A mean with its interval, for a reader."""
    return f"{float(row['mean']):.1f}" + (f" ± {float(row['ci95']):.1f}" if row["ci95"] else "")


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    head = list(rows[0])
    cells = [head, ["---"] * len(head), *([str(row[k]) for k in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def accuracy_matrix(rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows as a reader's table: a line for each data set, and their mean, and each method; a column for each width."""
    summary = summarise(with_mean(rows))
    widths = sorted({int(r["prompt_px"]) for r in summary if r["prompt_px"]})
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for r in summary:
        blank = {"dataset": r["dataset"], "method": r["method"], **{f"{w} px": "" for w in widths}}
        line = lines.setdefault((r["dataset"], r["method"]), blank)
        for w in widths:
            if r["prompt_px"] in ("", str(w)):
                line[f"{w} px"] = shown(r)
    order = {"zero-shot": 0, "vp": 1, "vp-tuned": 2, "adavipro": 3}
    return sorted(
        lines.values(),
        key=lambda x: (x["dataset"] == MEAN, x["dataset"], order.get(x["method"], len(order)), x["method"]),
    )


TABLE_1 = {
    "zero-shot": "zero-shot", "linear-probe": "linear probe", "fine-tune": "full fine-tuning", "vp": "VP",
    "adavipro": "AdaViPro",
}  # fmt: skip


def main_matrix(rows: Iterable[dict[str, Any]], prompt_px: int) -> list[dict[str, str]]:
    """Table 1: a line for each method, prompts at one width; a column for each data set and their mean."""
    at_width = ("", "None", str(prompt_px))
    summary = summarise(with_mean(r for r in of_studies(rows, "main") if str(r["prompt_px"]) in at_width))
    cells = {(r["method"], r["dataset"]): shown(r) for r in summary}
    names = sorted({r["dataset"] for r in summary}, key=lambda name: (name == MEAN, name))
    return [
        {"method": title, **{name: cells.get((method, name), "") for name in names}}
        for method, title in TABLE_1.items()
        if method in {r["method"] for r in summary}
    ]


def ablation_matrix(rows: Iterable[dict[str, Any]], study: str, own: str) -> list[dict[str, str]]:
    """An ablation as a reader's table: a line for each method, width and value.

    A column for each data set and their mean (over seeds), and the difference from the recipe's own value with its
    95 % interval over pairs of the same data set and seed. Random masks stand beside the learned ones whose share of
    regions they have.

    Args:
        own: the recipe's own value, as text.
    """
    rows = list(rows)
    found = of_studies(rows, study)
    if study == "random_share":
        cells = {(r["prompt_px"], r["seed"]) for r in found}
        learned = [r for r in of_studies(rows, "main") if r["method"] == "adavipro"]
        learned = [r for r in learned if (r["prompt_px"], r["seed"]) in cells]
        found = [{**r, "value": own} for r in learned] + [{**r, "value": "random"} for r in found]
    groups: dict[tuple[str, str, str], dict[tuple[str, str], float]] = {}
    for r in found:
        group = groups.setdefault((r["method"], str(r["prompt_px"]), str(r["value"])), {})
        group[r["dataset"], str(r["seed"])] = 100 * float(r["test_accuracy"])
    lines = []
    for (method, px, value), accuracies in groups.items():
        line = {"method": method, "frame (px)": px, study: value}
        for name in sorted({dataset for dataset, _ in accuracies}):
            line[name] = f"{statistics.fmean(a for (d, _), a in accuracies.items() if d == name):.1f}"
        line[MEAN] = f"{statistics.fmean(accuracies.values()):.1f}"
        reference = groups.get((method, px, own), {})
        pairs = [a - reference[cell] for cell, a in accuracies.items() if cell in reference]
        line["difference"] = shown(mean_and_interval(pairs)) if value != own and pairs else ""
        lines.append(line)
    return lines
