"""Grids of runs on Dask: what is finished is kept, what failed is recorded, the rest goes on."""

import itertools
import shlex
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from adavipro import datasets, executing, files, machines, presets, sheets
from adavipro.experiment import Experiment
from adavipro.settings import SettingError
from adavipro.sheets import Run

WORLD = "embedded"
FINAL_MARGIN = 1.0  # points of accuracy
FAILED = "failed.json"


def grid(
    names: Iterable[str], methods: Iterable[str], frames_px: Iterable[int], seeds: Iterable[int]
) -> list[Experiment]:
    """All runs of a grid, seed by seed, so that an unfinished grid is a finished one with fewer seeds."""
    names, methods, frames_px = list(names), list(methods), list(frames_px)
    runs = [presets.preset(WORLD, "zero-shot", dataset=n) for n in names if "zero-shot" in methods]
    trained = [m for m in methods if m != "zero-shot"]
    for seed, name, px, method in itertools.product(seeds, names, frames_px, trained):
        runs.append(presets.preset(WORLD, method, dataset=name, prompt_px=px, seed=seed))
    return runs


def candidates(method: str, frame_px: int, seeds: Iterable[int]) -> list[Experiment]:
    """Every recipe that the search tries for a method, on every data set."""
    space = presets.SEARCH[method]
    runs = []
    for seed, *values in itertools.product(seeds, *space.values()):
        changed = dict(zip(space, values, strict=True))
        for name in datasets.CLASS_NAMES:
            runs.append(presets.preset(WORLD, method, dataset=name, prompt_px=frame_px, seed=seed, **changed))
    return runs


def ranking(rows: Iterable[dict[str, Any]], method: str) -> list[dict[str, str]]:
    """A search as a reader's table: each recipe with its mean validation accuracy, those with most runs first."""
    names = ["prompt_px", *presets.SEARCH[method]]
    found: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        found.setdefault(tuple(str(row[n]) for n in names), []).append(100 * float(row["val_accuracy"]))
    order = sorted(found.items(), key=lambda item: (-len(item[1]), -statistics.fmean(item[1])))
    return [
        {
            **dict(zip(names, recipe, strict=True)),
            "runs": str(len(v)),
            "mean val (%)": f"{statistics.fmean(v):.2f}",
        }
        for recipe, v in order
    ]


def search(method: str, frame_px: int, root: Path, **how: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Search a method's recipe on validation, in two rounds. Returns a row a run, and errors by run folder.

    All candidates run with the first search seed; those whose mean over data sets is within FINAL_MARGIN of the
    best then run with the others; at other widths than the default, which pick no recipe, the first round does.

    Args:
        how: `workers`, `scheduler`, `limit_s` and `device` of `sweep`.
    """
    rows, errors = sweep(candidates(method, frame_px, presets.SEARCH_SEEDS[:1]), "validate", root, **how)
    ranked = ranking(rows, method)
    least = float(ranked[0]["mean val (%)"]) - FINAL_MARGIN if ranked else 0.0
    finalists = [recipe for recipe in ranked if float(recipe["mean val (%)"]) >= least]
    others = presets.SEARCH_SEEDS[1:] if frame_px == presets.DEFAULT_FRAME_PX else ()
    final = [
        run
        for run in candidates(method, frame_px, others)
        if any(all(str(getattr(run, n)) == recipe[n] for n in presets.SEARCH[method]) for recipe in finalists)
    ]
    more, more_errors = sweep(final, "validate", root, **how)
    return rows + more, errors | more_errors


def sweep(
    runs: Sequence[Run],
    work: str,
    root: Path,
    workers: int | None = None,
    scheduler: str | None = None,
    limit_s: float | None = None,
    device: str = "cpu",
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Do the work for every run, each in a papermill process. Returns rows, and errors by run folder.

    Rows come in the order of the runs. A run that fails does not stop the others; failed.json in its folder says why,
    failed.ipynb how far it came. A worker that dies is started again, and its run goes on from its checkpoint; the run
    has failed when it takes a fourth one with it. Calling it again repeats nothing that is finished.

    Args:
        work: "report" (with the test figure) or "validate" (without); baselines are always reported.
        workers: how many runs at a time; none: one a GPU or a core. The cores are shared out.
        scheduler: address of a Dask cluster that runs already; none: one is started here.
        limit_s: seconds of wall clock for one run; none: no limit.

    Raises:
        SettingError: if there is no cluster to run on, or its machines do not share the root.
    """
    root = root.resolve()
    folders = [run.folder(root) for run in runs]  # once: a folder's name is a hash of weights and data
    rows = {
        folder: sheets.finished_row(run, sheets.kind_of(run, work), root)
        for folder, run in zip(folders, runs, strict=True)
    }
    todo = {folder.name: run for folder, run in zip(folders, runs, strict=True) if rows[folder] is None}
    errors: dict[str, str] = {}
    if todo and not sheets.NOTEBOOK.exists():
        raise SettingError(
            f"there is no notebook {sheets.NOTEBOOK}: install the project again, or run this in a checkout"
        )

    def ended(name: str, error: str | None) -> None:
        run, folder = todo[name], root / name
        rows[folder] = sheets.finished_row(run, sheets.kind_of(run, work), root)
        if rows[folder] is None:
            errors[name] = error or "it ended without a result"
            _record(folder, errors[name], jobs[name]["parameters"])
        else:
            for left in (FAILED, executing.FAILED):
                (folder / left).unlink(missing_ok=True)
        bar.set_postfix_str(f"{len(errors)} failed" if errors else "")
        bar.update()

    if todo:
        jobs = {
            name: _job(run, sheets.kind_of(run, work), root, limit_s, device) for name, run in todo.items()
        }
        with (
            tqdm(total=len(rows), initial=len(rows) - len(todo), unit="run") as bar,
            machines.cluster(workers, device, scheduler, len(todo)) as client,
        ):
            tqdm.write(f"watch the runs at {client.dashboard_link}", file=sys.stderr)
            machines.execute_all(client, root, jobs, ended)
    return [row for folder in folders if (row := rows[folder]) is not None], errors


def _job(run: Run, kind: str, root: Path, limit_s: float | None, device: str) -> dict[str, Any]:
    """What `executing.execute` needs for a run."""
    given = {"kind": kind, "settings": files.canonical_json(asdict(run)), "runs": str(root), "device": device}
    return {
        "notebook": sheets.NOTEBOOK,
        "folder": run.folder(root),
        "parameters": given,
        "proof": sheets.PROOFS[kind],
        "limit_s": limit_s,
        "cwd": Path.cwd(),
    }


def _record(folder: Path, error: str, parameters: dict[str, Any]) -> None:
    """Write what went wrong into a run's folder, with the command that does it again by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    command = executing.papermill(sheets.NOTEBOOK, folder / "by-hand.ipynb", parameters)
    told = {"error": error, "time": time.strftime("%Y-%m-%d %H:%M:%S %z"), "command": shlex.join(command)}
    files.write_json(folder / FAILED, told)
