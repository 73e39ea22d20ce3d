"""Results as tables: means and confidence intervals over seeds."""

import csv
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adavipro.classifiers import data_folder

RESULTS = {"embedded": "embedded.csv"}
# 97.5 % quantiles of Student's t for 1 to 19 degrees of freedom.
_T: tuple[float, ...] = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_T += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)


def confidence_half_width(values: list[float]) -> float | None:
    """Half the width of the 95 % confidence interval of the mean (Student's t); None for a single value."""
    n = len(values)
    if n < 2:
        return None
    return _T[min(n - 2, len(_T) - 1)] * statistics.stdev(values) / n**0.5


def read_results(world: str = "embedded", path: Path | None = None) -> list[dict[str, str]]:
    """Read the results that ship with the project, a row a run.

    Raises:
        ValueError: if the world ships no results.
    """
    if path is None:
        if world not in RESULTS:
            raise ValueError(f"world is {world!r}, but results ship for: {', '.join(RESULTS)}")
        path = data_folder() / "results" / RESULTS[world]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    needed = {"dataset", "method", "prompt_px", "test_accuracy"}
    if not rows or not needed <= rows[0].keys():
        raise ValueError(f"{path} holds no results: it needs rows with {', '.join(sorted(needed))}")
    return rows


def summarise(rows: Iterable[dict[str, Any]], value: str = "test_accuracy") -> list[dict[str, Any]]:
    """Mean and 95 % confidence interval over seeds, in percent, for each data set, method and prompt width."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row[value] in ("", None):
            continue
        px = "" if row["prompt_px"] in ("", None) else str(row["prompt_px"])
        groups.setdefault((row["dataset"], row["method"], px), []).append(100 * float(row[value]))
    summary = []
    for (dataset, method, px), values in groups.items():
        half = confidence_half_width(values)
        summary.append(
            {
                "dataset": dataset,
                "method": method,
                "prompt_px": px,
                "seeds": len(values),
                "mean": f"{statistics.fmean(values):.2f}",
                "ci95": "" if half is None else f"{half:.2f}",
            }
        )
    return summary


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    head = list(rows[0])
    cells = [head, ["---"] * len(head), *([str(row[k]) for k in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def accuracy_matrix(rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Summary rows as a reader's table: a line for each data set and method, a column for each width."""
    summary = summarise(rows)
    widths = sorted({int(r["prompt_px"]) for r in summary if r["prompt_px"]})
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for r in summary:
        blank = {"dataset": r["dataset"], "method": r["method"], **{f"{w} px": "" for w in widths}}
        line = lines.setdefault((r["dataset"], r["method"]), blank)
        shown = f"{float(r['mean']):.1f}" + (f" ± {float(r['ci95']):.1f}" if r["ci95"] else "")
        for w in widths:
            if r["prompt_px"] in ("", str(w)):
                line[f"{w} px"] = shown
    order = {"zero-shot": 0, "vp": 1, "adavipro": 2}
    return sorted(lines.values(), key=lambda x: (x["dataset"], order.get(x["method"], 9)))
