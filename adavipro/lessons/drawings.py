"""Teaching figures: what a step of the method does, drawn from its own tensors (matplotlib without global state)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from open_clip import OPENAI_DATASET_STD
from torch import Tensor

from adavipro.classifier import FrozenClassifier
from adavipro.datasets.images import read_image
from adavipro.io import data_folder, generator
from adavipro.method import AdaViPro
from adavipro.prompts import frame_support
from adavipro.where import EdgeDetector, MaskGenerator, decide, enlarge, gumbel_noise

PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket")  # data/photographs/README.md has sources and licences
# A line of a run: lightness, dash and marker tell runs apart without colour.
_LINES = (("#103a70", "-o"), ("#d08a00", "--s"), ("0.45", ":^"), ("#7fb3d5", "-.D"), ("0.0", "-v"))
METRIC_TITLES = {
    "loss": "training loss",
    "train_accuracy": "training accuracy (%)",
    "val_accuracy": "validation accuracy (%)",
    "temperature": "temperature",
    "share_on": "regions on (%)",
    "mask_diversity": "how much masks differ (%)",
}


def photographs(names: Sequence[str] = PHOTOGRAPHS) -> Tensor:
    """Read photographs that ship with the project, by name. Returns uint8 (n, 3, 224, 224).

    Raises:
        ValueError: if no name is given, or one is not in `PHOTOGRAPHS`.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names or not set(names) <= set(PHOTOGRAPHS):
        raise ValueError(f"photographs are {names}, but they are one or more of: {', '.join(PHOTOGRAPHS)}")
    folder = data_folder() / "photographs"
    return torch.stack([read_image(folder / f"{name}.jpg", 224) for name in names])


def to_picture(images: Tensor, classifier: FrozenClassifier) -> Tensor:
    """Turn normalised images (b, 3, h, w) back into [0, 1], clipped for the screen."""
    return (images * classifier.std + classifier.mean).clamp(0, 1).cpu()


# --- Rows of pictures ---------------------------------------------------------------------------------------------


def grid_figure(rows: Mapping[str, Tensor] | Sequence[Tensor], columns: Sequence[str] = ()) -> Figure:
    """Rows of pictures and maps under one another.

    Args:
        rows: by row title, or without titles, either images (n, 3, h, w), uint8 or in [0, 1], or maps (n, h, w) of any
            range. A map without negative values goes from black at 0 to white; one with a sign has mid-grey at 0. Half
            a per cent of a row's values may be clipped.
        columns: titles of the n columns.

    Raises:
        ValueError: if rows differ in length, or one is neither images nor maps.
    """
    titled = list(rows.items()) if isinstance(rows, Mapping) else [("", row) for row in rows]
    count = {len(row) for _, row in titled} | ({len(columns)} if columns else set())
    if len(count) != 1:
        raise ValueError(f"rows and columns have lengths {sorted(count)}, but a grid needs one length")
    (n,) = count
    names = 0.9 if isinstance(rows, Mapping) else 0.0  # width of their column
    size = (1.2 * n + 0.1 + names, 1.2 * len(rows) + (0.3 if columns else 0.1))
    figure = Figure(figsize=size, layout="constrained")
    for line, (name, row) in zip(figure.subplots(len(rows), n, squeeze=False), titled, strict=True):
        pictures = row.detach().cpu() / (255 if row.dtype == torch.uint8 else 1)
        if row.ndim == 4 and row.shape[1] == 3:
            pictures = pictures.clamp(0, 1).permute(0, 2, 3, 1)
        elif row.ndim != 3:
            raise ValueError(f"row {name!r} has shape {tuple(row.shape)}, expected (n, 3, h, w) or (n, h, w)")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        limits = _limits(pictures)
        for axes, picture in zip(line, pictures, strict=True):
            _show(axes, picture, limits)
    for axes, title in zip(figure.axes, columns, strict=False):
        axes.set_title(title, fontsize=8)
    return figure


def _limits(values: Tensor) -> tuple[float, float]:
    """What is black and what is white in maps: 0 and nearly the most, or as far from 0 on both sides."""
    high = max(values.abs().flatten().quantile(0.995).item(), 1e-6)
    return -high if values.min() < 0 else 0.0, high


