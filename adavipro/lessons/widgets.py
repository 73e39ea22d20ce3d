"""Interactive explorers for JupyterLab; the static twin of each is a figure of `adavipro.lessons.drawings`."""

import html
import io
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as w
import torch
from matplotlib.figure import Figure
from torch import Tensor

from adavipro.classifier import FrozenClassifier
from adavipro.lessons import drawings
from adavipro.method import AdaViPro
from adavipro.prompts import frame_support
from adavipro.where import enlarge

_DRAWING = threading.Lock()  # JupyterLab may call back from another thread while a cell draws
_UNSEEN = "position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)"


class _Picture:
    """A figure that is drawn anew when a control changes, and a line of text under it.

    Args:
        draw: makes the figure and the line from what the controls say now.
        controls: what to watch. dpi: pixels an inch.
    """

    def __init__(self, draw: Callable[[], tuple[Figure, str]], *controls: w.Widget, dpi: int = 96) -> None:
        self.draw, self.dpi, self.paused = draw, dpi, False
        self.image = w.Image(format="png", layout=w.Layout(max_width="100%", align_self="flex-start"))
        self.line = w.HTML()
        for control in controls:
            control.observe(self.redraw, "value")
        self.redraw()

    def redraw(self, change: Any = None) -> None:
        """Draw, unless paused. A screen reader gets the figure's titles and legend after the line."""
        if self.paused:
            return
        content = io.BytesIO()
        with _DRAWING:
            figure, line = self.draw()
            figure.savefig(content, format="png", dpi=self.dpi)
            legends = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()))]
            told = [axes.get_title() for axes in figure.axes]
            told += [text.get_text() for legend in legends for text in legend.get_texts()]
            words = html.escape("; ".join(text.replace("\n", ", ") for text in told if text))
            self.image.value = content.getvalue()  # it can have no text of its own: a tooltip breaks its view
            self.line.value = f"<div>{line}</div><div style='{_UNSEEN}'>{words}</div>"

    def under(self, *controls: w.Widget) -> w.VBox:
        """Put the picture and its line under a row of controls."""
        row = w.Layout(flex_flow="row wrap", align_items="center")
        return w.VBox([w.HBox(controls, layout=row), self.image, self.line])


def _image_choice(names: Sequence[str]) -> w.Dropdown:
    options = [(f"{i}: {name}", i - 1) for i, name in enumerate(names, 1)]
    return w.Dropdown(options=options, description="image", layout=w.Layout(width="18em"))


