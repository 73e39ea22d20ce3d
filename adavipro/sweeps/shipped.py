"""The runs behind the results that ship: the search of recipes, the main grid and its ablations, and the baselines."""

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from adavipro.datasets.embedded import CLASS_NAMES
from adavipro.experiment import Experiment, preset
from adavipro.recipe import SettingError
from adavipro.report import studies, tables
from adavipro.sweeps.grids import RANDOM, WITHOUT_SEED, Cell, Grid, sweep_cells
from adavipro.sweeps.runs import Found, Row, sweep, write_rows

NAMES, WIDTHS = list(CLASS_NAMES), list(studies.FRAMES_PX.values())
FINAL_MARGIN = 0.01  # of accuracy
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # of fine-tuning; validation picked one for all data sets


def search(method: str, prompt_px: int, root: Path, **how: Any) -> Found:
    """Search a method's recipe on validation, in two rounds. Returns a row a run, and errors by run folder.

    All candidates run with the first search seed; those whose mean over data sets is within FINAL_MARGIN of the best
    then run with the others; at other widths than the default, which pick no recipe, the first round does.

    Args:
        how: as `runs.sweep` takes it.
    """
    space = studies.SEARCH[method]

    def validate(seeds: Iterable[int], recipes: Iterable[tuple[float, ...]]) -> Found:
        places = itertools.product(
            seeds, [dict(zip(space, recipe, strict=True)) for recipe in recipes], NAMES
        )
        base = preset("embedded", method, prompt_px=prompt_px)
        runs = [base.changed(dataset=name, seed=seed, **recipe) for seed, recipe, name in places]
        return sweep(runs, "validate", root, **how)

    first, *others = studies.SEARCH_SEEDS
    rows, errors = validate([first], itertools.product(*space.values()))
    if not rows or prompt_px != studies.NARROW_PX:
        return rows, errors
    ranked = tables.ranking(pd.DataFrame(rows), method)
    best = ranked[ranked["mean"] >= ranked["mean"][0] - FINAL_MARGIN]
    more, failed = validate(others, best[list(space)].itertuples(index=False))
    return rows + more, errors | failed


def runs_of(study: str, search: pd.DataFrame) -> list[Cell]:
    """List the runs of one of STUDIES.

    Args:
        search: rows of VP's search on validation, at every width: the best mean picks its tuned rates.
    """

    def cells(
        methods: list[str], prompt_px: list[int], seeds: Sequence[int], **values: list[Any]
    ) -> list[Cell]:
        return Grid(study, NAMES, methods, prompt_px, list(seeds), "embedded", values=values).cells()

    full = [studies.FULL_PX]
    if study == "main":
        return cells(["zero-shot", "vp", "adavipro"], WIDTHS, studies.REPORT_SEEDS)
    if study == "vp-tuned":
        means = search.groupby(["prompt_px", "prompt_lr"])["val_accuracy"].mean().reset_index()
        best = means.sort_values(["val_accuracy", "prompt_lr"]).groupby("prompt_px")["prompt_lr"].last()
        at_width = [(px, cells(["vp"], [px], studies.ABLATION_SEEDS, prompt_lr=[best[px]])) for px in WIDTHS]
        return [Cell({**label, "study": study}, run) for _, own in at_width for label, run in own]
    if study == "random_share":
        beside = cells([RANDOM], full, studies.ABLATION_SEEDS)
        return [Cell({**label, "study": study}, run) for label, run in beside]
    if study in studies.SENSITIVITY:
        own = preset("embedded", "adavipro").recipe
        found = cells(["vp", "adavipro"], full, studies.FEW_SEEDS, **{study: studies.SENSITIVITY[study]})
        as_cold = [round(own.temperature_gamma ** (own.epochs / run.recipe.epochs), 3) for _, run in found]
        return [
            Cell(at, run.changed(temperature_gamma=g)) for (at, run), g in zip(found, as_cold, strict=True)
        ]
    values = studies.ABLATIONS[study]
    seeds = studies.FEW_SEEDS if len(values) > 2 else studies.ABLATION_SEEDS
    return cells(["adavipro"], full, seeds, **{study: values})


def sweep_studies(
    out: Path, root: Path, search: pd.DataFrame, keep: Mapping[str, Sequence[Any] | None], **how: Any
) -> dict[str, str]:
    """Make the results that ship, study by study, or read what is finished. Returns errors by run folder.

    Args:
        out: results file; written after each study.
        search: rows of VP's search on validation, at every width.
        keep: only these `studies` (beside the main grid), `datasets`, `prompt_px` or `seeds`; None: all.
        how: as `runs.sweep` takes it.
    """
    for wrong in (name for name in keep.get("studies") or () if name not in studies.STUDIES):
        raise SettingError(f"studies has {wrong!r}, but the studies are: {', '.join(studies.STUDIES)}")
    main = Grid("main", NAMES, ["zero-shot"], WIDTHS, list(studies.REPORT_SEEDS), "embedded")
    kept = main.narrowed({name: keep.get(name) for name in ("datasets", "prompt_px", "seeds")})
    rows, errors, started = list[Row](), dict[str, str](), time.perf_counter()
    for study in dict.fromkeys(["main", *(keep.get("studies") or studies.STUDIES)]):
        cells = [cell for cell in runs_of(study, search) if cell.run.dataset in kept.datasets]
        at = [c for c in cells if c.run.seed in kept.seeds and c.run.prompt.prompt_px in kept.prompt_px]
        wanted = [cell for cell in cells if cell in at or cell.run.method in WITHOUT_SEED]
        found, failed = sweep_cells(wanted, root, **how)
        rows, errors = rows + found, errors | failed
        write_rows(out, rows)
        print(
            f"{study}: {len(found)} runs, {(time.perf_counter() - started) / 60:.1f} min so far", flush=True
        )
    return errors


def sweep_baselines(root: Path, **how: Any) -> Found:
    """Make the shipped results of baselines. Returns rows of the studies "search", of fine-tuning's rate, and "main".

    Args:
        how: as `runs.sweep` takes it.
    """

    def runs(methods: list[str], seeds: Sequence[int]) -> list[Experiment]:
        grid = Grid("1", NAMES, methods, [studies.NARROW_PX], list(seeds), "embedded")
        return [cell.run for cell in grid.cells()]

    searched = [
        run.changed(learning_rate=rate)
        for rate in LEARNING_RATES
        for run in runs(["fine-tune"], studies.SEARCH_SEEDS)
    ]
    reported = runs(["linear-probe", "fine-tune"], studies.ABLATION_SEEDS)
    labels: list[Row] = [{"study": "search", "test_accuracy": None}] * len(searched)  # a search sees no test
    labels += [{"study": "main"}] * len(reported)
    return sweep(searched + reported, "report", root, labels=labels, **how)
