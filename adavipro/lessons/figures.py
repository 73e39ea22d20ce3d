"""Results as matplotlib figures (object-oriented, no global state); each takes rows as `report.results.read` gives."""

import io
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adavipro.io import write_atomically
from adavipro.report.results import MEAN, of_studies, summarise
from adavipro.report.studies import own_value
from adavipro.report.tables import ablation, with_baselines

# Lightness, marker and dash tell the methods apart without colour.
STYLE: dict[str, dict[str, Any]] = {
    "zero-shot": {"color": "0.45", "linestyle": ":", "label": "zero-shot"},
    "vp": {"color": "#d08a00", "linestyle": "--", "marker": "s", "label": "VP"},
    "adavipro": {"color": "#103a70", "linestyle": "-", "marker": "o", "label": "AdaViPro"},
    "linear-probe": {"color": "0.35", "linestyle": "", "marker": "^", "label": "linear probe"},
    "fine-tune": {"color": "0.0", "linestyle": "", "marker": "*", "ms": 10, "label": "full fine-tuning"},
    "soft-masks": {"color": "#7fb3d5", "linestyle": "-.", "marker": "v", "label": "soft masks"},
    "random-masks": {"color": "#7fb3d5", "linestyle": ":", "marker": "x", "label": "random masks"},
}  # fmt: skip
MASK_PANELS = {
    "share_on": "regions on (%)",
    "object_cover": "object pixels under the prompt (%)",
    "mask_diversity": "how much masks differ (%)",
}
ABLATION_PANELS = {
    "edges": "edge detector (Table 4)",
    "temperature_gamma": "temperature (Table 5)",
    "region_px": "region, px (Table 6)",
    "generator_width": "generator width (Table 7)",
    "relu": "ReLU in the generator",
    "hard": "hard decisions",
    "standardise": "standardised channels",
}
SIZES = ("region_px", "generator_width")
TICKS = {"True": "with", "False": "without", "None": "falls to 0.1", "0.98": "0.98 an epoch"}


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and as SVG beside it, and fix its layout. Returns both paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(120)
    figure.draw_without_rendering()  # this lays it out, once for both files
    figure.set_layout_engine("none")
    paths = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for target in paths:
        write_atomically(target, rendered(figure, format=target.suffix[1:], dpi=120, bbox_inches="tight"))
    return paths


def rendered(figure: Figure, **how: Any) -> bytes:
    """A figure as the content of a file, as `Figure.savefig` writes it."""
    content = io.BytesIO()
    figure.savefig(content, **how)
    return content.getvalue()


def _draw(axes: Axes, summary: pd.DataFrame, x: str = "prompt_px") -> None:
    """Draw one data set's rows of `results.summarise` against a column, with 95 % confidence intervals over seeds."""
    for method, style in STYLE.items():
        points = summary[summary["method"] == method].sort_values(x)
        means = [estimate.mean for estimate in points["estimate"]]
        if method == "zero-shot" or points[x].isna().all():  # has no prompt: the same everywhere
            for mean in means:
                axes.axhline(mean, **{**style, "linestyle": style["linestyle"] or "-.", "clip_on": False})
        elif len(points):
            halves = [estimate.half or 0 for estimate in points["estimate"]]
            axes.errorbar(points[x].astype(float), means, halves, capsize=2, **style)
    if x == "prompt_px":
        axes.set_xticks(sorted(summary[x].dropna().unique()))
    plain(axes)


