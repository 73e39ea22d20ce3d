"""A frame of numbers and estimates as text: here they are rounded, once."""

import re
from typing import Any

import pandas as pd

from adavipro.report.results import Estimate


def cell_text(cell: Any) -> str:
    """A cell of a frame for a reader; what is missing is blank."""
    if isinstance(cell, Estimate | str):
        return str(cell)
    if pd.isna(cell):
        return ""
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def to_markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table; what is missing is blank."""
    text = frame.map(lambda cell: cell_text(cell).replace("|", r"\|"))
    lines = [list(text), ["---"] * text.shape[1], *text.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV with every digit; half the interval of estimates has a column of its own, "<name> ci95"."""
    columns = {}
    for name, cells in frame.items():
        columns[name] = [cell.mean if isinstance(cell, Estimate) else cell for cell in cells]
        halves = [cell.half if isinstance(cell, Estimate) else None for cell in cells]
        if any(half is not None for half in halves):
            columns[f"{name} ci95"] = halves
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")


def to_latex(frame: pd.DataFrame) -> str:
    """A frame as a LaTeX table with booktabs; what is missing is blank."""
    from tabulate import tabulate

    text = frame.map(cell_text)
    latex = tabulate(text, "keys", "latex_booktabs", showindex=False, disable_numparse=True)
    # Signs that LaTeX would not set as they are meant: a minus and a plus-minus.
    return re.sub(r"(?<= )-(?=\d)", "$-$", latex).replace("±", r"$\pm$") + "\n"
