"""adavipro run, settings: one run."""

import argparse
import dataclasses
import types
import typing
from typing import Any

from adavipro import experiment, presets, sheets, tables
from adavipro.commands.parsing import DATA_SETS, Commands, command
from adavipro.experiment import METHODS, Experiment
from adavipro.parallel import Team


def add(commands: Commands) -> None:
    """Declare the commands."""
    one = command(commands, run, "run", "train")
    one.add_argument("--world", default="embedded", choices=presets.WORLDS)
    one.add_argument("--recipe", default="paper", choices=presets.RECIPES, help="of the paper's world")
    one.add_argument("--method", default="adavipro", choices=(*METHODS, *presets.VARIANTS))
    one.add_argument("--dataset", help=DATA_SETS)
    one.add_argument("--prompt-px", type=int, help="width of the frame")
    one.add_argument("--seed", type=int)
    one.add_argument("--device", default="cpu")
    one.add_argument("--resume", action="store_true", help="go on from a checkpoint; fail without one")
    one.add_argument(
        "-s", "--set", action="append", metavar="NAME=VALUE", help="any setting; see `adavipro settings`"
    )
    command(commands, show_settings, "settings")


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
    """Train and report one experiment; under torchrun, on all of its processes together."""
    chosen = {"dataset": args.dataset, "prompt_px": args.prompt_px, "seed": args.seed}
    given = {k: v for k, v in chosen.items() if v is not None} | _settings_of(args)
    wanted = presets.preset(args.world, args.method, args.recipe, **given)
    device = Team.device(args.device)
    team = Team.join(device)
    result = experiment.run(wanted, args.root, args.resume or None, device, team=team)
    team.leave()  # not where one has failed: torchrun ends the others, which wait for it
    if team.rank == 0:
        row = sheets.row_of(wanted, result, args.root) | {"method": args.method}
        print(tables.to_markdown(tables.summarise([row])), end="")
        print(f"folder: {wanted.folder(args.root)}")


def show_settings(_: argparse.Namespace) -> None:
    """List every setting with its meaning and the paper's or our default."""
    for f in dataclasses.fields(Experiment):
        print(f"{f.name} = {f.default!r}: {f.metadata['doc']}")
