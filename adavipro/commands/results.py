"""adavipro table, figure, reproduce: what came out."""

import argparse
import sys
from pathlib import Path
from typing import Any

from adavipro import comparison, effects, figures, files, grids, presets, series, studies, sweeps, tables
from adavipro.commands.parsing import Commands, command, fail

TABLE_2 = ("main", "vp-tuned")
SEARCHES = {f"search-{method}": method for method in presets.SEARCH}
FORMATS = {"markdown": tables.to_markdown, "csv": files.to_csv, "latex": comparison.to_latex}
FIGURES = {"2": figures.accuracy_figure, "masks": figures.masks_figure, "ablations": figures.ablations_figure}


def add(commands: Commands) -> None:
    """Declare the commands."""
    printed, drawn = command(commands, table), command(commands, figure)
    told = "2: accuracy against the width of the frame"
    others = "1: every method; 3: their price; effects; masks; search-*: candidates; the others: ablations"
    names = ("2", *studies.TABLES, *effects.TABLES, *SEARCHES)
    printed.add_argument("number", choices=names, help=f"{told}; {others}")
    drawn.add_argument("number", choices=tuple(FIGURES), help=told + "; masks: where the prompt lies")
    printed.add_argument("--world", choices=presets.WORLDS, help="default: the paper's for its tables 1 to 7")
    for shown in (printed, drawn):
        shown.add_argument("--results", type=Path, help="a results file of your own")
    printed.add_argument("--format", default="markdown", choices=tuple(FORMATS))
    drawn.add_argument("--out", type=Path, help="path without its ending: PNG and SVG are written")
    all_notebooks = command(commands, reproduce)
    all_notebooks.add_argument("--only", nargs="+", metavar="NN", help="numbers of notebooks, as 05 06")
    all_notebooks.add_argument("--device", default="auto")


def table(args: argparse.Namespace) -> None:
    """Print a table: the paper's figures beside yours, or a table of the embedded world's results."""
    if (args.world or "paper") == "paper" and args.number in comparison.NUMBERS:
        return _beside_published(args)
    if args.world == "paper":
        raise ValueError(
            f"table is {args.number!r}, but the paper has the tables {', '.join(comparison.NUMBERS)}"
        )
    rows = tables.read_results("embedded", args.results)
    if args.number in SEARCHES:
        method = SEARCHES[args.number]
        found = tables.read_rows(tables.SEARCHED_VP.with_name(f"search_{method}.csv"))
        at_default = [r for r in found if int(r["prompt_px"]) == presets.DEFAULT_FRAME_PX]
        lines: list[dict[str, Any]] = sweeps.ranking(at_default, method)
    elif args.number in effects.TABLES:
        lines = effects.table(args.number, rows)
    elif args.number != "2":
        study = studies.TABLES[args.number]
        lines = tables.ablation_matrix(rows, study, studies.own_value(study))
    elif args.format == "csv":
        lines = tables.summarise(tables.with_mean(tables.of_studies(rows, *TABLE_2)))
    else:
        lines = tables.accuracy_matrix(tables.of_studies(rows, *TABLE_2))
    if not lines:
        raise ValueError(f"the results hold no runs for table {args.number}: make them with `adavipro sweep`")
    print(FORMATS[args.format](lines), end="")


def _beside_published(args: argparse.Namespace) -> None:
    """Print and write the paper's figures, ours from `adavipro sweep tables/table<N>.yaml`, and their difference."""
    stem = args.root / "tables" / f"table{args.number}"
    own = stem.with_suffix(".csv")
    rows = tables.read_results(path=args.results or own) if args.results or own.exists() else []
    lines = grids.beside_published(grids.read(grids.TABLES / f"table{args.number}.yaml"), rows)
    written = comparison.write(lines, stem.with_name(f"{stem.name}-published"))
    told = f"{comparison.caption(lines)}\n\n" if args.format == "markdown" else ""
    shown = lines if args.format == "csv" else comparison.short(lines)
    print((told + FORMATS[args.format](shown)).rstrip("\n"))
    print("written:", *written, file=sys.stderr)


def figure(args: argparse.Namespace) -> None:
    """Draw a figure of the paper's, or of a study of ours, from the results that ship."""
    rows = tables.read_results("embedded", args.results)
    drawn = FIGURES[args.number](rows)
    print(*figures.save(drawn, args.out or args.root / f"figure-{args.number}"), sep="\n")


def reproduce(args: argparse.Namespace) -> None:
    """Run the whole notebook series, from zero-shot to the paper's figures and tables; what is finished is kept."""
    reruns = series.reproduce(args.root, series.series(args.only), device=args.device)
    for r in reruns:
        told = (
            f"{r.result()['seconds']:.0f} s" + ("" if r.repeated else " (kept)") if not r.error else "failed"
        )
        print(f"{r.name}: {told}: {r.folder}")
    print("\nFigures:", *(f"  {path}" for r in reruns for path in sorted(r.folder.glob("*.png"))), sep="\n")
    fail({r.name: r.error for r in reruns if r.error})
