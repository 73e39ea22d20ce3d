"""The command line: adavipro run, settings, sweep, table, figure, reproduce, fetch.

What a command needs is imported when it is called, so that help and tables need no torch.
"""

import argparse
import ast
import errno
import io
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adavipro.io import expanded
from adavipro.lessons import install

WORLDS, RECIPES = ("embedded", "photographs", "paper"), ("paper", "ours")
DATA_SETS = "data sets: the drawn ones, solar-cells, handwritten-digits, the paper's nine, folder:PATH"
PAPER_TABLES = ("1", "2", "3", "4", "5", "6", "7")
OTHER_TABLES = (
    "relu hard standardise effects lead thumb masks noise training tuned where photographs shots "
    "search-vp search-vp-widths search-adavipro search-photographs-vp search-photographs-adavipro"
).split()
FIGURES = ("2", "masks", "ablations", "photographs")
NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory|alloc_failed|bad_alloc")


def fail(errors: dict[str, str]) -> None:
    """Tell what failed, a line each, and end with code 1; nothing where nothing did."""
    for name, error in errors.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    if errors:
        raise SystemExit(1)


def _value(text: str) -> Any:
    """What a setting's text says: a number, true, false or none; anything else stays text."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, by name."""
    given = {
        name: getattr(args, name)
        for name in ("dataset", "prompt_px", "seed")
        if getattr(args, name) is not None
    }
    for item in args.set or []:
        name, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"-s is {item!r}, but it takes NAME=VALUE")
        given[name] = _value(text)
    return given


def run(args: argparse.Namespace) -> None:
    """Train and report one experiment, or read it where it is finished."""
    from adavipro import experiment

    given = _settings_of(args)
    world = args.world or experiment.world_of(str(given.get("dataset", "")), given.get("model"))
    wanted = experiment.preset(world, args.method, args.recipe, **given)
    result = experiment.run(wanted, args.root, args.resume or None, args.device)
    for name in ("test_accuracy", "val_accuracy", "share_on", "object_cover"):
        if result.get(name) is not None:
            print(f"{name.replace('_', ' ')}: {100 * result[name]:.1f} %")
    print(f"folder: {wanted.folder(args.root, result['key'])}")


def settings(_: argparse.Namespace) -> None:
    """List every setting by group, with its default and its meaning."""
    import dataclasses

    from adavipro.experiment import GROUPS, Experiment

    for title, group in {"experiment": Experiment, **GROUPS}.items():
        print(f"{title}: {(group.__doc__ or '').splitlines()[0]}")
        for field in dataclasses.fields(group):  # type: ignore[arg-type]
            if "doc" in field.metadata:
                print(f"  {field.name} = {field.default!r}: {field.metadata['doc']}")


# --- Many runs ----------------------------------------------------------------------------------------------------


def sweep(args: argparse.Namespace) -> None:
    """Run a table, or a part of it; what is finished is kept, what fails is told, and the rest goes on."""
    from adavipro.sweeps import grids

    if args.limit is not None and not args.limit > 0:
        raise ValueError(f"--limit is {args.limit:g} minutes, but it must be above 0")
    keep = {name: getattr(args, name) for name in ("datasets", "methods", "prompt_px", "seeds")}
    grid = grids.read(args.table).narrowed(keep)
    out = args.out or args.root / "tables" / f"{args.table.stem}.csv"
    limit_s = None if args.limit is None else 60 * args.limit
    how = {"workers": args.workers, "scheduler": args.scheduler, "limit_s": limit_s, "device": args.device}
    _, errors = grids.sweep_table(grid, args.root, out, **how)
    print(out)
    fail(errors)


# --- What came out ------------------------------------------------------------------------------------------------


def table(args: argparse.Namespace) -> None:
    """Print a table: the paper's figures beside yours, or a table of results, those that ship or your own."""
    from adavipro.report import tables

    printed: dict[str, Callable[..., str]] = {
        "markdown": tables.to_markdown, "csv": tables.to_csv, "latex": tables.to_latex,
    }  # fmt: skip
    if (args.world or "paper") == "paper" and args.number in PAPER_TABLES:
        return _beside_published(args, printed)
    if args.world == "paper":
        raise ValueError(f"table is {args.number!r}, but the paper has the tables {', '.join(PAPER_TABLES)}")
    print(printed[args.format](tables.table(args.number, tables.read(args.number, args.results))), end="")
    return None


