"""Teaching figures of the notebooks: what a step of the method does, drawn from its own tensors."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from open_clip import OPENAI_DATASET_STD
from torch import Tensor

from adavipro.classifiers import FrozenClassifier
from adavipro.edges import EdgeDetector
from adavipro.figures import to_picture
from adavipro.masks import enlarge
from adavipro.method import AdaViPro
from adavipro.prompts import frame_support
from adavipro.seeds import generator


def frames_figure(images: Tensor, widths_px: Sequence[int], seed: int = 0) -> Figure:
    """Images under frames of growing width: a row an image, a column a width (the paper's Figure 1).

    The frame is a template as VP's training starts from it, N(0, 1), added after CLIP's normalisation; the sum is
    clipped for the screen only.

    Args:
        images: uint8 (b, 3, s, s).
        widths_px: widths on each side; 0 shows the images as they are.
        seed: of the template.

    Raises:
        ValueError: if the images or a width do not fit.
    """
    side = images.shape[-1]
    if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}, expected uint8 (b, 3, s, s)")
    template = torch.randn(1, 3, side, side, generator=generator(seed, "template"))
    added = template * torch.tensor(OPENAI_DATASET_STD).view(1, 3, 1, 1)
    count, columns = len(images), len(widths_px)
    figure = Figure(figsize=(1.25 * columns + 0.1, 1.25 * count + 0.3), layout="constrained")
    grid = figure.subplots(count, columns, squeeze=False)
    for column, width in zip(grid.T, widths_px, strict=True):
        support = frame_support(side, width) if width else torch.zeros(side, side)
        shown = (images.cpu() / 255 + added * support).clamp(0, 1).permute(0, 2, 3, 1)
        covered = support.float().mean().item()
        column[0].set_title(f"{width} px, {covered:.0%} covered" if width else "as it is", fontsize=8)
        for axes, picture in zip(column, shown, strict=True):
            axes.imshow(picture.numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
    return figure


def grid_figure(rows: Mapping[str, Tensor], columns: Sequence[str] = ()) -> Figure:
    """Rows of pictures and maps under one another.

    Args:
        rows: by row title, either images (n, 3, h, w), uint8 or in [0, 1], or maps (n, h, w) of any range. A map
            without negative values goes from black at 0 to white; one with a sign has mid-grey at 0. Half a per cent
            of a row's values may be clipped.
        columns: titles of the n columns.

    Raises:
        ValueError: if rows differ in length, or one is neither images nor maps.
    """
    count = {len(row) for row in rows.values()} | ({len(columns)} if columns else set())
    if len(count) != 1:
        raise ValueError(f"rows and columns have lengths {sorted(count)}, but a grid needs one length")
    (n,) = count
    figure = Figure(figsize=(1.2 * n + 1.0, 1.25 * len(rows) + 0.1), layout="constrained")
    for line, (name, row) in zip(figure.subplots(len(rows), n, squeeze=False), rows.items(), strict=True):
        if row.ndim == 4 and row.shape[1] == 3:
            low, high = 0.0, 255.0 if row.dtype == torch.uint8 else 1.0
            pictures = (row.detach().cpu() / high).clamp(0, 1).permute(0, 2, 3, 1)
            high = 1.0
        elif row.ndim == 3:
            pictures = row.detach().cpu().float()
            high = max(pictures.abs().flatten().quantile(0.995).item(), 1e-6)
            low = -high if pictures.min() < 0 else 0.0
        else:
            raise ValueError(f"row {name!r} has shape {tuple(row.shape)}, expected (n, 3, h, w) or (n, h, w)")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(picture.numpy(), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
    for axes, title in zip(figure.axes, columns, strict=False):
        axes.set_title(title, fontsize=9)
    return figure


@torch.no_grad()
def explain_figure(
    classifier: FrozenClassifier,
    method: AdaViPro,
    image: Tensor,
    label: int | None = None,
    decisions: Tensor | None = None,
) -> Figure:
    """Everything between an image and its class: edges, logits, mask, prompted image, scores before and after.

    VP has no edges and no logits, so their panels are left out. Hatched is what the prompt cannot reach.

    Args:
        image: uint8 (3, h, w).
        label: the true class, marked among the scores.
        decisions: (1, 1, r, r), to set the regions by hand.
    """
    x = classifier.normalise(image[None].to(classifier.mean.device))
    shown = method(x, decisions=decisions)
    panels = [("image", to_picture(x, classifier)[0], 1.0)]  # a title, what is drawn, the value of white
    logits = method.region_logits(x)
    if logits is not None and method.edges is not None:
        edges = method.edges(x)[0].abs().mean(0).cpu()
        title = "edges" if isinstance(method.edges, EdgeDetector) else "no edge detector"
        difference = _reached(logits.diff(dim=1)[0, 0], method.live_regions())
        largest = max(difference.nan_to_num().abs().max().item(), 1e-6)
        panels += [(title, edges, edges.max().item()), ("logits: on minus off", difference, largest)]
    reach = _reached(shown.mask[0, 0], method.prompt.support)
    panels += [
        ("mask: white is on", reach, 1.0),
        ("prompted image", to_picture(shown.images, classifier)[0], 1.0),
    ]

    names = 0.3 + 0.065 * max(map(len, classifier.class_names))  # their width in inches
    width, step = 1.7 * len(panels) + names + 1.9, 1.06
    figure = Figure(figsize=(width, 2.0))
    axes = figure.add_axes((0.01, 0.03, 1.7 * len(panels) / width, 0.94), frameon=False, xticks=[], yticks=[])
    for place, (title, values, white) in enumerate(panels):  # one axes for all: half the time of one for each
        left = place * step
        axes.text(left + 0.5, 1.04, title, ha="center", fontsize=9)
        axes.add_patch(Rectangle((left, 0), 1, 1, facecolor="0.92", hatch="////", edgecolor="0.5", zorder=-1))
        black = -white if title.startswith("logits") else 0
        where = (left, left + 1, 0, 1)
        axes.imshow(values.numpy(), "gray", vmin=black, vmax=white, interpolation="nearest", extent=where)
        if title.startswith("logits") and len(values) <= 8:
            _write_numbers(axes, values, left)
    axes.set(xlim=(-0.01, len(panels) * step - 0.05), ylim=(-0.01, 1.15))
    bars = figure.add_axes((1 - 1.85 / width, 0.06, 1.8 / width, 0.8))
    before, after = classifier(torch.cat([x, shown.images])).softmax(1).cpu()
    _draw_scores(bars, classifier.class_names, before, after, label)
    return figure


def _reached(values: Tensor, live: Tensor) -> Tensor:
    """Values with NaN, which shows the hatch behind, where the prompt cannot reach."""
    return values.float().masked_fill(~live, float("nan")).cpu()


def _write_numbers(axes: Axes, values: Tensor, left: float) -> None:
    """Write each region's value (r, r) over a picture of side 1."""
    side = len(values)
    places = 0 if values.nan_to_num().abs().max() >= 10 else 1
    for row, column in values.isfinite().nonzero().tolist():
        value = values[row, column].item()
        where = (left + (column + 0.5) / side, 1 - (row + 0.5) / side)
        colour = "black" if value > 0 else "white"
        axes.text(*where, f"{value:.{places}f}", ha="center", va="center", fontsize=6, color=colour)


def _draw_scores(axes: Axes, names: list[str], before: Tensor, after: Tensor, label: int | None) -> None:
    """Draw the probabilities (k,) of the classes that lead before or after, and of the true one."""
    leading = torch.maximum(before, after)
    if label is not None:
        leading[label] = 2
    chosen = leading.topk(min(5, len(names))).indices
    chosen = chosen[after[chosen].argsort()]
    places = np.arange(len(chosen))
    for values, offset, name, colour, hatch in (
        (before, 0.2, "zero-shot", "0.85", "////"),
        (after, -0.2, "prompted", "#103a70", ""),
    ):
        percent = (100 * values[chosen]).tolist()
        drawn = axes.barh(
            places + offset, percent, 0.38, color=colour, hatch=hatch, edgecolor="0.5", label=name
        )
        axes.bar_label(drawn, fmt="%.0f", fontsize=6.5, padding=2)
    axes.set_yticks(places, [names[k] + (" ✓" if k == label else "") for k in chosen.tolist()], fontsize=8)
    axes.set(xlim=(0, 118), xticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title("class scores (%)" + ("" if label is None else ", ✓ true"), fontsize=9)
    axes.legend(fontsize=6.5, frameon=False, loc="lower right", reverse=True)


def forming_figure(masks_by_epoch: Sequence[Tensor], images: Tensor, region_px: int) -> Figure:
    """How the masks of a few images form: a row for each image, a column for each epoch, after the image itself.

    Regions that are on are light, those that are off dark; the image shows through.

    Args:
        masks_by_epoch: decisions (b, 1, r, r), one for each epoch.
        images: uint8 (b, 3, h, w).
    """
    pictures = images.cpu().float() / 255
    grey = pictures.mean(1, keepdim=True)
    columns = [pictures] + [
        (0.35 * grey + 0.65 * enlarge(m.cpu().float(), region_px)).expand(-1, 3, -1, -1)
        for m in masks_by_epoch
    ]
    count, side, gap = len(images), images.shape[-1], max(1, images.shape[-1] // 14)
    padded = [F.pad(c, (0, gap, 0, gap), value=1.0) for c in columns]
    strip = torch.cat([torch.cat(list(c), 1) for c in padded], 2)[:, :-gap, :-gap]  # (3, rows, columns)
    figure = Figure(figsize=(0.8 * len(columns) + 0.1, 0.8 * count + 0.3))
    axes = figure.add_axes((0.02, 0.01, 0.96, (0.8 * count - 0.02) / (0.8 * count + 0.3)))
    axes.imshow(strip.permute(1, 2, 0).numpy(), interpolation="nearest")
    titles = ["image"] + ["epoch 0"] * bool(masks_by_epoch) + [str(i) for i in range(1, len(masks_by_epoch))]
    axes.set_xticks([i * (side + gap) + side / 2 for i in range(len(columns))], titles, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=1)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return figure
