"""Figures of results: what is drawn are the numbers of the tables."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from adavipro.lessons import figures
from adavipro.report import results, studies, tables


@pytest.fixture(autouse=True)
def _no_global_state():
    """No figure of pyplot's, no setting changed."""
    settings = dict(plt.rcParams)
    yield
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == settings


@pytest.fixture
def rows():
    """Results of two data sets, the first with both methods at two widths."""
    cells = [("digits", "zero-shot", None), ("letters", "zero-shot", None), ("letters", "vp", 8)]
    cells += [("digits", method, px) for method in ("vp", "adavipro") for px in (28, 8)]
    lines = [
        {"study": "main", "dataset": name, "method": method, "prompt_px": px, "seed": None if px is None else seed,
         "test_accuracy": accuracy + (px or 0) / 100}
        for name, method, px in cells
        for seed, accuracy in enumerate((0.5,) if px is None else (0.4, 0.6))
    ]  # fmt: skip
    return pd.DataFrame(lines).astype({"prompt_px": "Int64", "seed": "Int64"})


def lines_of(axes):
    """A method's line, and the error bars at its points, by its name in the legend."""
    return {bars.get_label(): bars[0] for bars in axes.containers}


def test_accuracy_ends_at_100_where_an_interval_reaches_beyond(rows):
    two = rows[rows["method"] == "vp"].groupby("dataset").head(2)
    sets = len(two) // 2
    spread = two.assign(prompt_px=8, seed=[0, 1] * sets, test_accuracy=[0.4, 0.9] * sets)  # ± 318 points
    low, high = figures.accuracy_figure(spread).axes[0].get_ylim()
    assert low == 0
    assert 100 <= high < 105


def test_accuracy_figure_has_a_panel_a_data_set_and_one_for_their_mean_with_intervals(rows):
    figure = figures.accuracy_figure(rows)
    assert [axes.get_title() for axes in figure.axes] == ["mean", "digits", "letters"]
    mean, digits, letters = figure.axes
    assert {name: list(line.get_ydata()) for name, line in lines_of(mean).items()} == {
        "VP": pytest.approx([58]),  # at 8 px: all that both data sets have
    }
    assert [line.get_ydata() for line in mean.lines if line.get_label() == "zero-shot"] == [[50, 50]]
    assert set(lines_of(letters)) == {"VP"}
    assert set(lines_of(digits)) == {"VP", "AdaViPro"}
    for name, (_, caps, _) in zip(("VP", "AdaViPro"), digits.containers, strict=True):
        assert list(lines_of(digits)[name].get_xdata()) == [8, 28]
        assert lines_of(digits)[name].get_ydata() == pytest.approx([58, 78])
        low, high = (cap.get_ydata()[0] for cap in caps)
        assert high - low == pytest.approx(2 * 12.706 * 10, rel=1e-3)  # t of two values x standard error
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["zero-shot", "VP", "AdaViPro"]


def test_masks_figure_shows_the_means_that_are_known():
    figure = figures.masks_figure(rows := results.read())
    assert [axes.get_title() for axes in figure.axes] == list(figures.MASK_PANELS.values())
    for axes, column in zip(figure.axes, figures.MASK_PANELS, strict=True):
        summary = results.summarise(results.of_studies(rows, "main"), column).query("dataset == 'mean'")
        for method, name in (("vp", "VP"), ("adavipro", "AdaViPro")):
            means = [
                e.mean for e in summary[summary["method"] == method].sort_values("prompt_px")["estimate"]
            ]
            assert lines_of(axes)[name].get_ydata() == pytest.approx(means)
            assert len(means) == 5


def test_ablations_figure_shows_differences_with_their_intervals_and_the_recipe_at_zero():
    figure = figures.ablations_figure(rows := results.read())
    assert [axes.get_title() for axes in figure.axes] == list(figures.ABLATION_PANELS.values())
    for axes, study in zip(figure.axes, figures.ABLATION_PANELS, strict=True):
        table, own = tables.ablation(rows, study), studies.own_value(study)
        table = table.sort_values(study, key=pd.to_numeric if table[study].str.isdecimal().all() else None)
        told = [figures.TICKS.get(value, value) for value in dict.fromkeys(table[study])]
        assert [label.get_text() for label in axes.get_xticklabels()] == told
        others = table[table[study] != own].groupby("frame (px)")
        for bar, (px, part) in zip(axes.containers, others, strict=True):
            points, (low, high), _ = bar
            means, halves = zip(*(e[:2] for e in part["difference"]), strict=True)
            assert bar.get_label() == f"frame of {px} px"
            assert [told[round(x)] for x in points.get_xdata()] == [
                figures.TICKS.get(v, v) for v in part[study]
            ]
            assert points.get_ydata() == pytest.approx(means)
            assert (high.get_ydata() - low.get_ydata()) / 2 == pytest.approx(halves)
        (recipe,) = (line for line in axes.lines if line.get_markerfacecolor() == "none")
        assert [told[round(x)] for x in recipe.get_xdata()] == [figures.TICKS.get(own, own)]
        assert recipe.get_ydata() == [0]


def test_price_figure_stands_every_method_at_what_it_learns():
    figure = figures.price_figure(rows := results.read())
    counted = tables.with_baselines(rows).groupby(["dataset", "method"])["parameters"].mean()
    summary = results.summarise(tables.with_baselines(rows)).set_index(["dataset", "method"])["estimate"]
    assert figure.axes[0].get_title() == "mean"
    for axes in figure.axes[1:]:
        points = {name: line.get_xydata()[0] for name, line in lines_of(axes).items()}
        assert len(points) == 4
        for method, style in figures.STYLE.items():
            if (axes.get_title(), method) in counted.index and method != "zero-shot":
                cell = axes.get_title(), method
                assert points[style["label"]] == pytest.approx((counted[cell], summary[cell].mean))


def test_figure_is_saved_as_png_and_svg_and_stays_where_the_disk_is_full(rows, tmp_path, monkeypatch):
    figure = figures.accuracy_figure(rows)
    png, svg = figures.save(figure, tmp_path / "new" / "accuracy")
    assert (png, svg) == (tmp_path / "new" / "accuracy.png", tmp_path / "new" / "accuracy.svg")
    with Image.open(png) as image:
        assert min(image.size) > 300
        assert round(image.info["dpi"][0]) == 120
    assert "<svg" in svg.read_text()
    before = png.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match=r"could not write .*accuracy.png: No space left on device; it needs"):
        figures.save(figure, tmp_path / "new" / "accuracy")
    assert png.read_bytes() == before
    assert sorted(p.name for p in png.parent.iterdir()) == ["accuracy.png", "accuracy.svg"]