def _beside_published(args: argparse.Namespace, printed: dict[str, Callable[..., str]]) -> None:
    """Print the paper's figures, ours from `adavipro sweep tables/table<N>.yaml`, and their difference."""
    from adavipro.report import published, results
    from adavipro.sweeps import grids

    own = args.results or args.root / "tables" / f"table{args.number}.csv"
    rows = results.read(own) if args.results or own.exists() else None
    lines = published.beside(rows, grids.read(grids.TABLES / f"table{args.number}.yaml"))
    told = f"{published.CAPTION}\n\n" if args.format == "markdown" else ""
    print(told + printed[args.format](lines), end="")


def figure(args: argparse.Namespace) -> None:
    """Draw a figure of the paper's, or of a study of ours, from the results that ship."""
    from adavipro.lessons import figures
    from adavipro.report import results

    draws = (figures.accuracy_figure, figures.masks_figure, figures.ablations_figure, figures.accuracy_figure)
    rows = results.read(args.results or results.shipped_for(args.number))
    try:
        drawn = dict(zip(FIGURES, draws, strict=True))[args.number](rows)
    except LookupError as error:
        raise ValueError(f"the results hold no {error}, which figure {args.number} needs") from None
    print(*figures.save(drawn, args.out or args.root / f"figure-{args.number}"), sep="\n")


def reproduce(args: argparse.Namespace) -> None:
    """Run the whole notebook series, from zero-shot to the paper's figures and tables; what is finished is kept."""
    from adavipro.lessons import series

    reruns = series.reproduce(args.root, series.series(args.only), args.workers, device=args.device)
    for folder, error in reruns.items():
        print(f"{folder.name}: {'failed' if error else 'done'}: {folder}")
    print(
        "\nFigures:", *(f"  {drawn}" for folder in reruns for drawn in sorted(folder.glob("*.png"))), sep="\n"
    )
    print(f"\nAll of it on one page: {args.root.resolve() / 'index.html'}")
    fail({folder.name: error for folder, error in reruns.items() if error})


