"""Grids of runs on one machine: what is finished is kept, what failed is recorded, the rest goes on."""

import contextlib
import itertools
import json
import multiprocessing
import os
import queue
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from adavipro import datasets, experiment, presets
from adavipro.experiment import Experiment

WORLD = "embedded"
FINAL_MARGIN = 1.0  # points of accuracy


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


def report_run(run: Experiment, root: Path) -> dict[str, Any]:
    """One run with its test figure, as a row of the results file."""
    result = experiment.run(run, root, progress_bar=False)
    return row_of(run, result, root)


def row_of(run: Experiment, result: dict[str, Any], root: Path) -> dict[str, Any]:
    """A finished run as a row: what was run, what came out, what it cost."""
    timing = run.folder(root) / "timing.json"
    seconds = json.loads(timing.read_text())["seconds"] if timing.exists() else None
    return {
        "dataset": run.dataset,
        "method": run.method,
        "prompt_px": None if run.method == "zero-shot" else run.prompt_px,
        "seed": run.seed,
        "test_accuracy": result["test_accuracy"],
        "val_accuracy": result["val_accuracy"],
        "share_on": result["share_on"],
        "mask_diversity": result["mask_diversity"],
        "object_cover": result["object_cover"],
        "best_epoch": result["best_epoch"],
        "steps": result["steps"],
        "seconds": seconds,
        "parameters": result["parameters"],
        "key": result["key"],
        "versions": " ".join(f"{k}={v}" for k, v in result["versions"].items()),
    }


def validate_run(run: Experiment, root: Path) -> dict[str, Any]:
    """One run as far as validation, as a row of the search file; the test split is not touched."""
    _, _, progress = experiment.train_or_resume(run, root, progress_bar=False)
    best = progress.history[progress.best_epoch]
    return {
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


def search(
    method: str, frame_px: int, root: Path, workers: int | None = None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Search a method's recipe on validation, in two rounds. Returns a row a run, and errors by run folder.

    All candidates run with the first search seed; those whose mean over data sets is within FINAL_MARGIN of the
    best then run with the others; at other widths than the default, which pick no recipe, the first round does.
    """
    rows, errors = sweep(candidates(method, frame_px, presets.SEARCH_SEEDS[:1]), validate_run, root, workers)
    ranked = ranking(rows, method)
    least = float(ranked[0]["mean val (%)"]) - FINAL_MARGIN if ranked else 0.0
    finalists = [recipe for recipe in ranked if float(recipe["mean val (%)"]) >= least]
    others = presets.SEARCH_SEEDS[1:] if frame_px == presets.DEFAULT_FRAME_PX else ()
    final = [
        run
        for run in candidates(method, frame_px, others)
        if any(all(str(getattr(run, n)) == recipe[n] for n in presets.SEARCH[method]) for recipe in finalists)
    ]
    more, more_errors = sweep(final, validate_run, root, workers)
    return rows + more, errors | more_errors


def sweep(
    runs: list[Experiment],
    work: Callable[[Experiment, Path], dict[str, Any]],
    root: Path,
    workers: int | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Do the work for every run, in processes with the cores shared out. Returns rows and errors by run folder.

    Rows come in the order of the runs. A run that fails, or whose process is killed, does not stop the others. Calling
    it again repeats nothing that is finished.
    """
    workers = workers or os.cpu_count() or 1
    threads = max(1, (os.cpu_count() or 1) // workers)
    spawn = multiprocessing.get_context("spawn")
    rows: dict[int, dict[str, Any]] = {}
    errors: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        idle: queue.SimpleQueue[ProcessPoolExecutor | None] = queue.SimpleQueue()
        for _ in range(workers):
            idle.put(None)  # a place for a worker; the process starts with its first run

        def in_a_worker(run: Experiment) -> dict[str, Any]:
            # Each worker is a pool of one, so that a killed process takes only its own run with it.
            pool = idle.get() or stack.enter_context(
                ProcessPoolExecutor(1, spawn, torch.set_num_threads, (threads,))
            )
            try:
                row = pool.submit(work, run, root).result()
            except BrokenProcessPool:
                idle.put(None)
                raise
            except BaseException:
                idle.put(pool)
                raise
            idle.put(pool)
            return row

        dispatcher = stack.enter_context(ThreadPoolExecutor(workers))
        tasks = {dispatcher.submit(in_a_worker, run): i for i, run in enumerate(runs)}
        try:
            for task in tqdm(as_completed(tasks), total=len(tasks), unit="run"):
                index = tasks[task]
                try:
                    rows[index] = task.result()
                except (
                    Exception,
                    SystemExit,
                ) as error:  # recorded, not hidden; SIGTERM ends a worker's run so
                    errors[runs[index].folder(root).name] = f"{type(error).__name__}: {error}"
        except BaseException:
            dispatcher.shutdown(wait=False, cancel_futures=True)
            raise
    return [rows[i] for i in sorted(rows)], errors
