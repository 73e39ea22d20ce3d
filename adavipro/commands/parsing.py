"""What the commands share: how they are declared, and how they report failure."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adavipro import files

ROOT = Path("runs")
Commands = Any  # argparse keeps the class of what add_subparsers returns to itself
DATA_SETS = "data sets: the embedded ones, the paper's nine, folder:PATH"


def command(
    commands: Commands, function: Callable[[argparse.Namespace], None], *names: str
) -> argparse.ArgumentParser:
    """Declare a command by the function that does it; its docstring is the help."""
    text = (function.__doc__ or "").strip()
    name, *aliases = names or (function.__name__,)
    sub: argparse.ArgumentParser = commands.add_parser(name, aliases=aliases, help=text, description=text)
    sub.set_defaults(function=function)
    sub.add_argument("--root", type=Path, default=ROOT, help="folder of run folders (default: runs)")
    return sub


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV; nothing where there are none."""
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, files.to_csv(rows).encode())


def fail(errors: dict[str, str]) -> None:
    """Tell what failed, a line each, and end with code 1; nothing where nothing did."""
    for name, error in errors.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    if errors:
        raise SystemExit(1)