def _show(axes: Axes, picture: Tensor, limits: tuple[float, float]) -> None:
    """Draw a map (h, w) between two limits, or a picture (h, w, 3) in [0, 1], which has none."""
    low, high = limits
    axes.imshow(picture.numpy(), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


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
    supports = [frame_support(side, width) if width else torch.zeros(side, side) for width in widths_px]
    shown = torch.stack(
        [images.cpu() / 255 + added * support for support in supports], 1
    )  # (b, widths, 3, s, s)
    titles = [
        f"{width} px, {support.float().mean():.0%} covered" if width else "as it is"
        for width, support in zip(widths_px, supports, strict=True)
    ]
    return grid_figure(list(shown), titles)


@torch.no_grad()
def picture_figure(
    classifier: FrozenClassifier, images: Tensor, methods: Mapping[str, AdaViPro], labels: Tensor
) -> Figure:
    """Images as they are, as each method shows them to the classifier, and each mask (the paper's Figure 4).

    Args:
        images: uint8 (b, 3, h, w).
        methods: trained methods by row title; those with a mask generator get a second row with their masks.
        labels: (b,) true classes; a prediction's title is black where it is right.
    """
    x = classifier.normalise(images.to(classifier.mean.device))
    rows, scores = {"raw": to_picture(x, classifier)}, {"raw": classifier(x)}
    for name, method in methods.items():
        shown = method(x)
        rows[name], scores[name] = to_picture(shown.images, classifier), classifier(shown.images)
        if method.masks is not None:
            rows[f"{name}\nmask"] = (shown.mask * method.prompt.support)[:, 0]
    figure = grid_figure(rows)
    for place, name in enumerate(rows):
        line = figure.axes[place * len(images) :]
        for axes, found, label in zip(
            line, scores.get(name, []), labels, strict=False
        ):  # a mask has no scores
            right = int(found.argmax()) == int(label)
            title = classifier.class_names[int(found.argmax())] + ("" if right else " ✗")
            axes.set_title(title, fontsize=6.5, pad=2, color="black" if right else "0.5")
    return figure


def forming_figure(masks_by_epoch: Sequence[Tensor], images: Tensor, region_px: int) -> Figure:
    """How the masks of a few images form: a row for each image, a column for each epoch, after the image itself.

    Regions that are on are light, those that are off dark; the image shows through.

    Args:
        masks_by_epoch: decisions (b, 1, r, r), one for each epoch.
        images: uint8 (b, 3, h, w).
    """
    pictures = images.cpu().float() / 255
    grey = pictures.mean(1, keepdim=True)
    masks = [enlarge(decisions.cpu().float(), region_px) for decisions in masks_by_epoch]
    columns = [pictures] + [(0.35 * grey + 0.65 * mask).expand(-1, 3, -1, -1) for mask in masks]
    titles = ["image", *(f"epoch {i}" for i in range(len(masks)))]
    return grid_figure(list(torch.stack(columns, 1)), titles)


# --- One image through the method -----------------------------------------------------------------------------------


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
    shown, logits = method(x, decisions=decisions), method.region_logits(x)
    panels = {"image": _to_screen(x, classifier)}
    if logits is not None and method.edges is not None:
        title = "edges" if isinstance(method.edges, EdgeDetector) else "no edge detector"
        panels[title] = method.edges(x)[0].abs().mean(0).cpu()
        panels["logits: on minus off"] = _reached(logits.diff(dim=1)[0, 0], method.live_regions())
    panels["mask: white is on"] = _reached(shown.mask[0, 0], method.prompt.support)
    panels["prompted image"] = _to_screen(shown.images, classifier)

    names = 0.2 + 0.065 * max(map(len, classifier.class_names))  # their width in inches
    width = 1.75 * len(panels) + 2.5 + names
    figure = Figure(figsize=(width, 2.0))
    grid = figure.subplots(1, len(panels) + 1, width_ratios=[1] * len(panels) + [1.4])
    figure.subplots_adjust(0.01, 0.05, 1 - names / width, 0.87, 0.08)
    for axes, (title, values) in zip(grid, panels.items(), strict=False):
        _show(axes, values, _limits(values.nan_to_num()))
        axes.set_title(title, fontsize=9)
        axes.patch.set(facecolor="0.92", hatch="////", edgecolor="0.5")
    before, after = classifier(torch.cat([x, shown.images])).softmax(1).cpu()
    _draw_scores(grid[-1], classifier.class_names, before, after, label)
    return figure


def _to_screen(images: Tensor, classifier: FrozenClassifier) -> Tensor:
    """The first of normalised images (b, 3, h, w) as matplotlib wants it, (h, w, 3)."""
    return to_picture(images, classifier)[0].permute(1, 2, 0)


def _reached(values: Tensor, live: Tensor) -> Tensor:
    """Values with NaN, which lets the background be seen, where the prompt cannot reach."""
    return values.float().masked_fill(~live, float("nan")).cpu()


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
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "0.5", "label": name}
        drawn = axes.barh(places + offset, (100 * values[chosen]).tolist(), 0.38, **style)
        axes.bar_label(drawn, fmt="%.0f", fontsize=6.5, padding=2)
    axes.set_yticks(places, [names[k] + (" ✓" if k == label else "") for k in chosen.tolist()], fontsize=8)
    axes.yaxis.tick_right()
    axes.set(xlim=(0, 118), xticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title("class scores (%)" + ("" if label is None else ", ✓ true"), fontsize=9)
    axes.legend(fontsize=6.5, frameon=False, loc="lower right", reverse=True)


@torch.no_grad()
def architecture_figure(classifier: FrozenClassifier, method: AdaViPro, image: Tensor) -> Figure:
    """One image through AdaViPro, a panel for each tensor on its way; what learns has a heavy border (Figure 3).

    Args:
        image: uint8 (3, h, w).

    Raises:
        ValueError: if the method has no mask generator.
    """
    if not isinstance(method.masks, MaskGenerator) or method.edges is None:
        raise ValueError("the method has no mask generator: the architecture is AdaViPro's, not VP's")
    x = classifier.normalise(image[None].to(classifier.mean.device))
    edges, shown, template = method.edges(x), method(x), method.prompt()
    assert shown.logits is not None
    hidden, added = method.masks.convergence(edges).relu(), template * shown.mask
    figure = Figure(figsize=(11, 4.2))
    panels = figure.subplot_mosaic("abcdef;ghijkk", gridspec_kw={"left": 0.01, "right": 0.92, "wspace": 0.35})
    steps = [  # title, tensor, what is drawn of it, the word on the way to the next
        ("image x", x, _to_screen(x, classifier), "$F_e$"),
        ("edges $m_e$ (fixed)", edges, edges[0].abs().mean(0), "$F_c$"),
        ("$F_c(m_e)$", hidden, hidden[0].mean(0), "$F_p$"),
        ("$F_p(F_c(m_e))$, on - off", shown.logits, shown.logits.diff(dim=1)[0, 0], ""),
        ("decisions (likelier)", shown.decisions, shown.decisions[0, 0], r"$\Phi$"),
        (r"mask $m_p = \Phi(\cdot)$", shown.mask, shown.mask[0, 0], ""),
        ("template P", template, _to_screen(template, classifier), r"$\times m_p$"),
        (r"$P \cdot m_p$", added, _to_screen(added, classifier), "+ x"),
        (r"$x + P \cdot m_p$", shown.images, _to_screen(shown.images, classifier), ""),
    ]
    for place, (title, tensor, picture, word) in zip("abcdefghi", steps, strict=True):
        learns = place in "cdg"
        _show(panels[place], picture.cpu(), _limits(picture.cpu()))
        panels[place].set_title(title, fontsize=9, fontweight="bold" if learns else "normal")
        panels[place].set_xlabel(" x ".join(map(str, tensor.shape[1:])), fontsize=8)
        panels[place].spines[:].set_linewidth(2.5 if learns else 0.6)
        if place != "f":
            arrow = {"arrowstyle": "-|>", "color": "0.2"}
            panels[place].annotate("", (1.3, 0.5), (1.02, 0.5), "axes fraction", arrowprops=arrow)
            panels[place].text(1.15, 0.55, word, transform=panels[place].transAxes, ha="center", fontsize=9)
    clip = panels["j"]
    clip.set(xticks=[], yticks=[], facecolor="0.92", box_aspect=1)
    clip.set_title("frozen CLIP", fontsize=9)
    clip.text(0.5, 0.5, "cosine of\n$f_v(x + P m_p)$\nand $f_t(c)$", ha="center", va="center", fontsize=9)
    before, after = classifier(torch.cat([x, shown.images])).softmax(1).cpu()
    _draw_scores(panels["k"], classifier.class_names, before, after, None)
    return figure


# --- Numbers --------------------------------------------------------------------------------------------------------


def gumbel_figure(
    temperatures: Sequence[float], difference: float, draws: int = 2000, seed: int = 0, hard: bool = False
) -> Figure:
    """Decisions sampled at each temperature, and the gradient that training gets through them; a column each.

    Above: the decisions' values, soft ones or 0 and 1. Below: d soft / d (on - off), as straight-through gradients
    use it, against the gradient of P(on) that it stands for.

    Args:
        difference: logit of on minus logit of off.
        hard: whether the values above are 0 or 1; the gradient is the same.
    """
    noise = gumbel_noise(torch.Size((draws, 2, 1, 1)), generator(seed, "drawing-gumbel"))
    p_on = torch.sigmoid(torch.tensor(difference, dtype=torch.float64)).item()
    figure = Figure(figsize=(3.1 * len(temperatures) + 0.5, 4.4))
    grid = figure.subplots(2, len(temperatures), squeeze=False)
    figure.subplots_adjust(0.62 / figure.get_figwidth(), 0.11, 0.98, 0.89, 0.22, 0.62)
    for temperature, (above, below) in zip(temperatures, grid.T, strict=True):
        logits = torch.tensor([0.0, difference]).view(1, 2, 1, 1).repeat(draws, 1, 1, 1).requires_grad_()
        values = decide(logits, temperature, noise, hard)
        (gradients,) = torch.autograd.grad(values.sum(), logits)
        values, gradient = values.detach().flatten(), gradients[:, 1].flatten()
        share = (values > 0.5).float().mean()
        above.set_title(f"temperature {temperature:.3g}\n{share:.0%} of decisions are on", fontsize=9)
        above.hist(values.numpy(), 40, range=(0, 1), color="#7fb3d5", histtype="stepfilled")
        below.set_title(f"gradient: variance {gradient.var():.2g}", fontsize=9)
        steepest = 0.25 / temperature
        below.hist(gradient.numpy(), 40, range=(0, steepest), color="0.75", histtype="stepfilled", log=True)
        below.yaxis.set_minor_formatter(NullFormatter())
        for axes, drawn, name, exact, words in (
            (above, values, "P(on)", p_on, "decision"),
            (below, gradient, "exact", p_on * (1 - p_on), "d decision / d (on - off)"),
        ):
            axes.axvline(exact, color="black", label=f"{name} {exact:.3f}")
            axes.axvline(drawn.mean().item(), color="#d08a00", ls="--", label=f"mean {drawn.mean():.3f}")
            axes.set_xlabel(words, fontsize=9)
            axes.tick_params(labelsize=8)
            axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("samples", fontsize=9)
    grid[1][0].set_ylabel("samples (log scale)", fontsize=9)
    return figure


def curves_figure(
    histories: Mapping[str, pd.DataFrame | Sequence[Mapping[str, Any]]],
    metrics: Sequence[str] = ("loss", "val_accuracy", "temperature", "share_on"),
) -> Figure:
    """Runs epoch by epoch: a panel for each metric, a line for each run.

    Args:
        histories: a run's name and its rows, one an epoch, as `watching.read_history` or a training's watch has them.
        metrics: columns of those rows; a run without one has no line.
    """
    named = len(histories) > 1
    size = (2.6 * len(metrics) + 0.3, 2.4 + (0.17 * len(histories) if named else 0))
    figure = Figure(figsize=size, layout="constrained")
    for metric, axes in zip(metrics, figure.subplots(1, len(metrics), squeeze=False)[0], strict=True):
        title = METRIC_TITLES.get(metric, metric)
        for i, (name, rows) in enumerate(histories.items()):
            colour, dash = _LINES[i % len(_LINES)]
            known = pd.DataFrame(rows).reindex(columns=["epoch", metric]).dropna()
            shown = known[metric] * (100 if "(%)" in title else 1)
            marks = {"markersize": 4, "markevery": max(1, len(known) // 10)}
            axes.plot(known["epoch"], shown, dash, color=colour, label=name, **marks)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    if named:
        lines, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower left", fontsize=8, frameon=False)
    return figure
