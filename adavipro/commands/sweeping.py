"""adavipro sweep, tune, baselines: many runs."""

import argparse
import time
import typing
from pathlib import Path
from typing import Any

from adavipro import baselines, datasets, presets, studies, sweeps, tables
from adavipro.commands.parsing import ROOT, Commands, command, fail, write_rows


def add(commands: Commands) -> None:
    """Declare the commands."""
    many, search, beside = (
        command(commands, sweep),
        command(commands, tune),
        command(commands, run_baselines, "baselines"),
    )
    beside.add_argument("--out", type=Path, default=ROOT / "baselines.csv")
    for grid in (many, search, beside):
        grid.add_argument("--workers", type=int, help="processes (default: one a core)")
    many.add_argument("--studies", nargs="+", default=studies.STUDIES, choices=studies.STUDIES)
    many.add_argument("--datasets", nargs="+", default=list(datasets.CLASS_NAMES), help="only these")
    many.add_argument(
        "--prompt-px", nargs="+", type=int, default=list(presets.FRAMES_PX.values()), help="only these"
    )
    many.add_argument("--seeds", nargs="+", type=int, default=list(presets.REPORT_SEEDS), help="only these")
    many.add_argument(
        "--search", type=Path, default=tables.SEARCHED_VP, help="VP's search, for its tuned rates"
    )
    many.add_argument("--out", type=Path, default=ROOT / "embedded.csv")
    search.add_argument("--method", required=True, choices=tuple(presets.SEARCH))
    search.add_argument("--prompt-px", nargs="+", type=int, default=[presets.DEFAULT_FRAME_PX])
    search.add_argument("--out", type=Path, default=ROOT / "tune.csv")


def sweep(args: argparse.Namespace) -> None:
    """Make the results that ship: the main grid, VP tuned for each width, the ablations; what is finished is kept."""
    started = time.perf_counter()
    keep = {"dataset": args.datasets, "prompt_px": args.prompt_px, "seed": args.seeds}
    search = tables.read_rows(args.search)
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for study in dict.fromkeys(["main", *args.studies]):
        main = [r for r in rows if r["study"] == "main"]
        found, errors = studies.run_study(study, main, search, args.root, args.workers, keep)
        rows, failed = rows + found, failed | errors
        write_rows(args.out, rows)
        minutes = (time.perf_counter() - started) / 60
        print(f"{study}: {len(found)} runs, {minutes:.1f} min so far", flush=True)
    print(args.out)
    fail(failed)


def tune(args: argparse.Namespace) -> None:
    """Search a method's recipe on validation and print the candidates, best first."""
    rows: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    for px in args.prompt_px:
        found, failed = sweeps.search(args.method, px, args.root / "tune", args.workers)
        rows, errors = rows + found, errors | failed
        write_rows(args.out, rows)
    print(tables.to_markdown(sweeps.ranking(rows, args.method)), end="")
    fail(errors)


def run_baselines(args: argparse.Namespace) -> None:
    """Make the results of the linear probe and of full fine-tuning; what is finished is kept."""
    wanted: list[Any] = baselines.runs_of_results()
    rows, errors = sweeps.sweep(wanted, typing.cast(Any, baselines.run), args.root, args.workers)
    write_rows(args.out, rows)
    print(args.out)
    fail(errors)
