"""The notebook series in one go: each notebook through papermill in a kernel of its own; what is finished is kept."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm.auto import tqdm

from adavipro.io import canonical_json, data_folder
from adavipro.sweeps import cluster

MODULE = Path(__file__).parents[1]
NOTEBOOKS = MODULE.parent / "notebooks"
LIMIT_S = 1800.0  # of wall clock for one notebook


@dataclass(frozen=True)
class Rerun:
    """One notebook with its parameters, and what came of it.

    repeated: whether it ran now, or was finished. error: None where it is finished; otherwise one line of what went
    wrong.
    """

    name: str
    folder: Path
    repeated: bool
    error: str | None = None

    def result(self) -> dict[str, Any]:
        """The notebook's numbers, parameters, time and versions, as `pages.Page.finish` wrote them."""
        return json.loads((self.folder / "result.json").read_text())


def series(numbers: Iterable[str] | None = None) -> list[Path]:
    """The notebooks in the order of the series.

    Args:
        numbers: only these, as "05"; none: all.

    Raises:
        ValueError: where there are none, as in a wheel, or a number is none of theirs.
    """
    found = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise ValueError(f"there are no notebooks in {NOTEBOOKS}: run this in a checkout of the project")
    chosen = list(found) if numbers is None else list(numbers)
    for wrong in (n for n in chosen if n not in found):
        raise ValueError(f"there is no notebook {wrong!r}: the numbers are {', '.join(found)}")
    return [found[n] for n in chosen]


def key(notebook: Path, parameters: dict[str, Any]) -> str:
    """Hash of a notebook's code, its parameters, the module and all that ships: the same key is the same rerun."""
    cells = json.loads(notebook.read_text())["cells"]
    behind = hashlib.sha256()
    for path in sorted([*MODULE.rglob("*.py"), *filter(Path.is_file, data_folder().rglob("*"))]):
        behind.update(path.read_bytes())
    content = {
        "cells": ["".join(c["source"]) for c in cells if c["cell_type"] == "code"],
        "parameters": parameters,
        "behind": behind.hexdigest(),
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]


def finished(folder: Path) -> bool:
    """Whether a notebook ran to its end: result.json with this folder's key, and the executed notebook."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return result.get("key") == folder.name and (folder / cluster.DONE).exists()


def rerun(notebook: Path, runs: Path, parameters: dict[str, Any], limit_s: float = LIMIT_S) -> Rerun:
    """Execute a notebook with papermill into <runs>/notebooks/<name>-<key>/, unless that is finished.

    Finished is no error and a result.json with the key. What a failed one left stays as failed.ipynb. Two processes
    that are asked for the same rerun do it once: the second waits.
    """
    folder = runs.resolve() / "notebooks" / f"{notebook.stem}-{key(notebook, parameters)}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "rerun.lock"):
        if finished(folder):
            return Rerun(notebook.stem, folder, repeated=False)
        for name in ("result.json", cluster.DONE):
            (folder / name).unlink(missing_ok=True)
        given = {**parameters, "runs": str(runs.resolve()), "out": str(folder)}
        error = cluster.execute(notebook, folder, given, "result.json", limit_s)
    return Rerun(notebook.stem, folder, repeated=True, error=error)


def reproduce(runs: Path, chosen: Iterable[Path] | None = None, **parameters: Any) -> list[Rerun]:
    """Execute the series, notebook by notebook, with one progress display. One that fails does not stop the others.

    Args:
        chosen: only these notebooks.
        parameters: given to every notebook (`world`, `device`).
    """
    reruns = []
    with tqdm(series() if chosen is None else list(chosen), unit="notebook") as bar:
        for notebook in bar:
            bar.set_description_str(notebook.stem)
            reruns.append(rerun(notebook, runs, parameters))
    return reruns
