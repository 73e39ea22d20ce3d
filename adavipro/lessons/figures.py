"""Results and pictures as matplotlib figures (object-oriented, no global state)."""

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from adavipro.classifiers import FrozenClassifier
from adavipro.files import write_atomically
from adavipro.method import AdaViPro
from adavipro.studies import own_value
from adavipro.tables import MEAN, ablation_matrix, of_studies, summarise, with_mean

# Lightness, marker and dash tell the methods apart without colour.
STYLE: dict[str, dict[str, Any]] = {
    "zero-shot": {"color": "0.45", "linestyle": ":", "label": "zero-shot"},
    "vp": {"color": "#d08a00", "linestyle": "--", "marker": "s", "label": "VP"},
    "vp-tuned": {
        "color": "#d08a00", "linestyle": ":", "marker": "D", "mfc": "none", "label": "VP, rate tuned for each width",
    },
    "adavipro": {"color": "#103a70", "linestyle": "-", "marker": "o", "label": "AdaViPro"},
    "linear-probe": {"color": "0.35", "linestyle": "", "marker": "^", "label": "linear probe"},
    "fine-tune": {"color": "0.0", "linestyle": "", "marker": "*", "ms": 10, "label": "full fine-tuning"},
}  # fmt: skip


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and as SVG beside it. Returns both paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for target in paths:
        content = io.BytesIO()
        figure.savefig(content, format=target.suffix[1:], dpi=120, bbox_inches="tight")
        write_atomically(target, content.getvalue())
    return paths


def draw_against_width(axes: Axes, rows: Iterable[dict[str, Any]], value: str = "test_accuracy") -> None:
    """Draw a value in percent against frame width for one data set, with 95 % confidence bands over seeds."""
    summary = summarise(rows, value)
    for method, style in STYLE.items():
        points = [r for r in summary if r["method"] == method]
        if method == "zero-shot":
            for r in points:
                axes.axhline(float(r["mean"]), **style)
            continue
        points.sort(key=lambda r: int(r["prompt_px"]))
        widths, means = [int(r["prompt_px"]) for r in points], [float(r["mean"]) for r in points]
        if points:
            low, high = (
                [m + side * float(r["ci95"] or 0) for m, r in zip(means, points, strict=True)]
                for side in (-1, 1)
            )
            axes.fill_between(widths, low, high, color=style["color"], alpha=0.2, linewidth=0)
            axes.plot(widths, means, **style)
    axes.set_xlabel("frame width (px)")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def accuracy_figure(rows: Iterable[dict[str, Any]]) -> Figure:
    """Accuracy against frame width, a panel for each data set (the paper's Figure 2) and for their mean."""
    rows = with_mean(of_studies(rows, "main", "vp-tuned"))
    names = sorted({r["dataset"] for r in rows}, key=lambda name: (name == MEAN, name))
    columns = min(3, len(names))
    lines_of_panels = math.ceil(len(names) / columns)
    figure = Figure(figsize=(0.8 + 3.1 * columns, 0.4 + 2.8 * lines_of_panels), layout="constrained")
    panels = figure.subplots(lines_of_panels, columns, squeeze=False)
    for axes, name in zip(panels.flat, names, strict=False):
        draw_against_width(axes, [r for r in rows if r["dataset"] == name])
        axes.set_title(name)
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel("test accuracy (%)")
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, frameon=False, ncols=len(labels), loc="outside lower center")
    return figure


