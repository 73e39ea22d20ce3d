"""What the shipped results consist of: the main grid, VP tuned for each width, and the ablations."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adavipro import datasets, presets, sweeps
from adavipro.experiment import METHODS, Experiment

FULL_PX = presets.FRAMES_PX[112]
# The recipe's own value and what else is tried: Tables 4, 6, 5 and 7 of the paper, and two choices of ours. At full
# cover, where every region's decision counts.
ABLATIONS: dict[str, list[Any]] = {
    "edges": [True, False],
    "region_px": [2, 4, 8, 14],
    "temperature_gamma": [0.4, 0.9, 0.94, 0.98, 0.99],
    "generator_width": [8, 16, 32, 64],
    "hard": [False, True],
    "standardise": [True, False],
}
# What both methods hang on, at full cover. A longer run cools at the same share of its length.
SENSITIVITY: dict[str, list[Any]] = {"epochs": [5, 10], "prompt_start_std": [1.0, 0.25]}
ABLATION_SEEDS = presets.REPORT_SEEDS[:3]
MANY_VALUES_SEEDS = SENSITIVITY_SEEDS = presets.REPORT_SEEDS[:2]
# Names of the tables that `adavipro table` prints: the paper's numbers where it has one.
TABLES = {
    "4": "edges", "5": "temperature_gamma", "6": "region_px", "7": "generator_width", "random": "random_share",
    "hard": "hard", "standardise": "standardise", "epochs": "epochs", "start": "prompt_start_std",
}  # fmt: skip
STUDIES = ("main", "vp-tuned", *SENSITIVITY, "random_share", *ABLATIONS)


def runs_of(
    study: str, main: Iterable[dict[str, Any]], search: Iterable[dict[str, Any]]
) -> list[tuple[Any, Experiment]]:
    """List a study's runs, each with the value that it stands for.

    Args:
        study: one of STUDIES.
        main: rows of the main grid; random masks take their share from them, and run where they ran.
        search: rows of VP's search on validation, at every width.
    """
    names, frames = list(datasets.CLASS_NAMES), list(presets.FRAMES_PX.values())
    if study == "main":
        return [("", run) for run in sweeps.grid(names, METHODS, frames, presets.REPORT_SEEDS)]
    if study == "vp-tuned":
        rates = best_rates(search)
        runs = sweeps.grid(names, ["vp"], frames, ABLATION_SEEDS)
        return [(rates[r.prompt_px], _changed(r, prompt_lr=rates[r.prompt_px])) for r in runs]
    if study in SENSITIVITY:
        runs = sweeps.grid(names, ["vp", "adavipro"], [FULL_PX], SENSITIVITY_SEEDS)
        return [(value, _changed(r, **{study: value})) for value in SENSITIVITY[study] for r in runs]
    seeds = MANY_VALUES_SEEDS if len(ABLATIONS.get(study, [])) > 2 else ABLATION_SEEDS
    runs = sweeps.grid(names, ["adavipro"], [FULL_PX], seeds)
    if study == "random_share":
        learned = {
            (r["dataset"], int(r["prompt_px"]), int(r["seed"])): learned_share(float(r["share_on"]))
            for r in main
            if r["method"] == "adavipro"
        }
        shares = [(learned.get((r.dataset, r.prompt_px, r.seed)), r) for r in runs]
        return [(share, _changed(r, random_share=share)) for share, r in shares if share is not None]
    return [(value, _changed(r, **{study: value})) for value in ABLATIONS[study] for r in runs]


def learned_share(share_on: float) -> float:
    """The share of regions that random masks take from learned ones: in per cent, neither none nor all."""
    return min(max(round(share_on, 2), 0.01), 0.99)


def _changed(run: Experiment, **changes: Any) -> Experiment:
    if "epochs" in changes and run.method == "adavipro":
        changes["temperature_gamma"] = round(run.temperature_gamma ** (run.epochs / changes["epochs"]), 3)
    cell: dict[str, Any] = {"dataset": run.dataset, "prompt_px": run.prompt_px, "seed": run.seed}
    return presets.preset(sweeps.WORLD, run.method, **cell, **changes)


def best_rates(search: Iterable[dict[str, Any]]) -> dict[int, float]:
    """VP's learning rate with the best mean validation accuracy, for each width."""
    accuracies: dict[tuple[int, float], list[float]] = {}
    for row in search:
        cell = int(row["prompt_px"]), float(row["prompt_lr"])
        accuracies.setdefault(cell, []).append(float(row["val_accuracy"]))
    means = {cell: statistics.fmean(values) for cell, values in accuracies.items()}
    return {px: max((m, rate) for (p, rate), m in means.items() if p == px)[1] for px, _ in means}


def run_study(
    study: str,
    main: list[dict[str, Any]],
    search: list[dict[str, Any]],
    root: Path,
    keep: dict[str, list[Any]] | None = None,
    **how: Any,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run a study, or read what is finished. Returns a row a run, and the errors by run folder.

    Args:
        keep: only runs whose settings are among these values.
        how: `workers`, `scheduler`, `limit_s` and `device` of `sweeps.sweep`.
    """
    wanted = [
        (value, run)
        for value, run in runs_of(study, main, search)
        if all(
            getattr(run, name) in values or (run.method == "zero-shot" and name != "dataset")
            for name, values in (keep or {}).items()
        )
    ]
    rows, errors = sweeps.sweep([run for _, run in wanted], "report", root, **how)
    values = {run.key(): value for value, run in wanted}
    return [{"study": study, "value": values[row["key"]], **row} for row in rows], errors


def own_value(study: str) -> str:
    """The value of an ablation's setting in the recipe, as results files have it."""
    return (
        "learned"
        if study == "random_share"
        else str(getattr(presets.preset(sweeps.WORLD, "adavipro"), study))
    )
