"""The command line: adavipro run, sweep, tune, baselines, table, figure, reproduce, settings, fetch, midframes."""

import argparse
import sys
import warnings

from adavipro import training
from adavipro.commands import data, results, runs, sweeping


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    top = argparse.ArgumentParser(
        prog="adavipro", description="AdaViPro: learn what to add to an image, and where."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for kind in (runs, sweeping, results, data):
        kind.add(commands)
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
    except KeyboardInterrupt:
        print("adavipro: stopped; what is finished is kept, and the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
