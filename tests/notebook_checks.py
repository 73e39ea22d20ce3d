"""Runs one notebook of the series in its smallest mode, as the tests of both halves do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from adavipro import executing, series

# The parameters of each notebook's smallest mode.
SMALLEST: dict[str, dict[str, Any]] = {
    "00_start_here": {"pictures": 2},
    "01_visual_prompts": {"epochs": 1},
    "02_edges": {},
    "03_deciding": {"draws": 5000},
    "04_training": {"epochs": 1},
    "05_accuracy_and_width": {"epochs": 1},
    "06_what_it_looks_like": {"epochs": 1, "pictures": 2},
    "07_price": {"epochs": 1},
    "08_ablations": {"epochs": 1},
    "09_your_images": {"epochs": 1},
    "10_any_classifier": {"epochs": 1, "source_pictures": 2000},
    "11_tables_and_machines": {"seeds": 1},
}
LIMIT_S = 400


def prepared(name: str, folder: Path) -> Path:
    """The notebook with parameters injected by papermill, not run: its committed outputs are still there."""
    source, target = series.NOTEBOOKS / f"{name}.ipynb", folder / f"{name}.ipynb"
    given = {**SMALLEST[name], "runs": str(folder / "runs"), "out": str(folder / "out")}
    subprocess.run(
        executing.papermill(source, target, given, "--prepare-only"), check=True, capture_output=True
    )
    return target


def passes_nbval(notebook: Path) -> str:
    """Run a notebook with nbval: no cell may fail, and cells tagged nbval-check-output print what is committed.

    Returns pytest's report where something differs, and nothing where all is well.
    """
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", str(LIMIT_S)]
    pytest = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider", "--rootdir"]
    done = subprocess.run(
        [*pytest, notebook.parent, *nbval, notebook], capture_output=True, text=True, cwd=notebook.parent
    )
    return done.stdout[-4000:] if done.returncode else ""


def smallest_run(name: str, folder: Path) -> dict[str, float]:
    """Run a notebook in its smallest mode with nbval. Returns the numbers of its result.json."""
    assert not passes_nbval(prepared(name, folder))
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["notebook"] == name
    pictures = {path.stem for path in (folder / "out").glob("*.png")}
    assert pictures
    assert pictures == {path.stem for path in (folder / "out").glob("*.svg")}
    return result["numbers"]
