"""What every notebook opens and closes with: a sound environment, checked parameters, a folder, its numbers.

It imports torch, and what needs it, only when a notebook begins: an environment without is told in one sentence.
"""

import ast
import importlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython import get_ipython
from IPython.display import Image
from packaging.requirements import Requirement

from adavipro.io import write_json
from adavipro.recipe import SettingError, Settings, check_names, setting
from adavipro.report.studies import ablation_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adavipro.experiment import Experiment

THREADS = 1  # on a CPU, as the shipped runs had: another number rounds otherwise, and a run can end points elsewhere
IMAGE_PX = {"embedded": 56, "paper": 224}
IN_BOTH_WORLDS = ("04_training", "09_your_images", "11_tables_and_machines")
PAIR = ("torch", "torchvision")  # work only as a pair of one release
INJECTED = "# Parameters"  # first line of the cell that papermill adds


class OneSentence(Exception):
    """An error that a notebook shows as one sentence, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class ParameterError(OneSentence, SettingError):
    """A notebook's parameter has an unknown name, a wrong type or a value out of range."""


class EnvironmentProblem(OneSentence, ImportError):
    """A package is missing, too old or does not fit another."""


def require() -> None:
    """Check that what adavipro declares is installed and fits, and that torch and torchvision import together.

    Raises:
        EnvironmentProblem: naming each package that does not, and the command that mends it.
    """
    try:
        declared = [Requirement(line) for line in metadata.requires("adavipro") or []]
    except metadata.PackageNotFoundError:
        told = "adavipro is not installed here: pip install -e '.[notebooks]' in the folder with its pyproject.toml"
        raise EnvironmentProblem(told) from None
    wrong = []
    for needed in declared:
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            version = "missing"
        if version == "missing" or not needed.specifier.contains(version, prereleases=True):
            told = f"{needed.name} is {version}, needed {needed.specifier or 'any'}"
            wrong.append(f"{told}: pip install '{needed.name}{needed.specifier}'")
    if wrong:
        raise EnvironmentProblem("; ".join(wrong))
    try:
        for name in PAIR:
            importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        versions = " and ".join(f"{name} {metadata.version(name)}" for name in PAIR)
        told = f"{versions} cannot be imported together ({str(error).splitlines()[0]})"
        way_out = "install a pair of one release with `pip install --force-reinstall torch torchvision`"
        raise EnvironmentProblem(f"{told}: {way_out}") from None


@dataclass(frozen=True)
class Knobs(Settings):
    """What a notebook can be given beside settings of `Experiment`, and what it may be."""

    draws: int = setting(2000, "samples of the noise", low=10)
    pictures: int = setting(8, "images in a row of a figure", low=1, high=16)
    source_pictures: int = setting(5000, "pictures that a classifier of the notebook is trained on", low=1000)
    seeds: int = setting(2, "runs of each cell of a table, with the seeds 0, 1, ...", low=1)
    recipe: str = setting("paper", "of a table of the paper's world", choices=("paper", "ours"))
    workers: int | None = setting(2, "runs at a time; none: one a GPU or a core", low=1)
    kill: bool = setting(True, "whether a worker is killed while it works, to see that nothing is lost")
    study: str = setting("edges", "setting whose ablation is rerun")
    value: str = setting("False", "value of that setting, as the results have it")
    folder: str | None = setting(None, "folder of your own images, PATH/class/image; none: one is made")
    world: str = setting("embedded", "what runs on a laptop, or the paper's", choices=tuple(IMAGE_PX))
    device: str = setting("auto", "where to compute: auto, cpu or cuda")
    runs: str | None = setting(None, "folder of run folders; none: runs/ at the top of the checkout")
    out: str | None = setting(None, "folder of this notebook's figures; none: <runs>/notebooks/<notebook>")