def fetch(args: argparse.Namespace) -> None:
    """Download data sets of the paper, checked by their checksums, or list what is there."""
    from adavipro.datasets import nine
    from adavipro.io import datasets_folder

    folder = args.data or datasets_folder()
    if not args.names:
        import pandas

        from adavipro.report import tables

        print(tables.to_markdown(pandas.DataFrame(nine.listing(folder))), end="")
        print(f"folder: {folder}")
        return
    failed = {}
    for name in nine.SPECS if args.names == ["all"] else args.names:
        try:
            print(f"{name}: {nine.fetch(name, folder)}")
        except (ValueError, OSError) as error:
            if args.traceback:
                raise
            failed[name] = str(error)
    fail(failed)


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser; a command's help is the docstring of the function that does it."""
    top = argparse.ArgumentParser(
        prog="adavipro", description="AdaViPro: learn what to add to an image, and where."
    )
    whole = "show the whole of an error, as for a report"
    top.add_argument("--traceback", action="store_true", help=whole)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        text = (function.__doc__ or "").strip()
        sub: argparse.ArgumentParser = commands.add_parser(function.__name__, help=text, description=text)
        sub.set_defaults(function=function)
        sub.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=whole)
        sub.add_argument(
            "--root", type=expanded, default=Path("runs"), help="folder of run folders (default: runs)"
        )
        return sub

    one = command(run)
    one.add_argument(
        "--world", choices=WORLDS, help="whose recipe (default: the one that suits the data set)"
    )
    one.add_argument("--recipe", default="paper", choices=RECIPES, help="of the paper's world")
    one.add_argument("--method", default="adavipro", help="zero-shot, vp, adavipro, a baseline or a control")
    one.add_argument("--dataset", help=DATA_SETS)
    one.add_argument("--prompt-px", type=int, help="width of the frame")
    one.add_argument("--seed", type=int)
    one.add_argument("--device", default="cpu")
    one.add_argument("--resume", action="store_true", help="go on from a checkpoint; fail without one")
    one.add_argument(
        "-s", "--set", action="append", metavar="NAME=VALUE", help="any setting; see `adavipro settings`"
    )
    command(settings)

    many = command(sweep)
    many.add_argument("table", type=expanded, metavar="FILE", help="as tables/table1.yaml")
    many.add_argument("--datasets", nargs="+", help="only these")
    many.add_argument("--methods", nargs="+", help="only these")
    many.add_argument("--prompt-px", nargs="+", type=int, help="only these widths")
    many.add_argument("--seeds", nargs="+", type=int, help="only these")
    many.add_argument("--workers", type=int, help="runs at a time (default: one a GPU or a core)")
    many.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that runs already")
    many.add_argument("--limit", type=float, metavar="MINUTES", help="of wall clock for one run")
    many.add_argument("--device", default="cpu")
    many.add_argument("--out", type=expanded, help="results file (default: ROOT/tables/<table>.csv)")

    printed, drawn = command(table), command(figure)
    shown = "2: accuracy against the width of the frame"
    others = (
        "1: every method; 3: price; effects; lead; masks; tuned; search-*; photographs; shots; else ablations"
    )
    printed.add_argument("number", choices=(*PAPER_TABLES, *OTHER_TABLES), help=f"{shown}; {others}")
    printed.add_argument("--world", choices=("embedded", "paper"), help="of tables 1 to 7 (default: paper)")
    printed.add_argument("--format", default="markdown", choices=("markdown", "csv", "latex"))
    drawn.add_argument("number", choices=FIGURES, help=shown + "; masks: where the prompt lies")
    drawn.add_argument("--out", type=expanded, help="path without its ending: PNG and SVG are written")
    for of_results in (printed, drawn):
        of_results.add_argument("--results", type=expanded, help="a results file of your own")
    series = command(reproduce)
    series.add_argument("--only", nargs="+", metavar="NN", help="numbers of notebooks, as 05 06")
    series.add_argument(
        "--workers", type=int, default=2, help="notebooks at a time, of up to 3 GB (default: 2)"
    )
    series.add_argument("--device", default="auto")
    got = command(fetch)
    got.add_argument(
        "names", nargs="*", metavar="NAME", help="of the paper's nine, or all; none: say what is there"
    )
    got.add_argument("--data", type=expanded, help="folder of the data sets (default: $ADAVIPRO_DATA)")
    return top


def main(argv: list[str] | None = None) -> None:
    """Run the command line; what the user got wrong is one sentence on stderr and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what the terminal cannot show
    args = parser().parse_args(argv)
    with warnings.catch_warnings():
        if not args.traceback:
            warnings.showwarning = lambda message, *_args, **_kw: print(
                f"warning: {message}", file=sys.stderr
            )
        try:
            install.require(pair=False)
            args.function(args)
        except KeyboardInterrupt:
            told = "adavipro: stopped; what is finished is kept, and the same command goes on"
            print(told, file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            if args.traceback:
                raise
            sentence, code = _explained(error)
            print(f"adavipro: {sentence}", file=sys.stderr)
            raise SystemExit(code) from None


def _explained(error: Exception) -> tuple[str, int]:
    """An error as one sentence, and the exit code: 2 where the user can mend it, 1 where something is broken."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    ours = last is not None and str(last.tb_frame.f_globals.get("__name__", "")).startswith("adavipro")
    told = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{told}: give a folder that you may use, by --root, $ADAVIPRO_CACHE or $ADAVIPRO_DATA", 2
    if isinstance(error, OSError) or (ours and isinstance(error, ValueError | ArithmeticError | ImportError)):
        return told, 2
    if isinstance(error, MemoryError) or NO_MEMORY.search(told.lower()):
        return "there is too little memory: lower batch_size, as -s batch_size=16, or use another machine", 2
    shortened = told if len(told) < 300 else told[:300] + " ..."
    return f"{type(error).__name__}: {shortened} (`adavipro --traceback ...` shows the whole)", 1


if __name__ == "__main__":
    main()
