"""What every notebook opens and closes with: checked parameters, a folder for its figures, its numbers."""

import ast
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from IPython import get_ipython
from IPython.display import Image
from matplotlib.figure import Figure

from adavipro import datasets, effects, experiment, figures, presets
from adavipro.classifiers import check_device
from adavipro.environment import peak_memory_mb
from adavipro.experiment import Experiment
from adavipro.files import write_json
from adavipro.masks import valid_region_sides
from adavipro.prompts import frame_support
from adavipro.settings import SettingError, from_mapping, setting, validate

THREADS = 1  # on a CPU, as the shipped runs had: another number rounds otherwise, and a run can end points elsewhere
IN_BOTH_WORLDS = ("04_training", "09_your_images", "11_tables_and_machines")
INJECTED = "# Parameters"  # first line of the cell that papermill adds


class ParameterError(SettingError):
    """A notebook's parameter has an unknown name, a wrong type or a value out of range; shown as one sentence."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class Knobs:
    """Every parameter that a notebook of the series can have, and what it may be."""

    dataset: str = setting("digits", "data set to adapt to")
    prompt_px: int = setting(28, "width of the frame on each side, px", low=1)
    region_px: int = setting(8, "side of a decision region, px", low=1)
    seed: int = setting(0, "seed of the run", low=0)
    epochs: int = setting(5, "passes over the training images", low=1)
    draws: int = setting(2000, "samples of the noise", low=10)
    pictures: int = setting(8, "images in a row of a figure", low=1, high=16)
    source_pictures: int = setting(5000, "pictures that a classifier of the notebook is trained on", low=1000)
    seeds: int = setting(2, "runs of each cell of a table, with the seeds 0, 1, ...", low=1)
    recipe: str = setting("paper", "of a table of the paper's world", choices=presets.RECIPES)
    workers: int | None = setting(2, "runs at a time; none: one a GPU or a core", low=1)
    kill: bool = setting(True, "whether a worker is killed while it works, to see that nothing is lost")
    study: str = setting("edges", "setting whose ablation is rerun")
    value: str = setting("False", "value of that setting, as the results have it")
    folder: str | None = setting(None, "folder of your own images, PATH/class/image; none: one is made")
    world: str = setting("embedded", "what runs on a laptop, or the paper's", choices=presets.WORLDS)
    device: str = setting("auto", "where to compute: auto, cpu or cuda")
    runs: str | None = setting(None, "folder of run folders; none: runs/ at the top of the checkout")
    out: str | None = setting(None, "folder of this notebook's figures; none: <runs>/notebooks/<notebook>")

    def __post_init__(self) -> None:
        validate(self)


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

    def experiment(self, method: str, **changes: Any) -> Experiment:
        """The world's recipe for a method with this notebook's parameters, and single settings changed.

        Of the paper's world it is our recipe: the paper's is for a thousand epochs.
        """
        known = {f.name for f in fields(Experiment)}
        own = {k: v for k, v in self.parameters.items() if k in known}
        recipe = "ours" if self.world == "paper" else "paper"
        return presets.preset(self.world, method, recipe, **{**own, **changes})

    def show(self, figure: Figure, name: str, alt: str) -> Image:
        """Write a figure as PNG and SVG into the notebook's folder. Returns the picture to display.

        Args:
            alt: what is seen, for a reader who cannot see it.
        """
        png, _ = figures.save(figure, self.folder / name)
        return Image(png, alt=alt, width=min(1000, int(figure.get_figwidth() * 100)))

    def finish(self, **numbers: float | int | str | None) -> None:
        """Write result.json, last and atomically: the notebook's numbers, its parameters, time and versions."""
        seconds = round(time.perf_counter() - self.started, 1)
        peak = peak_memory_mb()
        versions = experiment.versions()
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
        told = ", ".join(f"{k} {v}" for k, v in versions.items())
        where = f"one thread of {os.cpu_count()} CPU cores" if self.device == "cpu" else self.device
        print(f"{seconds:.0f} s on {where}, {peak} MB; {told}")


def begin(name: str, **parameters: Any) -> Page:
    """Check a notebook's parameters and open its folder. On a CPU torch gets one thread, as the shipped runs had.

    Args:
        name: the notebook's file name without its ending.
        parameters: the names and values of its parameters cell.

    Raises:
        ParameterError: if papermill was given a name that the notebook does not have, or a value is wrong.
    """
    try:
        refuse_unknown(name, injected_names(), list(parameters))
        knobs = from_mapping(Knobs, parameters)
        return _open(name, {k: getattr(knobs, k) for k in parameters}, knobs)
    except ValueError as error:
        raise ParameterError(str(error)) from None


def injected_names() -> list[str]:
    """Names that papermill set, read from the cell that it added."""
    shell = get_ipython()
    sources: Iterable[str] = shell.user_ns.get("In", []) if shell else []
    added = [ast.parse(s) for s in sources if s.startswith(INJECTED)]
    return [
        target.id
        for cell in added
        for line in cell.body
        if isinstance(line, ast.Assign)
        for target in line.targets
        if isinstance(target, ast.Name)
    ]


def refuse_unknown(name: str, given: list[str], known: list[str]) -> None:
    """Raise a SettingError where papermill was given a parameter that a notebook does not have."""
    for wrong in (n for n in given if n not in known):
        raise SettingError(
            f"notebook {name} has no parameter {wrong!r}: its parameters are {', '.join(known)}"
        )


def _open(name: str, parameters: dict[str, Any], knobs: Knobs) -> Page:
    if knobs.world == "paper" and name not in IN_BOTH_WORLDS:
        raise SettingError(
            f"world is 'paper', but notebook {name} teaches on the small world: use 'embedded', or one of "
            + ", ".join(IN_BOTH_WORLDS)
        )
    if "dataset" in parameters:
        datasets.check_name(knobs.dataset)
        if (knobs.dataset in datasets.CLASS_NAMES) != (knobs.world == "embedded"):
            raise SettingError(
                f"dataset is {knobs.dataset!r} and world is {knobs.world!r}, but the embedded world has "
                f"{', '.join(datasets.CLASS_NAMES)}, and the paper's its nine"
            )
    if knobs.folder is not None:
        datasets.check_name(f"folder:{knobs.folder}")
    image_px = presets.IMAGE_PX[knobs.world]
    if "prompt_px" in parameters:
        frame_support(image_px, knobs.prompt_px)
    if "study" in parameters:
        effects.ablation_value(knobs.study, knobs.value)
    sides = valid_region_sides(image_px)
    if "region_px" in parameters and knobs.region_px not in sides:
        raise SettingError(
            f"region_px is {knobs.region_px}, but regions must divide the image of {image_px} px: choose "
            f"one of {', '.join(map(str, sides))}"
        )
    runs = _runs_folder(knobs.runs)
    folder = Path(knobs.out) if knobs.out is not None else runs / "notebooks" / name
    page = Page(name, parameters, knobs.world, _device(knobs.device), runs, folder)
    if "epochs" in parameters:
        for method in ("vp", "adavipro"):
            page.experiment(method)  # refuses before any work
    if page.device == "cpu":
        torch.set_num_threads(THREADS)
    folder.mkdir(parents=True, exist_ok=True)
    return page


def _runs_folder(given: str | None) -> Path:
    """The folder of run folders: at the top of a checkout, also when the kernel runs in notebooks/."""
    here = Path.cwd()
    return Path(given) if given is not None else (here.parent if here.name == "notebooks" else here) / "runs"


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(wanted)
    return wanted
