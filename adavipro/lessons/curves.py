"""Teaching figures of numbers: how decisions are distributed, and how runs went."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from adavipro.masks import decide, gumbel_noise
from adavipro.seeds import generator

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
    exact = p_on * (1 - p_on)
    figure = Figure(figsize=(3.1 * len(temperatures) + 0.5, 4.4))
    grid = figure.subplots(2, len(temperatures), squeeze=False)
    figure.subplots_adjust(0.62 / figure.get_figwidth(), 0.11, 0.98, 0.89, 0.22, 0.62)
    for temperature, (above, below) in zip(temperatures, grid.T, strict=True):
        logits = torch.tensor([0.0, difference]).view(1, 2, 1, 1).repeat(draws, 1, 1, 1).requires_grad_()
        values = decide(logits, temperature, noise, hard)
        (gradients,) = torch.autograd.grad(values.sum(), logits)
        values, gradient = values.detach().flatten(), gradients[:, 1].flatten()
        above.hist(values.numpy(), bins=40, range=(0, 1), color="#7fb3d5", histtype="stepfilled")
        above.axvline(p_on, color="black", label=f"P(on) = {p_on:.2f}")
        above.axvline(
            values.mean().item(), color="#d08a00", linestyle="--", label=f"mean {values.mean():.2f}"
        )
        share = (values > 0.5).float().mean()
        above.set_title(f"temperature {temperature:.3g}\n{share:.0%} of decisions are on", fontsize=9)
        steepest = 0.25 / temperature
        below.hist(gradient.numpy(), 40, range=(0, steepest), color="0.75", histtype="stepfilled", log=True)
        below.yaxis.set_minor_formatter(NullFormatter())
        below.axvline(exact, color="black", label=f"exact {exact:.3f}")
        below.axvline(
            gradient.mean().item(), color="#d08a00", linestyle="--", label=f"mean {gradient.mean():.3f}"
        )
        below.set_title(f"gradient: variance {gradient.var():.2g}", fontsize=9)
        for axes, words in ((above, "decision"), (below, "d decision / d (on - off)")):
            axes.set_xlabel(words, fontsize=9)
            axes.tick_params(labelsize=8)
            axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("samples", fontsize=9)
    grid[1][0].set_ylabel("samples (log scale)", fontsize=9)
    return figure


def curves_figure(
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    metrics: Sequence[str] = ("loss", "val_accuracy", "temperature", "share_on"),
) -> Figure:
    """Runs epoch by epoch: a panel for each metric, a line for each run.

    Args:
        histories: a run's name and its rows, one an epoch, as metrics.csv holds them.
        metrics: columns of those rows; a run without one has no line.
    """
    named = len(histories) > 1
    legend = 0.17 * len(histories) if named else 0.0  # its height in inches
    longest = 0.5 + 0.08 * max(map(len, histories)) if named else 0.0
    figure = Figure(figsize=(max(2.6 * len(metrics) + 0.3, longest), 2.4 + legend))
    axes_of = dict(zip(metrics, figure.subplots(1, len(metrics), squeeze=False)[0], strict=True))
    bottom, top = ((0.48 + legend) / (2.4 + legend), 1 - 0.25 / (2.4 + legend))
    figure.subplots_adjust(0.42 / figure.get_figwidth(), bottom, 0.985, top, 0.24)
    for metric, axes in axes_of.items():
        factor = 100 if "(%)" in METRIC_TITLES.get(metric, "") else 1
        for i, (name, rows) in enumerate(histories.items()):
            colour, dash = _LINES[i % len(_LINES)]
            known = [r for r in rows if r.get(metric) not in ("", None)]
            x, y = [int(r["epoch"]) for r in known], [factor * float(r[metric]) for r in known]
            axes.plot(x, y, dash, color=colour, markersize=4, markevery=max(1, len(x) // 10), label=name)
        axes.set_title(METRIC_TITLES.get(metric, metric), fontsize=9)
        axes.set_xlabel("epoch", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    if named:
        lines, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="lower left", fontsize=8, frameon=False)
    return figure
