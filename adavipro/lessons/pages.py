"""What every notebook opens and closes with: checked parameters, a folder, its figures and its numbers."""

# ruff: noqa: E402
from adavipro.lessons import install

install.require()  # one sentence, before anything is imported that may be missing or not fit

import ast
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from IPython import get_ipython
from IPython.display import Image
from matplotlib.figure import Figure

from adavipro import experiment, models
from adavipro.datasets import embedded
from adavipro.datasets.images import cores
from adavipro.experiment import Experiment, preset
from adavipro.io import expanded, write_json
from adavipro.lessons import figures
from adavipro.prompts import frame_support
from adavipro.recipe import SettingError
from adavipro.where import check_region

IMAGE_PX = {"embedded": embedded.IMAGE_PX, "photographs": 224, "paper": 224}


class ParameterError(SettingError):
    """A notebook's parameter has an unknown name or a wrong value; shown as one sentence, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"ParameterError: {self}"]


@dataclass
class Page:
    """A notebook at work: where its runs and figures go, and when it started."""

    name: str
    world: str
    device: str
    runs: Path
    folder: Path
    parameters: dict[str, Any]
    started: float = field(default_factory=time.perf_counter)
    drawn: dict[str, str] = field(default_factory=dict)  # figures in words, by file

    def experiment(self, method: str, **changes: Any) -> Experiment:
        """The world's recipe for a method with this notebook's parameters, and single settings changed.

        Of the paper's world it is our recipe: the paper's is for a thousand epochs.
        """
        known = Experiment().flat()
        own = {k: v for k, v in self.parameters.items() if k in known}
        recipe = "ours" if self.world == "paper" else "paper"
        return preset(self.world, method, recipe, **{**own, **changes})

    def show(self, figure: Figure, name: str, alt: str) -> Image:
        """Write a figure as PNG and SVG into the folder. Returns the picture to display; `alt` is it in words."""
        png, _ = figures.save(figure, self.folder / name)
        self.drawn[png.name] = alt
        return Image(png, alt=alt, width=min(1000, int(figure.get_figwidth() * 100)))

    def finish(self, **numbers: float | int | str | None) -> None:
        """Write result.json, last and atomically: the notebook's numbers, figures, parameters, time and versions."""
        seconds = round(time.perf_counter() - self.started, 1)
        peak, versions = experiment.peak_memory_mb(self.device), experiment.versions()
        named = {"key": self.folder.name, "notebook": self.name, "parameters": self.parameters}
        cost = {"seconds": seconds, "memory_mb": peak, "versions": versions}
        write_json(self.folder / "result.json", {**named, "numbers": numbers, "figures": self.drawn, **cost})
        where = f"one thread of {cores()} CPU cores" if self.device == "cpu" else self.device
        print(f"{seconds:.0f} s on {where}, {peak} MB; {', '.join(f'{k} {v}' for k, v in versions.items())}")


def check(solution: Callable[..., Any], right: Callable[[Callable[..., Any]], Any]) -> None:
    """Print one line on an exercise's function: right, not filled in yet, or not yet and why. Never raises.

    Args:
        solution: what the reader wrote; one that returns None or raises NotImplementedError is not filled in.
        right: calls it, and says whether all is as it should be.
    """

    def filled(*given: Any, **named: Any) -> Any:
        if (returned := solution(*given, **named)) is None:
            raise NotImplementedError
        return returned

    try:
        print("right" if right(filled) else "not yet: it runs, but what it returns is not what is asked for")
    except NotImplementedError:
        print("not filled in yet")
    except Exception as error:
        print(f"not yet: {type(error).__name__}: {error}".partition("\n")[0])


def begin(name: str, world: str, device: str, runs: str | None, out: str | None, **parameters: Any) -> Page:
    """Check a notebook's parameters, and open its folder. On a CPU torch gets one thread, as the shipped runs had.

    Args:
        name: the notebook's file name without its ending.
        world: "embedded" or "photographs", what runs on a laptop, or "paper".
        device: auto, cpu or cuda.
        runs: folder of run folders; none: runs/ at the top of the checkout.
        out: folder of this notebook's figures; none: <runs>/notebooks/<name>.
        parameters: the others of its parameters cell; settings of `Experiment` count in `Page.experiment`.

    Raises:
        ParameterError: if papermill was given a name that the notebook does not have, or a value is wrong.
    """
    top = Path.cwd().parent if Path.cwd().name == "notebooks" else Path.cwd()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        root = expanded(runs if runs is not None else top / "runs")
        folder = expanded(out if out is not None else root / "notebooks" / name)
        page = Page(name, world, device, root, folder, parameters)
        check_injected(name, [*parameters, "world", "device", "runs", "out"])
        models.prepare_device(device)
        run = page.experiment("adavipro")  # refuses wrong settings
        if (run.dataset in embedded.CLASS_NAMES) != (world == "embedded"):
            known = f"the embedded world has {', '.join(embedded.CLASS_NAMES)}"
            known += ", the photographs have solar-cells and handwritten-digits, and the paper its nine"
            raise SettingError(f"dataset is {run.dataset!r} and world is {world!r}, but {known}")
        frame_support(IMAGE_PX[world], run.prompt.prompt_px)
        check_region(IMAGE_PX[world], run.masks.region_px)
        folder.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        raise ParameterError(str(error)) from None
    if device == "cpu":
        torch.set_num_threads(1)  # another number rounds otherwise, and a run can end points elsewhere
    return page


def check_injected(name: str, known: Iterable[str]) -> None:
    """Raise a SettingError where papermill, in the cell that it added, set a parameter that is not known."""
    shell, known = get_ipython(), list(known)
    cells: list[str] = shell.user_ns.get("In", []) if shell else []
    added = (cell for cell in cells if cell.startswith("# Parameters"))
    for node in (node for cell in added for node in ast.walk(ast.parse(cell))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in known:
            told = f"notebook {name} has no parameter {node.id!r}"
            raise SettingError(f"{told}: its parameters are {', '.join(known)}")
