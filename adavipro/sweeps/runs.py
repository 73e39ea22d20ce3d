"""Many runs: what is finished is kept, what failed is recorded, the rest goes on."""

import contextlib
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from adavipro import datasets, experiment
from adavipro.experiment import Experiment
from adavipro.io import canonical_json, expanded, shipped, write_atomically, write_json
from adavipro.report.kept import read_json
from adavipro.report.results import WITHOUT_PROMPT
from adavipro.sweeps import cluster

NOTEBOOK = shipped("run.ipynb", "notebooks")
FAILED = "failed.json"
# What a row says of a run; None where a method has no such thing.
COLUMNS = (
    "dataset", "method", "prompt_px", "seed", "setting", "test_accuracy", "val_accuracy", "share_on", "mask_diversity",
    "object_cover", "best_epoch", "steps", "seconds", "memory_mb", "device", "parameters", "split", "key", "versions",
)  # fmt: skip
Row = dict[str, Any]
# A row a finished run, in the order of the runs; and errors by run folder.
Found = tuple[list[Row], dict[str, str]]


# --- One run --------------------------------------------------------------------------------------------------------


def report(run: Experiment, root: Path, device: str) -> Row:
    """Do one run in this process, or read it where it is finished. Returns its row."""
    result = experiment.run(run, root, device=device, progress_bar=False)
    return row_of(run, result, run.folder(root, result["key"]))


def finished_row(run: Experiment, folder: Path) -> Row | None:
    """The row of a run, from its folder; None where it is not finished."""
    result = experiment.read_folder(folder, folder.name.rpartition("-")[2])
    return None if result is None else row_of(run, result, folder)


def row_of(run: Experiment, result: Row, folder: Path) -> Row:
    """A finished run as a row: what was run, what came out, what it cost."""
    kinds = {"seconds": float | None, "memory_mb": int | None, "device": str}
    told = (read_json(folder / experiment.TIMING, kinds) or {}) | result
    told |= {"dataset": run.dataset, "method": run.method, "seed": run.seed, "setting": result["picked"]}
    told["prompt_px"] = None if run.method in WITHOUT_PROMPT else run.prompt.prompt_px
    told["versions"] = " ".join(f"{name}={version}" for name, version in result["versions"].items())
    return {name: told.get(name) for name in COLUMNS}


# --- Many runs ------------------------------------------------------------------------------------------------------


def sweep(
    runs: Sequence[Experiment], root: Path, device: str = "cpu", labels: Sequence[Row] = (), **how: Any
) -> Found:
    """Report every run, each in a notebook of its own. Returns rows, and errors by run folder.

    A run that fails does not stop the others; failed.json in its folder says why, failed.ipynb how far it came. A run
    whose worker dies is done again and goes on from its checkpoint; it has failed when it takes a fourth one with it.
    Calling it again repeats nothing that is finished. What runs here ends with the sweep; on a cluster that runs
    already, runs that have begun go on to their end, and are kept.

    Args:
        labels: what a row says besides, one for each run.
        how: `workers`, `scheduler` and `limit_s` of `cluster.execute_all`.

    Raises:
        SettingError: if there is no cluster to run on, or it is lost.
    """
    root = expanded(root).resolve()
    sources = {name: datasets.find(name) for name in {run.dataset for run in runs}}
    folders = [run.folder(root, None, sources[run.dataset]) for run in runs]
    of = dict(zip(folders, runs, strict=True))
    rows = {folder: finished_row(run, folder) for folder, run in of.items()}
    given, errors = {"root": str(root), "device": device}, {}
    todo = {
        folder: {"settings": canonical_json(of[folder].content()), **given}
        for folder, row in rows.items()
        if row is None
    }
    with (
        tqdm(total=len(rows), initial=len(rows) - len(todo), unit="run", disable=not todo) as bar,
        contextlib.closing(cluster.execute_all(NOTEBOOK, todo, experiment.RESULT, device, **how)) as ended,
    ):
        for folder, error in ended:
            rows[folder] = finished_row(of[folder], folder)
            if rows[folder] is None:
                elsewhere = f"its result is not in {root}, which every machine must see under the same path"
                errors[folder.name] = error or elsewhere
                _record(folder, errors[folder.name], todo[folder])
            else:
                (folder / FAILED).unlink(missing_ok=True)
            bar.set_postfix_str(f"{len(errors)} failed" if errors else "")
            bar.update()
    told = zip(folders, labels or [{}] * len(runs), strict=True)
    return [label | row | label for folder, label in told if (row := rows[folder]) is not None], errors


def _record(folder: Path, error: str, parameters: Mapping[str, str]) -> None:
    """Write what went wrong into a run's folder, with the command that does it again by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["papermill", "-k", "python3", str(NOTEBOOK), str(folder / "by-hand.ipynb")]
    command += [word for name, value in parameters.items() for word in ("-r", name, value)]
    told = {"error": error, "time": time.strftime("%Y-%m-%d %H:%M:%S %z"), "command": shlex.join(command)}
    write_json(folder / FAILED, told)


def write_rows(path: Path, rows: Iterable[Row] | pd.DataFrame) -> None:
    """Write rows as CSV; numbers keep every digit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, dtype=object)
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n").encode())
