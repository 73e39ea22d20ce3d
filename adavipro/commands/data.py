"""adavipro fetch, midframes: the paper's data sets."""

import argparse
from pathlib import Path

from adavipro import downloads, midframes, tables
from adavipro.commands.parsing import Commands, command
from adavipro.nine import SPECS
from adavipro.settings import SettingError
from adavipro.storage import datasets_folder


def add(commands: Commands) -> None:
    """Declare the commands."""
    got = command(commands, fetch)
    got.add_argument("names", nargs="*", metavar="NAME", help="all, or some of: " + ", ".join(SPECS))
    got.add_argument("--list", action="store_true", help="say what is there, its size, licence and source")
    got.add_argument(
        "--mirror", help="address of a folder that holds the files, in place of the published addresses"
    )
    got.add_argument("--keep", action="store_true", help="keep the archives")
    got.add_argument("--data", type=Path, help="folder of the data sets (default: $ADAVIPRO_DATA)")
    frames = command(commands, extract_midframes, "midframes")
    frames.add_argument(
        "videos", type=Path, nargs="?", help="folder of the .avi files (default: where fetch puts them)"
    )
    frames.add_argument("--data", type=Path, help="folder of the data sets (default: $ADAVIPRO_DATA)")


def fetch(args: argparse.Namespace) -> None:
    """Download data sets of the paper, checked by sha256, or list them."""
    folder = args.data or datasets_folder()
    if args.list or not args.names:
        print(tables.to_markdown(downloads.listing(folder)), end="")
        print(f"folder: {folder}")
        return
    failed = []
    for name in SPECS if args.names == ["all"] else args.names:
        try:
            print(f"{name}: {downloads.fetch(name, folder, args.mirror, keep=args.keep)}")
            print(downloads.split_advice(name, folder))
        except (ValueError, OSError) as error:
            failed.append(str(error))
    if failed:
        raise SettingError("; ".join(failed))


def extract_midframes(args: argparse.Namespace) -> None:
    """Write the middle frame of each of UCF101's videos."""
    base = (args.data or datasets_folder()) / "ucf101"
    target = base / "UCF-101-midframes"
    count = midframes.extract(args.videos or base / "UCF101", target)
    print(f"{count} frames written to {target}")
