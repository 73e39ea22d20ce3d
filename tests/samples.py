"""Notebooks small enough to read, and the scripts of docs/ that work on notebooks."""

import copy
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

TOP = Path(__file__).parents[1]
sys.path.insert(0, str(TOP / "docs"))
publish, rules, stamps = map(importlib.import_module, ("publish", "rules", "stamps"))

PROJECT = stamps.Project(
    "https://github.com/someone/thing", "1.2.3", "open_clip_torch>=3.2,<4", "timm>=1.0.9", "2.10"
)
VIEW = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "IntSlider(value=0)"}
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
Change = Callable[[NotebookNode], None]


def code(source: str, *tags: str) -> NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def sample() -> NotebookNode:
    """A notebook that keeps every rule."""
    needs = "**Needs** about 1 s on one CPU core, 0.1 GB of memory, 1 MB of disk."
    cells = [
        new_markdown_cell(f"# 1. Why?\n\nThis is asked.\n\n{needs}"),
        code("seed = 0\ndevice = 'auto'\nruns = None", "parameters"),
        code("a = 1\nassert a == 1", "scratch"),
        code("a", "widget"),
        new_markdown_cell("An answer, with more words than the code has, since that is the rule."),
        code("print(a)"),
    ]
    notebook = new_notebook(cells=cells, metadata=copy.deepcopy(rules.METADATA))
    for place, cell in enumerate(notebook.cells):
        cell.id = f"01-{place:02d}"
    return stamps.stamped(notebook, "01_why", PROJECT)


def findings(notebook: NotebookNode) -> list[str]:
    """What the rules say of a sample."""
    return rules.of_form("01_why", notebook) + rules.of_outputs("01_why.ipynb", notebook)


def replaced(place: int, old: str, new: str) -> Change:
    """A change of a cell's text."""

    def change(notebook: NotebookNode) -> None:
        assert old in notebook.cells[place].source
        notebook.cells[place].source = notebook.cells[place].source.replace(old, new)

    return change


def shown(output: NotebookNode) -> Change:
    """An output of the last cell."""
    return lambda notebook: notebook.cells[-1].outputs.append(output)
