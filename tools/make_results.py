"""Make the results that ship in data/results anew: the search of recipes, the main grid and its ablations, baselines.

    python tools/make_results.py tune --method vp --prompt-px 8 1 15 23 28 --out data/results/search_vp.csv
    python tools/make_results.py studies --out data/results/embedded.csv
    python tools/make_results.py baselines --out data/results/baselines.csv

What is finished is kept, and what fails is told; hours in all. `make results` does the whole of it.
"""

import argparse
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
        settings: list[Row] = [dict(zip(space, recipe, strict=True)) for recipe in recipes]
        base = preset("embedded", method, prompt_px=prompt_px)
        places = itertools.product(seeds, settings, NAMES)
        runs = [base.changed(dataset=name, seed=seed, **own) for seed, own, name in places]
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

    def cells(methods: list[str], px: list[int], seeds: Sequence[int], **values: list[Any]) -> list[Cell]:
        made = Grid(study, NAMES, methods, px, list(seeds), "embedded", values=values).cells()
        return [Cell({**label, "study": study}, run) for label, run in made]

    full = [studies.FULL_PX]
    if study == "main":
        return cells(["zero-shot", "vp", "adavipro"], WIDTHS, studies.REPORT_SEEDS)
    if study == "vp-tuned":
        means = search.groupby(["prompt_px", "prompt_lr"])["val_accuracy"].mean().reset_index()
        best = means.sort_values(["val_accuracy", "prompt_lr"]).groupby("prompt_px")["prompt_lr"].last()
        at_width = [cells(["vp"], [px], studies.ABLATION_SEEDS, prompt_lr=[float(best[px])]) for px in WIDTHS]
        return list(itertools.chain(*at_width))
    if study == "random_share":
        return cells([RANDOM], full, studies.ABLATION_SEEDS)
    if study in studies.SENSITIVITY:
        own = preset("embedded", "adavipro").recipe

        def as_cold(run: Experiment) -> Experiment:  # in the last epoch, whatever their number
            share = own.epochs / run.recipe.epochs
            return run.changed(temperature_gamma=round(own.temperature_gamma**share, 3))

        values = {study: studies.SENSITIVITY[study]}
        found = cells(["vp", "adavipro"], full, studies.FEW_SEEDS, **values)
        return [Cell(label, as_cold(run)) for label, run in found]
    seeds = studies.FEW_SEEDS if len(studies.ABLATIONS[study]) > 2 else studies.ABLATION_SEEDS
    return cells(["adavipro"], full, seeds, **{study: studies.ABLATIONS[study]})


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
        minutes = (time.perf_counter() - started) / 60
        print(f"{study}: {len(found)} runs, {minutes:.1f} min so far", flush=True)
    return errors


def sweep_baselines(root: Path, **how: Any) -> Found:
    """Make the shipped results of baselines. Returns rows of the studies "search", of fine-tuning's rate, and "main".

    Args:
        how: as `runs.sweep` takes it.
    """
    grid = Grid("1", NAMES, ["linear-probe", "fine-tune"], WIDTHS, list(studies.ABLATION_SEEDS), "embedded")
    cells: list[tuple[Row, Experiment]] = [({"study": "main"}, run) for _, run in grid.cells()]
    for seed, rate, name in itertools.product(studies.SEARCH_SEEDS, LEARNING_RATES, NAMES):
        run = preset("embedded", "fine-tune", dataset=name, seed=seed, learning_rate=rate)
        cells.append(({"study": "search", "test_accuracy": None}, run))  # a search sees no test figure
    labels, runs = zip(*cells, strict=True)
    return sweep(runs, "report", root, labels=labels, **how)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and do what it asks for; what fails ends it with the sentences and code 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("tune", "studies", "baselines"))
    parser.add_argument("--out", type=Path, required=True, help="results file")
    parser.add_argument(
        "--root", type=Path, default=Path("runs"), help="folder of run folders (default: runs)"
    )
    parser.add_argument("--workers", type=int, help="runs at a time (default: one a core)")
    parser.add_argument("--method", choices=tuple(studies.SEARCH), help="of tune")
    parser.add_argument("--prompt-px", nargs="+", type=int, help="of tune and studies: only these widths")
    parser.add_argument("--studies", nargs="+", help="of studies: only these beside the main grid")
    parser.add_argument("--datasets", nargs="+", help="of studies: only these")
    parser.add_argument("--seeds", nargs="+", type=int, help="of studies: only these")
    args = parser.parse_args(argv)
    rows: list[Row] = []
    errors: dict[str, str] = {}
    if args.what == "studies":
        keep = {name: getattr(args, name) for name in ("studies", "datasets", "prompt_px", "seeds")}
        errors = sweep_studies(args.out, args.root, tables.read_search("vp"), keep, workers=args.workers)
    elif args.what == "baselines":
        rows, errors = sweep_baselines(args.root, workers=args.workers)
        write_rows(args.out, rows)
    else:
        for px in args.prompt_px or [studies.NARROW_PX]:
            found, failed = search(args.method, px, args.root / "tune", workers=args.workers)
            rows, errors = rows + found, errors | failed
            write_rows(args.out, rows)
        print(tables.to_markdown(tables.search(tables.read_search(args.method, args.out), args.method)))
    if errors:
        raise SystemExit("\n".join(f"failed: {name}: {error}" for name, error in errors.items()))


if __name__ == "__main__":
    main()
