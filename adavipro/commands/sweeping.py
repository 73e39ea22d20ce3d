"""adavipro sweep, tune, baselines: many runs."""

import argparse
import time
from pathlib import Path
from typing import Any

from adavipro import baselines, comparison, datasets, grids, presets, studies, sweeps, tables
from adavipro.commands.parsing import ROOT, Commands, command, fail, write_rows
from adavipro.settings import SettingError


def add(commands: Commands) -> None:
    """Declare the commands."""
    many, search, beside = (
        command(commands, sweep),
        command(commands, tune),
        command(commands, run_baselines, "baselines"),
    )
    beside.add_argument("--out", type=Path, default=ROOT / "baselines.csv")
    for grid in (many, search, beside):
        grid.add_argument("--workers", type=int, help="runs at a time (default: one a GPU or a core)")
        grid.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that runs already")
        grid.add_argument("--limit", type=float, metavar="MINUTES", help="of wall clock for one run")
        grid.add_argument("--device", default="cpu")
    told = "a table, as tables/table1.yaml; none: the studies whose results ship"
    many.add_argument("table", nargs="?", type=Path, metavar="FILE", help=told)
    many.add_argument("--datasets", nargs="+", help="only these of a table or study")
    many.add_argument("--methods", nargs="+", help="only these of a table")
    many.add_argument("--prompt-px", nargs="+", type=int, help="only these widths")
    many.add_argument("--seeds", nargs="+", type=int, help="only these")
    many.add_argument("--studies", nargs="+", choices=studies.STUDIES, help="without FILE; default: all")
    many.add_argument(
        "--search", type=Path, default=tables.SEARCHED_VP, help="VP's search, for its tuned rates"
    )
    many.add_argument("--out", type=Path, help="default: ROOT/tables/<table>.csv, or runs/embedded.csv")
    search.add_argument("--method", required=True, choices=tuple(presets.SEARCH))
    search.add_argument("--prompt-px", nargs="+", type=int, default=[presets.DEFAULT_FRAME_PX])
    search.add_argument("--out", type=Path, default=ROOT / "tune.csv")


def _how(args: argparse.Namespace) -> dict[str, Any]:
    """Where and how long runs compute, as `sweeps.sweep` takes it."""
    if args.limit is not None and not args.limit > 0:
        raise SettingError(f"--limit is {args.limit:g} minutes, but it must be above 0")
    limit_s = None if args.limit is None else 60 * args.limit
    return {"workers": args.workers, "scheduler": args.scheduler, "limit_s": limit_s, "device": args.device}


def sweep(args: argparse.Namespace) -> None:
    """Run a table, or make the results that ship (main grid, VP tuned for each width, ablations); the rest is kept."""
    if args.table is None:
        return _sweep_studies(args)
    if args.studies is not None:
        raise SettingError("--studies is for the results that ship: leave it out beside a table file")
    whole, out = grids.read(args.table), args.out or args.root / "tables" / f"{args.table.stem}.csv"
    grid = whole.narrowed({name: getattr(args, name) for name in grids.KINDS})
    former = tables.read_rows(out) if out.exists() else []
    try:
        rows, errors = grids.sweep_table(grid, args.root, **_how(args))
    except KeyboardInterrupt:
        write_rows(out, grids.joined(grid, grids.finished_rows(grid, args.root), former))
        raise
    rows = grids.joined(grid, rows, former)
    write_rows(out, rows)
    if whole.table in comparison.NUMBERS and rows:
        print(tables.to_markdown(comparison.short(grids.beside_published(whole, rows, grid))))
    print(out)
    fail(errors)


def _sweep_studies(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    known: dict[str, list[Any]] = {
        "datasets": list(datasets.CLASS_NAMES), "prompt_px": list(presets.FRAMES_PX.values()),
        "seeds": list(presets.REPORT_SEEDS), "methods": [],
    }  # fmt: skip
    for name, own in known.items():
        for wrong in (value for value in getattr(args, name) or () if value not in own):
            told = f"but the studies have {', '.join(map(str, own))}" if own else "which needs a table file"
            raise SettingError(f"--{name.replace('_', '-')} has {wrong!r}, {told}")
    keep = {
        "dataset": args.datasets or list(datasets.CLASS_NAMES),
        "prompt_px": args.prompt_px or list(presets.FRAMES_PX.values()),
        "seed": args.seeds or list(presets.REPORT_SEEDS),
    }
    search, out = tables.read_rows(args.search), args.out or ROOT / "embedded.csv"
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for study in dict.fromkeys(["main", *(args.studies or studies.STUDIES)]):
        main = [r for r in rows if r["study"] == "main"]
        found, errors = studies.run_study(study, main, search, args.root, keep, **_how(args))
        rows, failed = rows + found, failed | errors
        write_rows(out, rows)
        minutes = (time.perf_counter() - started) / 60
        print(f"{study}: {len(found)} runs, {minutes:.1f} min so far", flush=True)
    print(out)
    fail(failed)


def tune(args: argparse.Namespace) -> None:
    """Search a method's recipe on validation and print the candidates, best first."""
    rows: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    for px in args.prompt_px:
        found, failed = sweeps.search(args.method, px, args.root / "tune", **_how(args))
        rows, errors = rows + found, errors | failed
        write_rows(args.out, rows)
    print(tables.to_markdown(sweeps.ranking(rows, args.method)), end="")
    fail(errors)


def run_baselines(args: argparse.Namespace) -> None:
    """Make the results of the linear probe and of full fine-tuning; what is finished is kept."""
    rows, errors = sweeps.sweep(baselines.runs_of_results(), "report", args.root, **_how(args))
    write_rows(args.out, rows)
    print(args.out)
    fail(errors)
