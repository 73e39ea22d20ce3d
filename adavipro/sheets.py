"""One run of a sweep: what its sheet, notebooks/run.ipynb, does, whether it is finished, and its row of results."""

import json
from pathlib import Path
from typing import Any

from adavipro import baselines, experiment, files, presets
from adavipro.baselines import Baseline
from adavipro.classifiers import shipped
from adavipro.experiment import Experiment
from adavipro.settings import SettingError, from_mapping

NOTEBOOK = shipped("run.ipynb", "notebooks")
# What there is to do, and the file that it leaves, last.
PROOFS = {"report": "result.json", "validate": "validated.json", "baseline": "result.json"}
# What a row says of a run; a baseline's lacks some.
COLUMNS = (
    "dataset", "method", "prompt_px", "seed", "test_accuracy", "val_accuracy", "share_on", "mask_diversity",
    "object_cover", "best_epoch", "steps", "seconds", "memory_mb", "device", "parameters", "split", "key", "versions",
)  # fmt: skip
Run = Experiment | Baseline


def kind_of(run: Run, work: str) -> str:
    """What there is to do for a run: `work` for an experiment; a baseline is a kind of its own."""
    return "baseline" if isinstance(run, Baseline) else work


def read_run(kind: str, settings: str) -> Run:
    """Make a run from the sheet's parameters: what there is to do, and the run's settings as JSON.

    Raises:
        SettingError: if the kind is none of PROOFS, or a setting's name, type or value is wrong.
    """
    if kind not in PROOFS:
        raise SettingError(f"kind is {kind!r}, but it must be one of: {', '.join(PROOFS)}")
    try:
        values = json.loads(settings)
    except ValueError as error:
        raise SettingError(f"settings are {settings!r}, but they must be JSON: {error}") from None
    return from_mapping(Baseline, values) if kind == "baseline" else from_mapping(Experiment, values)


def work_on(run: Run, kind: str, root: Path, device: str) -> dict[str, Any]:
    """Do one run in this process, or read it where it is finished. Returns its row."""
    if isinstance(run, Baseline):
        return baselines.run(run, root, device)
    if kind == "validate":
        return validate(run, root, device)
    return row_of(run, experiment.run(run, root, device=device, progress_bar=False), root)


def finished_row(run: Run, kind: str, root: Path) -> dict[str, Any] | None:
    """The row of a run; None where it is not finished."""
    if kind == "validate":
        path = run.folder(root) / PROOFS[kind]
        return json.loads(path.read_text()) if path.exists() else None
    result = experiment.read_result(run, root)
    return row_of(run, result, root) if result and isinstance(run, Experiment) else result


def row_of(run: Experiment, result: dict[str, Any], root: Path) -> dict[str, Any]:
    """A finished run as a row: what was run, what came out, what it cost."""
    path = run.folder(root) / "timing.json"
    timing = json.loads(path.read_text()) if path.exists() else {}
    said = {
        "dataset": run.dataset,
        "method": run.method,
        "prompt_px": None if run.method == "zero-shot" else run.prompt_px,
        "seed": run.seed,
        "versions": " ".join(f"{k}={v}" for k, v in result["versions"].items()),
    }
    return {name: (timing | result | said).get(name) for name in COLUMNS}


def validate(run: Experiment, root: Path, device: str = "cpu") -> dict[str, Any]:
    """One run as far as validation, as a row of the search file; the test split is not touched.

    Writes validated.json last; where it is there, it is read.
    """
    path = run.folder(root) / PROOFS["validate"]
    with files.locked(path.with_suffix(".lock")):  # another process may be at it
        done = finished_row(run, "validate", root)
        if done is not None:
            return done
        _, _, progress = experiment.train_or_resume(run, root, device=device, progress_bar=False)
        best = progress.history[progress.best_epoch]
        row = {
            "dataset": run.dataset,
            "method": run.method,
            "prompt_px": run.prompt_px,
            "seed": run.seed,
            "val_accuracy": progress.best_accuracy,
            "last_val_accuracy": progress.history[-1]["val_accuracy"],
            "share_on": best["share_on"],
            "mask_diversity": best["mask_diversity"],
            **{k: getattr(run, k) for k in presets.SEARCH[run.method]},
            "key": run.key(),
        }
        files.write_json(path, row)
    return row
