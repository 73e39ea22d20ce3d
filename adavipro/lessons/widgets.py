"""Interactive explorers for JupyterLab; the static twin of each is a figure of `adavipro.lessons.drawings`."""

import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as w
import torch
from matplotlib.figure import Figure
from safetensors.torch import load, save
from torch import Tensor

from adavipro.classifier import FrozenClassifier
from adavipro.io import write_atomically
from adavipro.lessons import drawings
from adavipro.lessons.figures import rendered
from adavipro.method import AdaViPro
from adavipro.prompts import frame_support

_DRAWING = threading.Lock()  # JupyterLab may call back from another thread while a cell draws
_FIT = {"max_width": "100%", "align_self": "flex-start"}  # else a box stretches its pictures


class _Explorer:
    """A figure and a line of text under it, which `draw` makes anew from what the controls say when one changes."""

    def __init__(self, draw: Callable[[], tuple[Figure, str]], *controls: w.Widget) -> None:
        self.draw, self.paused = draw, False
        self.image, self.line = w.Image(format="png", layout=w.Layout(**_FIT)), w.HTML()
        for control in controls:
            control.observe(self.redraw, "value")
        self.redraw()

    def redraw(self, change: Any = None) -> None:
        """Draw, unless paused."""
        if not self.paused:
            with _DRAWING:
                figure, line = self.draw()
                picture = rendered(figure)
                self.image.value, self.line.value = picture, line  # the line when its picture is there

    def under(self, *controls: w.Widget) -> w.VBox:
        """Put the picture and its line under a row of controls."""
        return w.VBox([w.HBox(controls), self.image, self.line])


def _image_choice(names: Sequence[str]) -> w.Dropdown:
    options = [(f"{i}: {name}", i - 1) for i, name in enumerate(names, 1)]
    return w.Dropdown(options=options, description="image", layout=w.Layout(width="18em"))


def frame_explorer(images: Tensor, names: Sequence[str]) -> w.VBox:
    """Pick one of the images, uint8 (b, 3, h, w), by its name, and a frame's width: see what VP covers."""
    side, image = images.shape[-1], _image_choice(names)
    width = w.IntSlider(side // 7, 1, side // 2, description="frame (px)", continuous_update=False)

    def draw() -> tuple[Figure, str]:
        parameters = 3 * int(frame_support(side, width.value).sum())
        figure = drawings.frames_figure(images[image.value, None], [width.value])
        figure.set_size_inches(5, 3)
        return figure, f"The frame has {parameters:,} parameters."

    return _Explorer(draw, image, width).under(image, width)


def temperature_explorer(draws: int = 2000) -> w.VBox:
    """Set the temperature and the logits: see the decisions that are drawn, and the gradients through them.

    The noise, `draws` samples of it, is the same at every setting.
    """
    temperature = w.FloatLogSlider(1, min=math.log10(0.05), max=1, step=0.05, description="temperature")
    difference = w.FloatSlider(1, min=-4, max=4, step=0.25, description="on - off")
    temperature.continuous_update = difference.continuous_update = False

    def draw() -> tuple[Figure, str]:
        line = "Black above: P(on). Black below: its gradient. Dashed: the means of what was drawn."
        return drawings.gumbel_figure([temperature.value], difference.value, draws, seed=0), line

    return _Explorer(draw, temperature, difference).under(temperature, difference)


@torch.no_grad()
def mask_explorer(classifier: FrozenClassifier, method: AdaViPro, images: Tensor, labels: Tensor) -> w.VBox:
    """Pick an image, see how the method treats it, and switch regions by hand where the prompt reaches.

    Images are uint8 (b, 3, h, w), labels their true classes (b,).
    """
    learned = method(classifier.normalise(images.to(classifier.mean.device))).decisions
    side, live = learned.shape[-1], method.live_regions().flatten().tolist()
    image = _image_choice([classifier.class_names[k] for k in labels.tolist()])
    square = w.Layout(width="32px", height="28px", padding="0", margin="0")
    regions = [w.ToggleButton(disabled=not reached, layout=square) for reached in live]

    def draw() -> tuple[Figure, str]:
        i = image.value
        decisions = learned.new_tensor([region.value for region in regions]).view(1, 1, side, side)
        figure = drawings.explain_figure(classifier, method, images[i], int(labels[i]), decisions)
        return figure, f"{int(decisions.sum())} of {sum(live)} regions on"

    picture = _Explorer(draw, *regions)

    def as_learned(_: Any = None) -> None:
        picture.paused = True
        for region, reached, on in zip(regions, live, learned[image.value].flatten().tolist(), strict=True):
            region.value = bool(reached and on)
        picture.paused = False
        picture.redraw()

    image.observe(as_learned, "value")
    reset = w.Button(description="as learned")
    reset.on_click(as_learned)
    as_learned()
    grid = w.GridBox(regions, layout=w.Layout(grid_template_columns=f"repeat({side}, 34px)"))
    return picture.under(w.VBox([image, reset]), grid)


class LiveView:
    """A run as it goes: its metrics, and the masks of a few images as they form. A `watch` of a training.

    Display `widget` before training. `masks` are the decisions (b, 1, r, r) after each epoch for images, uint8
    (b, 3, h, w); a file at the path holds them, so that a finished or resumed run has them too.
    """

    def __init__(self, classifier: FrozenClassifier, images: Tensor, path: Path) -> None:
        self.images, self.path = images, path
        self.normalised = classifier.normalise(images.to(classifier.mean.device))
        self.masks = list(load(path.read_bytes())["masks"]) if path.exists() else []
        self.pictures = [w.Image(format="png", layout=w.Layout(**_FIT)) for _ in range(2)]
        self.widget = w.VBox(self.pictures)
        self._redraw([])

    @torch.no_grad()
    def __call__(self, method: AdaViPro, history: Sequence[dict[str, Any]]) -> None:
        """Record the masks of the method as it is, and redraw; a resumed run's last epochs are recorded anew."""
        known = [*self.masks[: len(history) - 1], method(self.normalised).decisions.cpu()]
        missing = len(history) - len(known)  # epochs that it did not see: its first mask stands for them
        self.masks = [known[0]] * missing + known
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, save({"masks": torch.stack(self.masks)}))
        self._redraw(history)

    def _redraw(self, history: Sequence[dict[str, Any]]) -> None:
        with _DRAWING:
            self.pictures[0].value = rendered(drawings.curves_figure({"this run": history}))
            self.pictures[1].value = rendered(drawings.forming_figure(self.masks, self.images))
