"""Runs one notebook of the series in its smallest mode, as the tests of both halves do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import papermill

from adavipro.lessons import series

# The parameters of each notebook's smallest mode.
SMALLEST: dict[str, dict[str, Any]] = {
    "00_start_here": {"epochs": 1, "pictures": 2},
    "01_visual_prompts": {"epochs": 1},
    "02_edges": {},
    "03_deciding": {"draws": 2000},
    "04_training": {"epochs": 1},
    "05_accuracy_and_width": {"epochs": 1},
    "06_what_it_looks_like": {"epochs": 1, "pictures": 2},
    "07_price": {"epochs": 1},
    "08_ablations": {"epochs": 1},
    "09_is_it_real": {"epochs": 1},
    "10_your_images": {"epochs": 1, "pictures": 10},
    "11_any_classifier": {"epochs": 1, "source_pictures": 2000},
    "12_tables_and_machines": {"seeds": 1, "workers": 1},
}
LIMIT_S = 400


def prepared(name: str, folder: Path, runs: Path) -> Path:
    """The notebook with parameters injected by papermill, not run: its committed outputs are still there.

    Args:
        folder: where the notebook and its figures go.
        runs: folder of finished runs; notebooks may share one, as readers' do.
    """
    target = folder / f"{name}.ipynb"
    given = {**SMALLEST[name], "runs": str(runs), "out": str(folder / "out")}
    papermill.execute_notebook(series.NOTEBOOKS / f"{name}.ipynb", target, given, prepare_only=True)
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


def smallest_run(name: str, folder: Path, runs: Path) -> dict[str, float]:
    """Run a notebook in its smallest mode with nbval. Returns the numbers of its result.json."""
    assert not passes_nbval(prepared(name, folder, runs))
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["notebook"] == name
    pictures = {path.stem for path in (folder / "out").glob("*.png")}
    assert pictures
    assert pictures == {path.stem for path in (folder / "out").glob("*.svg")}
    return result["numbers"]