def price_figure(rows: Iterable[dict[str, Any]]) -> Figure:
    """Accuracy against the number of learned parameters, a panel for each data set and for their mean.

    Args:
        rows: a row a run, each method at one width (as `adavipro.effects.with_baselines` gives them).
    """
    rows = list(rows)
    counted = with_mean(rows, "parameters")
    names = sorted({r["dataset"] for r in counted}, key=lambda name: (name == MEAN, name))
    figure = Figure(figsize=(0.8 + 2.4 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        for point in (r for r in summarise(with_mean(rows)) if r["dataset"] == name):
            style = STYLE[point["method"]]
            if point["method"] == "zero-shot":  # learns nothing: no place on a log axis
                axes.axhline(float(point["mean"]), **style)
                continue
            own = (r for r in counted if (r["dataset"], r["method"]) == (name, point["method"]))
            learned = float(next(own)["parameters"])
            interval = float(point["ci95"]) if point["ci95"] else None
            axes.errorbar(learned, float(point["mean"]), interval, capsize=3, **style)
        axes.set(title=name, xlabel="parameters", xscale="log", xlim=(300, 1e6))
        _plain(axes)
    figure.axes[0].set_ylabel("test accuracy (%)")
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, frameon=False, ncols=len(labels), loc="outside lower center")
    return figure


MASK_PANELS = {
    "share_on": "regions on (%)",
    "object_cover": "object pixels under the prompt (%)",
    "mask_diversity": "how much masks differ (%)",
}


def masks_figure(rows: Iterable[dict[str, Any]]) -> Figure:
    """Where the prompt lies, on the mean over data sets: regions on, object covered, masks' differences."""
    rows = of_studies(rows, "main")
    figure = Figure(figsize=(3.3 * len(MASK_PANELS), 3.0), layout="constrained")
    for axes, (value, title) in zip(figure.subplots(1, len(MASK_PANELS)), MASK_PANELS.items(), strict=True):
        known = [r for r in rows if r[value] not in ("", None)]
        draw_against_width(axes, [r for r in with_mean(known, value) if r["dataset"] == MEAN], value)
        axes.set_title(title, fontsize=10)
    figure.axes[0].legend(frameon=False)
    return figure


ABLATION_PANELS = {
    "edges": "edge detector (Table 4)",
    "temperature_gamma": "temperature's gamma (Table 5)",
    "region_px": "region, px (Table 6)",
    "generator_width": "generator width (Table 7)",
    "hard": "hard decisions",
    "standardise": "standardised channels",
    "random_share": "masks",
}


def ablations_figure(rows: Iterable[dict[str, Any]]) -> Figure:
    """Each ablation: difference from the recipe's own value, on the mean, with its 95 % interval over pairs of runs."""
    rows = list(rows)
    titles = {k: v for k, v in ABLATION_PANELS.items() if of_studies(rows, k)}
    figure = Figure(figsize=(1.9 * len(titles) + 0.5, 3.0), layout="constrained")
    for axes, (study, title) in zip(
        figure.subplots(1, len(titles), sharey=True), titles.items(), strict=True
    ):
        own = own_value(study)
        lines = ablation_matrix(rows, study, own)
        for place, line in enumerate(lines):
            mean, _, half = (line["difference"] or "0").partition(" ± ")
            filled = {"mfc": "none"} if line[study] == own else {}
            axes.errorbar(place, float(mean), float(half or 0), fmt="o", capsize=3, color="#103a70", **filled)
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set_xticks(range(len(lines)), [line[study] for line in lines])
        axes.set_xlim(-0.5, len(lines) - 0.5)
        axes.set_title(title, fontsize=9)
        _plain(axes)
    figure.axes[0].set_ylabel("points against the recipe (o)")
    return figure


def to_picture(images: Tensor, classifier: FrozenClassifier) -> Tensor:
    """Turn normalised images (b, 3, h, w) back into [0, 1], channels last, clipped for the screen."""
    picture = images * classifier.std + classifier.mean
    return picture.clamp(0, 1).permute(0, 2, 3, 1).cpu()


@torch.no_grad()
def picture_figure(
    classifier: FrozenClassifier, images: Tensor, methods: dict[str, AdaViPro], labels: Tensor
) -> Figure:
    """Images as they are, as each method shows them to the classifier, and each mask (the paper's Figure 4).

    Args:
        images: uint8 (b, 3, h, w).
        methods: trained methods by row title; those with a mask generator get a second row with their masks.
        labels: (b,) true classes; a prediction's title is black where it is right.
    """
    x = classifier.normalise(images.to(classifier.mean.device))
    rows: list[tuple[str, Tensor, Tensor | None]] = [("raw", to_picture(x, classifier), classifier(x))]
    for name, method in methods.items():
        shown = method(x)
        rows.append((name, to_picture(shown.images, classifier), classifier(shown.images)))
        if method.masks is not None:
            reach = (shown.mask * method.prompt.support)[:, 0].cpu()
            rows.append((f"{name}\nmask", reach, None))
    count = len(images)
    figure = Figure(figsize=(1.1 * count + 0.9, 1.28 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, pictures, scores) in zip(grid, rows, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for i, axes in enumerate(line):
            axes.imshow(pictures[i].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if scores is not None:
                found = int(scores[i].argmax())
                right = found == int(labels[i])
                axes.set_title(
                    classifier.class_names[found] + ("" if right else " ✗"),
                    fontsize=6.5,
                    pad=2,
                    color="black" if right else "0.5",
                )
    return figure
