import matplotlib.pyplot as plt
import pytest
import torch
from helpers import noisy_split
from PIL import Image

from adavipro import figures
from adavipro.edges import EdgeDetector
from adavipro.masks import MaskGenerator
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt


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
    return [
        {"dataset": name, "method": method, "prompt_px": px, "test_accuracy": accuracy + (px or 0) / 100}
        for name, method, px in cells
        for accuracy in (0.4, 0.6)
    ]


def test_accuracy_figure_has_a_panel_a_data_set_and_one_for_their_mean_with_intervals(rows):
    figure = figures.accuracy_figure(rows)
    assert [axes.get_title() for axes in figure.axes] == ["digits", "letters", "mean"]
    digits, letters, mean = figure.axes
    (line,) = (line for line in mean.lines if line.get_label() == "zero-shot")
    assert set(line.get_ydata()) == {50}
    (vp,) = (line for line in mean.lines if line.get_label() == "VP")
    assert list(vp.get_xdata()) == [8]  # VP at 8 px is all that both data sets have
    for axes, labels in ((digits, ["VP", "AdaViPro"]), (letters, ["VP"])):
        drawn = [line for line in axes.lines if line.get_label() != "zero-shot"]
        assert [line.get_label() for line in drawn] == labels
        assert len(axes.collections) == len(labels)
    lines = [line for line in digits.lines if line.get_label() != "zero-shot"]
    for line, band in zip(lines, digits.collections, strict=True):
        assert list(line.get_xdata()) == [8, 28]
        assert line.get_ydata() == pytest.approx([58, 78])
        (outline,) = (path.vertices for path in band.get_paths())
        at_8_px = outline[outline[:, 0] == 8][:, 1]
        height = at_8_px.max() - at_8_px.min()
        assert height == pytest.approx(2 * 12.706 * 10, rel=1e-3)  # t of two values x standard error
    zero_shot = next(line for line in letters.lines if line.get_label() == "zero-shot")
    assert set(zero_shot.get_ydata()) == {50}


def test_legend_names_every_method(rows):
    told = [text.get_text() for text in figures.accuracy_figure(rows).legends[0].get_texts()]
    assert sorted(told) == ["AdaViPro", "VP", "zero-shot"]


@torch.no_grad()
def test_picture_figure_shows_each_image_as_the_classifier_sees_it_and_each_mask(clip, rng):
    split = noisy_split(3, seed=1)
    vp = AdaViPro(FramePrompt(56, 8, generator=rng))
    adavipro = AdaViPro(
        FramePrompt(56, 28, generator=rng), EdgeDetector(), MaskGenerator(56, 8, 2, generator=rng)
    )
    figure = figures.picture_figure(clip, split.images, {"VP-8": vp, "AdaViPro-28": adavipro}, split.labels)
    lines = [figure.axes[i : i + 3] for i in range(0, len(figure.axes), 3)]
    assert [line[0].get_ylabel() for line in lines] == ["raw", "VP-8", "AdaViPro-28", "AdaViPro-28\nmask"]

    x = (split.images.float() / 255 - clip.mean) / clip.std
    shown = [x, vp(x).images, adavipro(x).images]
    for line, images in zip(lines, shown, strict=False):
        for i, axes in enumerate(line):
            expected = (images[i] * clip.std[0] + clip.mean[0]).clamp(0, 1).permute(1, 2, 0)
            assert torch.tensor(axes.images[0].get_array()).allclose(expected, atol=1e-6)
            found = int(clip(images)[i].argmax())
            wrong = "" if found == split.labels[i] else " ✗"
            assert axes.get_title() == clip.class_names[found] + wrong
    for mask, axes in zip(adavipro(x).mask[:, 0], lines[3], strict=True):
        assert torch.equal(torch.tensor(axes.images[0].get_array()), mask)


def test_figure_is_saved_as_png_and_svg(rows, tmp_path):
    png, svg = figures.save(figures.accuracy_figure(rows), tmp_path / "new" / "accuracy")
    assert (png, svg) == (tmp_path / "new" / "accuracy.png", tmp_path / "new" / "accuracy.svg")
    with Image.open(png) as image:
        assert min(image.size) > 300
    assert "<svg" in svg.read_text()


def test_a_figure_that_cannot_be_written_leaves_the_former_one(tmp_path, monkeypatch, rows):
    figure = figures.accuracy_figure(rows)
    figures.save(figure, tmp_path / "a")
    before = (tmp_path / "a.png").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(
        OSError, match=r"could not write .*a.png: No space left on device; it needs [\d,]+ bytes"
    ):
        figures.save(figure, tmp_path / "a")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.png", "a.svg"]