def frame_explorer(images: Tensor, names: Sequence[str] = ()) -> w.VBox:
    """Pick an image and a frame's width: see what VP covers.

    Args:
        images: uint8 (b, 3, h, w). names: what they show, to pick from.
    """
    side = images.shape[-1]
    image = _image_choice(names or [f"of {len(images)}"] * len(images))
    width = w.IntSlider(side // 7, 1, side // 2, description="frame (px)", continuous_update=False)

    def draw() -> tuple[Figure, str]:
        covered = int(frame_support(side, width.value).sum())
        line = f"The frame covers {covered / side**2:.0%} of the image; it has {3 * covered:,} parameters."
        return drawings.frames_figure(images[image.value, None], [0, width.value]), line

    return _Picture(draw, image, width, dpi=200).under(image, width)


def temperature_explorer(draws: int = 2000, seed: int = 0) -> w.VBox:
    """Set the temperature and the logits: see the decisions that are drawn, and the gradients through them.

    The noise, `draws` samples of it, is the same at every setting.
    """
    temperature = w.FloatLogSlider(1, min=math.log10(0.05), max=1, step=0.05, description="temperature")
    difference = w.FloatSlider(1, min=-4, max=4, step=0.25, description="on - off")
    hard = w.Checkbox(False, description="hard: 0 or 1", indent=False, layout=w.Layout(width="9em"))
    temperature.continuous_update = difference.continuous_update = False
    temperature.readout_format, temperature.style.description_width = ".2f", "7em"

    def draw() -> tuple[Figure, str]:
        line = "Black above: P(on). Black below: its gradient. Dashed: the means of what was drawn."
        return drawings.gumbel_figure([temperature.value], difference.value, draws, seed, hard.value), line

    return _Picture(draw, temperature, difference, hard).under(temperature, difference, hard)


@torch.no_grad()
def mask_explorer(classifier: FrozenClassifier, method: AdaViPro, images: Tensor, labels: Tensor) -> w.VBox:
    """Pick an image, see how the method treats it, and switch regions by hand where the prompt reaches.

    Args:
        images: uint8 (b, 3, h, w).
        labels: (b,) true classes.
    """
    names, truths = classifier.class_names, labels.tolist()
    x = classifier.normalise(images.to(classifier.mean.device))
    learned, before = method(x).decisions, classifier(x).softmax(1)
    side, live = learned.shape[-1], method.live_regions().flatten().tolist()
    image = _image_choice([names[k] for k in truths])
    square = w.Layout(width="32px", height="28px", padding="0", margin="0")
    regions = [w.ToggleButton(disabled=not reached, layout=square) for reached in live]

    def draw() -> tuple[Figure, str]:
        i, truth = image.value, truths[image.value]
        decisions = learned.new_tensor([region.value for region in regions]).view(1, 1, side, side)
        with torch.no_grad():
            after = classifier(method(x[i, None], decisions=decisions).images).softmax(1)[0]
        for k, region in enumerate(regions):
            region.tooltip = f"region in row {k // side + 1}, column {k % side + 1}"
            region.description = "on" if region.value else "off" if not region.disabled else ""
        line = f"{sum(region.value for region in regions)} of {sum(live)} regions on"
        for name, scores in (("zero-shot", before[i]), ("prompted", after)):
            found = html.escape(names[int(scores.argmax())])
            line += f"; {name}: {found} ({scores.max():.1%}), true class {scores[truth]:.1%}"
        return drawings.explain_figure(classifier, method, images[i], truth, decisions), line

    picture = _Picture(draw, *regions)

    def switch(values: Sequence[float]) -> None:
        picture.paused = True
        for region, reached, value in zip(regions, live, values, strict=True):
            region.value = bool(value and reached)
        picture.paused = False
        picture.redraw()

    def as_learned(_: Any = None) -> None:
        switch(learned[image.value].flatten().tolist())

    image.observe(as_learned, "value")
    as_learned()
    buttons = [w.Button(description=words) for words in ("as learned", "all on", "all off")]
    buttons[0].on_click(as_learned)
    buttons[1].on_click(lambda _: switch(live))
    buttons[2].on_click(lambda _: switch([0] * len(live)))
    grid = w.GridBox(regions, layout=w.Layout(grid_template_columns=f"repeat({side}, 34px)"))
    return picture.under(w.VBox([image, *buttons]), grid)


class LiveView:
    """A run as it goes: loss, accuracy, temperature, regions on, and the newest masks of a few images.

    Display `widget` before training and call `update` after each epoch.

    Args:
        total_epochs: epochs of the run.
        images: uint8 (b, 3, h, w), those whose masks are drawn.
    """

    def __init__(self, total_epochs: int, images: Tensor) -> None:
        self.total_epochs, self.images = total_epochs, images
        self.history: Sequence[dict[str, Any]] = []
        self.masks: Tensor | None = None
        self.bar = w.IntProgress(0, 0, total_epochs, description="epochs")
        self.curves, self.pictures = _Picture(self._curves), _Picture(self._pictures)
        self.widget = w.VBox([self.bar, self.curves.image, self.pictures.image, self.curves.line])

    def update(self, history: Sequence[dict[str, Any]], masks: Tensor | None = None) -> None:
        """Redraw from a row of metrics for each epoch so far, and the images' newest decisions (b, 1, r, r), if any."""
        self.history, self.masks, self.bar.value = list(history), masks, len(history)
        self.curves.redraw()
        self.pictures.redraw()

    def _curves(self) -> tuple[Figure, str]:
        figure = drawings.curves_figure({"this run": self.history})
        for axes in figure.axes:
            axes.set_xlim(-0.2, max(1, self.total_epochs - 1) + 0.2)
        return figure, ""

    def _pictures(self) -> tuple[Figure, str]:
        rows = {"image": self.images}
        if self.masks is not None:
            masks = enlarge(self.masks, self.images.shape[-1] // self.masks.shape[-1])
            rows[f"masks after\nepoch {len(self.history) - 1}"] = masks[:, 0]
        return drawings.grid_figure(rows), ""