@dataclass
class Page:
    """A notebook at work: where its runs and figures go, and when it started."""

    name: str
    parameters: dict[str, Any]
    world: str
    device: str
    runs: Path
    folder: Path
    started: float = field(default_factory=time.perf_counter)

    def experiment(self, method: str, **changes: Any) -> "Experiment":
        """The world's recipe for a method with this notebook's parameters, and single settings changed.

        Of the paper's world it is our recipe: the paper's is for a thousand epochs.
        """
        from adavipro.experiment import Experiment, preset

        own = {k: v for k, v in self.parameters.items() if k in Experiment().flat()}
        recipe = "ours" if self.world == "paper" else "paper"
        return preset(self.world, method, recipe, **{**own, **changes})

    def show(self, figure: "Figure", name: str, alt: str) -> Image:
        """Write a figure as PNG and SVG into the notebook's folder. Returns the picture to display.

        Args:
            alt: what is seen, for a reader who cannot see it.
        """
        from adavipro.lessons import figures

        png, _ = figures.save(figure, self.folder / name)
        return Image(png, alt=alt, width=min(1000, int(figure.get_figwidth() * 100)))

    def finish(self, **numbers: float | int | str | None) -> None:
        """Write result.json, last and atomically: the notebook's numbers, its parameters, time and versions."""
        from adavipro import experiment

        seconds = round(time.perf_counter() - self.started, 1)
        peak, versions = experiment.peak_memory_mb(), experiment.versions()
        result = {
            "key": self.folder.name,
            "notebook": self.name,
            "parameters": {k: v for k, v in self.parameters.items() if k not in ("runs", "out")},
            "numbers": numbers,
            "seconds": seconds,
            "memory_mb": peak,
            "versions": versions,
        }
        write_json(self.folder / "result.json", result)
        where = f"one thread of {os.cpu_count()} CPU cores" if self.device == "cpu" else self.device
        told = [f"{seconds:.0f} s on {where}"] + ([f"{peak} MB"] if peak else [])
        print(f"{', '.join(told)}; {', '.join(f'{k} {v}' for k, v in versions.items())}")


def begin(name: str, **parameters: Any) -> Page:
    """Check the environment and a notebook's parameters, and open its folder. On a CPU torch gets one thread.

    Args:
        name: the notebook's file name without its ending.
        parameters: the names and values of its parameters cell: settings of `Experiment`, and `Knobs`.

    Raises:
        EnvironmentProblem: see `require`.
        ParameterError: if papermill was given a name that the notebook does not have, or a value is wrong.
    """
    require()
    try:
        check_injected(name, parameters)
        return _open(name, parameters)
    except ValueError as error:
        raise ParameterError(str(error)) from None


def check_injected(name: str, known: Iterable[str]) -> None:
    """Raise a SettingError where papermill, in the cell that it added, set a parameter that is not known."""
    shell, known = get_ipython(), list(known)
    cells: list[str] = shell.user_ns.get("In", []) if shell else []
    for node in (node for cell in cells if cell.startswith(INJECTED) for node in ast.walk(ast.parse(cell))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in known:
            raise SettingError(
                f"notebook {name} has no parameter {node.id!r}: its parameters are {', '.join(known)}"
            )


def _open(name: str, parameters: dict[str, Any]) -> Page:
    import torch

    from adavipro import models
    from adavipro.datasets.embedded import CLASS_NAMES
    from adavipro.experiment import Experiment
    from adavipro.prompts import frame_support
    from adavipro.where import check_region

    own = [f.name for f in fields(Knobs)]
    check_names(parameters, [*Experiment().flat(), *own])
    knobs = Knobs(**{k: v for k, v in parameters.items() if k in own})
    if knobs.world == "paper" and name not in IN_BOTH_WORLDS:
        raise SettingError(
            f"world is 'paper', but notebook {name} teaches on the small world: use 'embedded', or one of "
            + ", ".join(IN_BOTH_WORLDS)
        )
    ablation_value(knobs.study, knobs.value)
    here = Path.cwd()
    top = here.parent if here.name == "notebooks" else here
    runs = Path(knobs.runs) if knobs.runs is not None else top / "runs"
    folder = Path(knobs.out) if knobs.out is not None else runs / "notebooks" / name
    device = knobs.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    models.check_device(device)
    page = Page(name, parameters, knobs.world, device, runs, folder)
    run, image_px = page.experiment("adavipro"), IMAGE_PX[knobs.world]  # refuses wrong settings
    if (run.dataset in CLASS_NAMES) != (knobs.world == "embedded"):
        raise SettingError(
            f"dataset is {run.dataset!r} and world is {knobs.world!r}, but the embedded world has "
            f"{', '.join(CLASS_NAMES)}, and the paper's its nine"
        )
    frame_support(image_px, run.prompt.prompt_px)
    check_region(image_px, run.masks.region_px)
    if device == "cpu":
        torch.set_num_threads(THREADS)
    folder.mkdir(parents=True, exist_ok=True)
    return page
