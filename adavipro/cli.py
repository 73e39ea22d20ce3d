"""The command line: adavipro run, sweep, tune, baselines, table, figure, reproduce, settings."""

import argparse
import dataclasses
import sys
import time
import types
import typing
import warnings
from pathlib import Path
from typing import Any

from adavipro import (
    baselines,
    datasets,
    effects,
    experiment,
    figures,
    files,
    presets,
    series,
    studies,
    sweeps,
    tables,
    training,
)  # fmt: skip
from adavipro.experiment import METHODS, Experiment

ROOT = Path("runs")
TABLE_2 = ("main", "vp-tuned")
SEARCHES = {f"search-{method}": method for method in presets.SEARCH}
FIGURES = {"2": figures.accuracy_figure, "masks": figures.masks_figure, "ablations": figures.ablations_figure}


def _value(text: str, annotation: Any) -> Any:
    """Read a setting's text as its type; what cannot be read stays text, for the settings to refuse."""
    if text.lower() in ("none", "null"):
        return None
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if bool in kinds:
        return {"true": True, "false": False}.get(text.lower(), text)
    for kind in kinds:
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                return text
    return text


def _settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, by name."""
    hints = typing.get_type_hints(Experiment)
    values = {}
    for item in args.set or []:
        name, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"-s takes NAME=VALUE, got {item!r}")
        values[name] = _value(text, hints.get(name, str))
    return values


def run(args: argparse.Namespace) -> None:
    """Train and report one experiment."""
    chosen = {"dataset": args.dataset, "prompt_px": args.prompt_px, "seed": args.seed}
    given = {k: v for k, v in chosen.items() if v is not None} | _settings_of(args)
    wanted = presets.preset(args.world, args.method, **given)
    result = experiment.run(wanted, args.root, args.resume or None, args.device)
    row = sweeps.row_of(wanted, result, args.root)
    print(tables.to_markdown(tables.summarise([row])), end="")
    print(f"folder: {wanted.folder(args.root)}")


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
        _write_rows(args.out, rows)
        minutes = (time.perf_counter() - started) / 60
        print(f"{study}: {len(found)} runs, {minutes:.1f} min so far", flush=True)
    print(args.out)
    _fail(failed)


def tune(args: argparse.Namespace) -> None:
    """Search a method's recipe on validation and print the candidates, best first."""
    rows: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    for px in args.prompt_px:
        found, failed = sweeps.search(args.method, px, args.root / "tune", args.workers)
        rows, errors = rows + found, errors | failed
        _write_rows(args.out, rows)
    print(tables.to_markdown(sweeps.ranking(rows, args.method)), end="")
    _fail(errors)


def run_baselines(args: argparse.Namespace) -> None:
    """Make the results of the linear probe and of full fine-tuning; what is finished is kept."""
    wanted: list[Any] = baselines.runs_of_results()
    rows, errors = sweeps.sweep(wanted, typing.cast(Any, baselines.run), args.root, args.workers)
    _write_rows(args.out, rows)
    print(args.out)
    _fail(errors)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, files.to_csv(rows).encode())


def _fail(errors: dict[str, str]) -> None:
    for name, error in errors.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    if errors:
        raise SystemExit(1)


def table(args: argparse.Namespace) -> None:
    """Print a table of the paper's, or of a study of ours, from the results that ship."""
    rows = tables.read_results(args.world, args.results)
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
    print(files.to_csv(lines) if args.format == "csv" else tables.to_markdown(lines), end="")


def figure(args: argparse.Namespace) -> None:
    """Draw a figure of the paper's, or of a study of ours, from the results that ship."""
    rows = tables.read_results(args.world, args.results)
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
    _fail({r.name: r.error for r in reruns if r.error})


def show_settings(_: argparse.Namespace) -> None:
    """List every setting with its meaning and the paper's or our default."""
    for f in dataclasses.fields(Experiment):
        print(f"{f.name} = {f.default!r}: {f.metadata['doc']}")


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    top = argparse.ArgumentParser(
        prog="adavipro", description="AdaViPro: learn what to add to an image, and where."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Any, name: str | None = None) -> argparse.ArgumentParser:
        text = (function.__doc__ or "").strip()
        sub = commands.add_parser(name or function.__name__, help=text, description=text)
        sub.set_defaults(function=function)
        sub.add_argument("--root", type=Path, default=ROOT, help="folder of run folders (default: runs)")
        return sub

    one = command(run)
    one.add_argument(
        "--world", default="embedded", choices=("embedded",), help="the paper's has no data sets yet"
    )
    one.add_argument("--method", default="adavipro", choices=METHODS)
    one.add_argument("--dataset", help="folder:PATH, or one of: " + ", ".join(datasets.CLASS_NAMES))
    one.add_argument("--prompt-px", type=int, help="width of the frame")
    one.add_argument("--seed", type=int)
    one.add_argument("--device", default="cpu")
    one.add_argument("--resume", action="store_true", help="go on from a checkpoint; fail without one")
    one.add_argument(
        "-s", "--set", action="append", metavar="NAME=VALUE", help="any setting; see `adavipro settings`"
    )

    many, search, beside = command(sweep), command(tune), command(run_baselines, "baselines")
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

    printed, drawn = command(table), command(figure)
    told = "2: accuracy against the width of the frame"
    others = "1: every method; 3: their price; effects; masks; search-*: candidates; the others: ablations"
    names = ("2", *studies.TABLES, *effects.TABLES, *SEARCHES)
    printed.add_argument("number", choices=names, help=f"{told}; {others}")
    drawn.add_argument("number", choices=tuple(FIGURES), help=told + "; masks: where the prompt lies")
    for shipped in (printed, drawn):
        shipped.add_argument("--world", default="embedded", choices=tuple(tables.RESULTS))
        shipped.add_argument("--results", type=Path, help="a results file of your own")
    printed.add_argument("--format", default="markdown", choices=("markdown", "csv"))
    drawn.add_argument("--out", type=Path, help="path without its ending: PNG and SVG are written")

    all_notebooks = command(reproduce)
    all_notebooks.add_argument("--only", nargs="+", metavar="NN", help="numbers of notebooks, as 05 06")
    all_notebooks.add_argument("--device", default="auto")
    command(show_settings, "settings")
    return top


def main(argv: list[str] | None = None) -> None:
    """Run the command line; what the user got wrong is one sentence on stderr and exit code 2."""
    args = parser().parse_args(argv)
    warnings.showwarning = lambda message, *_args, **_kw: print(f"warning: {message}", file=sys.stderr)
    try:
        args.function(args)
    except (ValueError, training.TrainingDiverged, OSError) as error:
        print(f"adavipro: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
