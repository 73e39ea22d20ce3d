"""The notebook series in one go: each notebook through papermill in a kernel of its own; what is finished is kept."""

import hashlib
import json
import multiprocessing
from collections.abc import Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm.auto import tqdm

from adavipro.io import canonical_json, data_folder, expanded
from adavipro.lessons import overview
from adavipro.sweeps import cluster

MODULE = Path(__file__).parents[1]
NOTEBOOKS = MODULE.parent / "notebooks"
LIMIT_S = 1800.0  # of wall clock for one notebook


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
    return overview.result_of(folder) is not None


def folder_of(notebook: Path, runs: Path, parameters: dict[str, Any]) -> Path:
    """Where the rerun of a notebook goes: <runs>/notebooks/<name>-<key>/."""
    return expanded(runs).resolve() / "notebooks" / f"{notebook.stem}-{key(notebook, parameters)}"


def rerun(notebook: Path, runs: Path, parameters: dict[str, Any]) -> tuple[Path, str | None]:
    """Execute a notebook with papermill into <runs>/notebooks/<name>-<key>/, unless that is finished.

    Returns the folder, and None or one line of what went wrong. What a failed one left stays as failed.ipynb. Of two
    processes that are asked for the same, the second waits, and repeats nothing that the first has finished.
    """
    folder = folder_of(notebook, runs, parameters)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if finished(folder):
            return folder, None
        for name in ("result.json", cluster.DONE):
            (folder / name).unlink(missing_ok=True)
        given = {**parameters, "runs": str(folder.parents[1]), "out": str(folder)}
        return folder, cluster.execute(notebook, folder, given, "result.json", LIMIT_S)


def reproduce(
    runs: Path, chosen: Iterable[Path], workers: int = 1, **parameters: Any
) -> dict[Path, str | None]:
    """Execute notebooks with one progress display. One that fails does not stop the others.

    After each of them <runs>/index.html is written anew, with the others of the series that are there.

    Args:
        workers: notebooks at a time; each uses one core, but the last.
        parameters: given to every notebook, as `device`.

    Returns:
        by folder: None, or one line of what went wrong.
    """
    chosen, reruns = list(chosen), dict[Path, str | None]()
    notebooks = sorted({*series(), *chosen}, key=lambda path: path.name)
    folders = {notebook: folder_of(notebook, runs, parameters) for notebook in notebooks}
    for notebook, folder, wrong in tqdm(
        _rerun_all(chosen, runs, workers, parameters), total=len(chosen), unit="notebook"
    ):
        folders[notebook], reruns[folder] = folder, wrong
        with FileLock(folder.parent / "lock"):  # of the page: another process may write it too
            overview.write(folder.parents[1], folders, reruns)
    return reruns


def _rerun_all(
    chosen: list[Path], runs: Path, workers: int, parameters: dict[str, Any]
) -> Generator[tuple[Path, Path, str | None]]:
    """Rerun notebooks, so many at a time. Gives notebook, folder and what went wrong, as each ends."""
    if workers < 1:
        raise ValueError(f"workers is {workers}, but it must be at least 1")
    if workers == 1:
        yield from ((notebook, *rerun(notebook, runs, parameters)) for notebook in chosen)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        started = {pool.submit(rerun, notebook, runs, parameters): notebook for notebook in chosen}
        yield from ((started[future], *future.result()) for future in as_completed(started))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C ends those that run, and starts no others
