"""Teaching figures: what a step of the method does, drawn from its own tensors (matplotlib without global state)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from open_clip import OPENAI_DATASET_STD
from torch import Tensor

from adavipro.classifier import FrozenClassifier
from adavipro.datasets.images import read_image
from adavipro.io import data_folder, generator
from adavipro.lessons.figures import MASK_PANELS, plain
from adavipro.method import AdaViPro
from adavipro.prompts import frame_support
from adavipro.where import EdgeDetector, decide, enlarge, gumbel_noise

PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket")  # data/photographs/README.md has sources and licences
# A line of a run: lightness, dash and marker tell runs apart without colour.
_LINES = (("#103a70", "-o"), ("#d08a00", "--s"), ("0.45", ":^"), ("#7fb3d5", "-.D"), ("0.0", "-v"))
METRIC_TITLES = {
    "loss": "training loss", "val_accuracy": "validation accuracy (%)", **MASK_PANELS,
    "logit_gap": "median of |on - off|", "flips": "decisions that the noise flips (%)",
    "soft": "decisions still soft (%)",
}  # fmt: skip


def photographs(names: Sequence[str] = PHOTOGRAPHS) -> Tensor:
    """Read photographs that ship with the project, by name. Returns uint8 (n, 3, 224, 224)."""
    folder = data_folder() / "photographs"
    return torch.stack([read_image(folder / f"{name}.jpg", 224) for name in names])


def _unnormalised(images: Tensor, classifier: FrozenClassifier) -> Tensor:
    """Turn normalised images (b, 3, h, w) back into [0, 1]; `_show` clips them for the screen."""
    return images * classifier.std + classifier.mean


# --- Rows of pictures ---------------------------------------------------------------------------------------------


def grid_figure(rows: Mapping[str, Tensor] | Sequence[Tensor], columns: Sequence[str] = ()) -> Figure:
    """Rows of pictures and maps under one another.

    Args:
        rows: by row title, or without titles, either images (n, 3, h, w), uint8 or in [0, 1], or maps (n, h, w) of any
            range. A map without negative values goes from black at 0 to white; one with a sign is white at 0, orange
            below and purple above. Half a per cent of a row's values may be clipped.
        columns: titles of the n columns.
    """
    named = isinstance(rows, Mapping)
    titled = dict(rows) if isinstance(rows, Mapping) else dict(enumerate(rows))
    n = len(next(iter(titled.values())))
    size = (1.2 * n + (1.0 if named else 0.1), 1.2 * len(titled) + (0.3 if columns else 0.1))
    figure = Figure(figsize=size, layout="constrained")
    for line, (name, row) in zip(figure.subplots(len(titled), n, squeeze=False), titled.items(), strict=True):
        if named:
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for axes, picture in zip(line, row, strict=True):
            _show(axes, picture, row)
    for axes, title in zip(figure.axes, columns, strict=False):
        axes.set_title(title, fontsize=8)
    return figure


def _show(axes: Axes, picture: Tensor, like: Tensor | None = None) -> None:
    """Draw an image (3, h, w), uint8 or in [0, 1], or a map (h, w), whose NaN are grey.

    Args:
        like: maps that say where the colours end: at 0 and nearly the most, or as far from 0 on both sides.
    """
    values = (picture if like is None else like).detach().float().nan_to_num()
    high = max(values.abs().flatten().quantile(0.995).item(), 1e-6)
    picture = picture.detach().cpu() / (255 if picture.dtype == torch.uint8 else 1)
    if picture.ndim == 3:
        picture = picture.clamp(0, 1).permute(1, 2, 0)
    low = -high if values.min() < 0 else 0.0
    colours = "gray" if low == 0 else "PuOr"  # black is nothing, never less than nothing
    axes.imshow(picture.numpy(), cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes.set(xticks=[], yticks=[], facecolor="0.7")


def frames_figure(images: Tensor, widths_px: Sequence[int], seed: int = 0) -> Figure:
    """Images under frames of growing width: a row an image, a column a width (the paper's Figure 1).

    The frame is a template as VP's training starts from it, N(0, 1) of a seed, added after CLIP's normalisation; the
    sum is clipped for the screen only. Images are uint8 (b, 3, s, s), and come first as they are.
    """
    side = images.shape[-1]
    template = torch.randn(1, 3, side, side, generator=generator(seed, "template"))
    added = template * torch.tensor(OPENAI_DATASET_STD).view(1, 3, 1, 1)
    columns = {"as it is": images.cpu() / 255}
    for width in widths_px:
        support = frame_support(side, width)
        columns[f"{width} px, {100 * support.float().mean():.0f} % covered"] = (
            images.cpu() / 255 + added * support
        )
    return grid_figure(list(torch.stack(list(columns.values()), 1)), list(columns))


@torch.no_grad()
def picture_figure(
    classifier: FrozenClassifier, images: Tensor, methods: Mapping[str, AdaViPro], labels: Tensor
) -> Figure:
    """Images as they are, as each method shows them to the classifier, and each mask (the paper's Figure 4).

    Args:
        images: uint8 (b, 3, h, w).
        methods: trained methods by row title; those with a mask generator get a second row with their masks, white
            where they are on and grey where the prompt cannot reach.
        labels: (b,) true classes, named in the first row; under them the predictions, grey with a cross where wrong.
    """
    x = classifier.normalise(images.to(classifier.mean.device))
    rows, scores = {"raw": _unnormalised(x, classifier)}, {"raw": classifier(x)}
    for name, method in methods.items():
        shown = method(x)
        rows[name], scores[name] = _unnormalised(shown.images, classifier), classifier(shown.images)
        if method.masks is not None:
            rows[f"{name}\nmask"] = shown.mask[:, 0].float().masked_fill(~method.prompt.support, torch.nan)
    figure = grid_figure(rows)
    for name, found in scores.items():
        line = figure.axes[len(images) * list(rows).index(name) :]
        for axes, best, label in zip(line, found.argmax(1).tolist(), labels.tolist(), strict=False):
            title = f"true: {classifier.class_names[label]}\n" if name == "raw" else ""
            title += classifier.class_names[best] + ("" if best == label else " ✗")
            axes.set_title(title, fontsize=8, pad=2, color="black" if best == label else "0.4")
    return figure


def forming_figure(masks_by_epoch: Sequence[Tensor], images: Tensor, before: Tensor | None = None) -> Figure:
    """How the masks of a few images form: a row for each image, a column for each epoch, after the image itself.

    Regions that are on are light, those that are off dark; the image shows through. Of a long run, ten epochs. Masks
    are the decisions (b, 1, r, r) of an epoch, and those before training where given; images are uint8 (b, 3, h, w).
    """
    pictures = images.cpu() / 255
    columns, decided = {"image": pictures}, {} if before is None else {"before": before}
    last = len(masks_by_epoch) - 1
    for epoch in dict.fromkeys(round(i * last / 9) for i in range(10)) if last > 9 else range(last + 1):
        decided[f"epoch {epoch + 1}"] = masks_by_epoch[epoch]
    for name, decisions in decided.items():
        mask = enlarge(decisions.cpu().float(), images.shape[-1] // decisions.shape[-1])
        columns[name] = (0.35 * pictures.mean(1, keepdim=True) + 0.65 * mask).expand_as(pictures)
    return grid_figure(list(torch.stack(list(columns.values()), 1)), list(columns))


# --- One image through the method -----------------------------------------------------------------------------------


@torch.no_grad()
def explain_figure(
    classifier: FrozenClassifier, method: AdaViPro, image: Tensor, label: int, decisions: Tensor | None = None
) -> Figure:
    """Everything between an image and its class: edges, logits, mask, prompted image, scores before and after.

    VP has no edges and no logits, so their panels are left out. What the prompt cannot reach is grey. The image
    is uint8 (3, h, w), its label is marked among the scores; decisions (1, 1, r, r) set the regions by hand.
    """
    x = classifier.normalise(image[None].to(classifier.mean.device))
    shown, logits = method(x, decisions=decisions), method.region_logits(x)
    panels = {"image": image}
    if logits is not None and method.edges is not None:
        panels["edges"] = method.edges(x)[0].abs().mean(0)[1:-1, 1:-1]  # its border outshines all
        difference = logits.diff(dim=1)[0, 0]
        panels["logits: on minus off"] = difference.masked_fill(~method.live_regions(), torch.nan)
    panels["mask: white is on"] = shown.mask[0, 0].float().masked_fill(~method.prompt.support, torch.nan)
    panels["prompted image"] = _unnormalised(shown.images, classifier)[0]

    figure = Figure(figsize=(1.75 * len(panels) + 3.5, 2.0), layout="constrained")
    *pictured, last = figure.subplots(1, len(panels) + 1, width_ratios=[1] * len(panels) + [1.3])
    for axes, (title, values) in zip(pictured, panels.items(), strict=True):
        _show(axes, values)
        axes.set_title(title, fontsize=9)
    before, after = 100 * classifier(torch.cat([x, shown.images])).softmax(1).cpu().numpy()
    leading = np.maximum(before, after)
    leading[label] = 101
    chosen = np.argsort(-leading)[:5]
    places, names = np.arange(len(chosen)), classifier.class_names
    last.barh(places - 0.2, before[chosen], 0.38, color="0.75", label="zero-shot")
    last.barh(places + 0.2, after[chosen], 0.38, color="#103a70", label="prompted")
    last.set_yticks(places, [names[k] + (" ✓" if k == label else "") for k in chosen.tolist()], fontsize=8)
    last.set(xlim=(0, 100), xticks=[0, 50, 100])
    last.invert_yaxis()
    last.set_title("class scores (%)", fontsize=9)
    last.legend(fontsize=7.5, frameon=False, loc="lower right")
    return figure


@torch.no_grad()
def architecture_figure(classifier: FrozenClassifier, method: AdaViPro, image: Tensor) -> Figure:
    """An image, uint8 (3, h, w), through AdaViPro, tensor by tensor (Figure 3); heavy borders: made by what learns."""
    x = classifier.normalise(image[None].to(classifier.mean.device))
    assert isinstance(method.edges, EdgeDetector)
    edges, template, shown = method.edges(x), method.prompt(), method(x)
    hidden, logits = method.masks.convergence(edges).relu(), method.masks(edges)
    difference, mask = logits.diff(dim=1)[0, 0], shown.mask[0, 0]
    steps = [  # title, tensor, what is drawn of it, the word on the way to the next
        ("image x", x, image, "$F_e$"),
        ("edges $m_e$", edges, edges[0].abs().mean(0), "$F_c$"),
        ("$F_c(m_e)$", hidden, hidden[0].mean(0), "$F_p$"),
        ("logits, on - off", logits, difference.masked_fill(~method.live_regions(), torch.nan), r"$\Phi$"),
        ("mask $m_p$", shown.mask, mask.masked_fill(~method.prompt.support, torch.nan), r"$\times$"),
        ("template P", template, _unnormalised(template, classifier)[0], "+ x"),
        (r"$x + P \cdot m_p$", shown.images, _unnormalised(shown.images, classifier)[0], "CLIP"),
    ]
    figure = Figure(figsize=(1.8 * len(steps), 1.9))
    panels = figure.subplots(1, len(steps), gridspec_kw={"left": 0.01, "right": 0.95, "wspace": 0.4})
    for axes, (title, tensor, picture, word) in zip(panels, steps, strict=True):
        learns = word in ("$F_p$", r"$\Phi$", "+ x")  # what made this panel
        _show(axes, picture)
        axes.set_title(title, fontsize=9, fontweight="bold" if learns else "normal")
        axes.set_xlabel(" x ".join(map(str, tensor.shape[1:])), fontsize=8)
        axes.spines[:].set_linewidth(2.5 if learns else 0.6)
        arrow = {"arrowstyle": "-|>", "color": "0.2"}
        axes.annotate("", (1.35, 0.5), (1.04, 0.5), "axes fraction", arrowprops=arrow)
        axes.text(1.19, 0.55, word, transform=axes.transAxes, ha="center", fontsize=9)
    return figure


# --- Numbers --------------------------------------------------------------------------------------------------------


def gumbel_figure(temperatures: Sequence[float], difference: float, draws: int, seed: int) -> Figure:
    """Decisions sampled at each temperature, and the gradient that training gets through them; a column each.

    Above: the soft decisions. Below: d decision / d (on - off), against the gradient of P(on) that it stands for; what
    is smaller than 0.001 is in the first bar. Rows share their axes. The logits' `difference` is on minus off.
    """
    noise = gumbel_noise(torch.Size((draws, 2, 1, 1)), generator(seed, "drawing-gumbel"))
    p_on = torch.sigmoid(torch.tensor(difference, dtype=torch.float64)).item()
    figure = Figure(figsize=(2.4 * len(temperatures) + 0.4, 4.8), layout="constrained")
    grid = figure.subplots(2, len(temperatures), squeeze=False, sharex="row", sharey="row")
    for temperature, (above, below) in zip(temperatures, grid.T, strict=True):
        logits = torch.tensor([0.0, difference]).view(1, 2, 1, 1).repeat(draws, 1, 1, 1).requires_grad_()
        values = decide(logits, temperature, noise)
        (gradients,) = torch.autograd.grad(values.sum(), logits)
        values, gradient = values.detach().flatten(), gradients[:, 1].flatten()
        share = 100 * (values > 0.5).float().mean()
        above.set_title(f"temperature {temperature:.3g}\n{share:.0f} % of decisions on", fontsize=10)
        below.set_title(f"standard deviation {gradient.std():.2g}", fontsize=10)
        for axes, drawn, bins, name, exact, words in (
            (above, values, np.linspace(0, 1, 21), "P(on)", p_on, "decision"),
            (below, gradient, np.geomspace(1e-3, 5, 21), "exact", p_on * (1 - p_on), "gradient"),
        ):
            inside, each = drawn.numpy().clip(bins[0], bins[-1]), np.full(draws, 100 / draws)
            axes.hist(inside, bins, weights=each, color="#7fb3d5")
            axes.axvline(exact, color="black", label=f"{name} {exact:.2f}")
            axes.axvline(drawn.mean().item(), color="#d08a00", ls="--", label=f"mean {drawn.mean():.2f}")
            axes.set_xlabel(words, fontsize=10)
            axes.margins(y=0.5)  # room for the legend
            axes.legend(fontsize=9, loc="upper left" if axes is below else "upper center", framealpha=1)
        below.set(xscale="log", xticks=(1e-3, 1e-2, 0.1, 1), xticklabels=("≤0.001", "0.01", "0.1", "1"))
    figure.supylabel("draws (%)", fontsize=10)
    return figure


def curves_figure(
    histories: Mapping[str, pd.DataFrame | Sequence[Mapping[str, Any]]],
    metrics: Sequence[str] = ("loss", "val_accuracy", "temperature", "share_on"),
) -> Figure:
    """Runs epoch by epoch, counted from 1: a panel for each metric, a line for each run.

    Args:
        histories: a run's name and its rows, one an epoch, as a run's metrics.csv or a training's watch has them.
        metrics: columns of those rows; a run without one has no line.
    """
    size = (2.6 * len(metrics) + 0.3, 2.4 + 0.17 * len(histories))
    figure = Figure(figsize=size, layout="constrained")
    for metric, axes in zip(metrics, figure.subplots(1, len(metrics), squeeze=False)[0], strict=True):
        title = METRIC_TITLES.get(metric, metric)
        for i, (name, rows) in enumerate(histories.items()):
            colour, dash = _LINES[i % len(_LINES)]
            known = pd.DataFrame(rows).reindex(columns=["epoch", metric]).dropna()
            shown = known[metric] * (100 if "(%)" in title else 1)
            marks = {"markersize": 4, "markevery": max(1, len(known) // 10)}
            axes.plot(known["epoch"] + 1, shown, dash, color=colour, label=name, **marks)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.tick_params(labelsize=8)
        plain(axes)
    lines, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower left", fontsize=8, frameon=False)
    return figure