def plain(axes: Axes) -> None:
    """Leave lines across at the ticks, and no box."""
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _by_dataset(summary: pd.DataFrame, x: str, words: str) -> Figure:
    """Accuracy against a column of a summary, a panel for their mean, where it is known, and for each data set."""
    names = sorted(summary["dataset"].unique(), key=lambda name: (name != MEAN, name))
    rows, columns = -(-len(names) // 3), min(3, len(names))
    figure = Figure(figsize=(0.8 + 3.1 * columns, 0.4 + 2.8 * rows), layout="constrained")
    shared = None
    for place, name in enumerate(names, 1):
        shared = axes = figure.add_subplot(rows, columns, place, title=name, xlabel=words, sharey=shared)
        _draw(axes, summary[summary["dataset"] == name], x)
    axes.set_ylim(max(0, axes.get_ylim()[0]), min(102, axes.get_ylim()[1]))  # an interval may reach beyond
    figure.supylabel("test accuracy (%)", fontsize=10)
    _add_legend(figure)
    return figure


def _add_legend(figure: Figure) -> None:
    """One legend for all panels, under them."""
    handles = {
        str(line.get_label()): line for axes in figure.axes for line in axes.get_legend_handles_labels()[0]
    }
    figure.legend(
        [*handles.values()], [*handles], frameon=False, ncols=max(1, len(handles)), loc="outside lower center"
    )


def accuracy_figure(rows: pd.DataFrame) -> Figure:
    """Accuracy against frame width (the paper's Figure 2): a panel for the mean, and one for each data set."""
    return _by_dataset(summarise(of_studies(rows, "main")), "prompt_px", "frame width (px)")


def price_figure(rows: pd.DataFrame) -> Figure:
    """Accuracy against the number of learned parameters, a panel for the mean and for each data set.

    Prompts at the narrow frame, beside the baselines that ship.
    """
    rows = with_baselines(rows)
    counted = rows.groupby(["dataset", "method"], as_index=False)["parameters"].mean()
    means = counted.groupby("method", as_index=False)["parameters"].mean().assign(dataset=MEAN)
    figure = _by_dataset(summarise(rows).merge(pd.concat([counted, means])), "parameters", "parameters")
    for axes in figure.axes:
        axes.set(xscale="log", xlim=(300, 1e6))
    return figure


def masks_figure(rows: pd.DataFrame) -> Figure:
    """Where the prompt lies, on the mean over data sets: regions on, object covered, masks' differences."""
    figure = Figure(figsize=(3.3 * len(MASK_PANELS), 3.0), layout="constrained")
    for place, (value, title) in enumerate(MASK_PANELS.items(), 1):
        axes = figure.add_subplot(1, len(MASK_PANELS), place, xlabel="frame width (px)")
        axes.set_title(title, fontsize=10)
        summary = summarise(of_studies(rows, "main"), value)
        _draw(axes, summary[summary["dataset"] == MEAN])
    figure.axes[0].legend(frameon=False)
    return figure


def ablations_figure(rows: pd.DataFrame) -> Figure:
    """Each ablation at each width: mean difference from the recipe's own value, with 95 % intervals over pairs."""
    titles = {study: title for study, title in ABLATION_PANELS.items() if len(of_studies(rows, study))}
    columns = max(1, min(4, len(titles)))
    rows_of_panels = -(-len(titles) // columns)
    figure = Figure(figsize=(2.3 * columns + 0.5, 2.7 * rows_of_panels), layout="constrained")
    panels = figure.subplots(rows_of_panels, columns, sharey=True, squeeze=False).flatten()
    for axes in panels[len(titles) :]:
        axes.remove()
    for axes, (study, title) in zip(panels[: len(titles)], titles.items(), strict=True):
        lines, own = ablation(rows, study), own_value(study)
        lines = lines.sort_values(study, key=pd.to_numeric if study in SIZES else None)
        values = [*dict.fromkeys(lines[study])]
        for px, part in lines[lines[study] != own].groupby("frame (px)"):
            widest = px == lines["frame (px)"].max()
            places = [values.index(value) + (0.1 if widest else -0.1) for value in part[study]]
            means, halves = [e.mean for e in part["difference"]], [e.half or 0 for e in part["difference"]]
            style = {"fmt": "o", "color": "#103a70"} if widest else {"fmt": "s", "color": "#7fb3d5"}
            axes.errorbar(places, means, halves, label=f"frame of {px} px", capsize=3, **style)
        recipe = [place for place, value in enumerate(values) if value == own]
        axes.plot(recipe, [0] * len(recipe), "o", color="0.3", mfc="none")
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set_xticks(range(len(values)), [TICKS.get(value, value) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_title(title, fontsize=9)
        plain(axes)
    _add_legend(figure)
    figure.supylabel("points against the recipe (o)", fontsize=10)
    return figure
