import io

import numpy as np
import pytest
import torch
from helpers import noisy_split

from adavipro import curves, drawings, masks
from adavipro.edges import EdgeDetector
from adavipro.masks import MaskGenerator
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt


@pytest.fixture
def adavipro(rng):
    """Frame of 15 px: the inner 3 x 3 of 7 x 7 regions are out of reach."""
    return AdaViPro(
        FramePrompt(56, 15, generator=rng), EdgeDetector(), MaskGenerator(56, 8, 4, generator=rng), hard=True
    )


def pictures(figure):
    """What each panel shows, and the titles above them."""
    panels = figure.axes[0]
    titles = [text.get_text() for text in panels.texts if text.get_position()[1] > 1]
    return dict(
        zip(titles, (np.ma.filled(image.get_array(), np.nan) for image in panels.images), strict=True)
    )


def bars(figure):
    """Percent before and after, by class."""
    axes = figure.axes[1]
    names = [label.get_text() for label in axes.get_yticklabels()]
    before, after = axes.containers[0], axes.containers[1]
    return {n: (b.get_width(), a.get_width()) for n, b, a in zip(names, before, after, strict=True)}


@torch.no_grad()
def test_explain_figure_shows_each_step_from_the_methods_own_tensors(clip, adavipro):
    image = noisy_split(1, seed=1).images[0]
    figure = drawings.explain_figure(clip, adavipro, image, label=2)
    shown = pictures(figure)
    assert list(shown) == ["image", "edges", "logits: on minus off", "mask: white is on", "prompted image"]
    x = clip.normalise(image[None])
    prompted = adavipro(x)
    np.testing.assert_allclose(shown["image"], image.permute(1, 2, 0).numpy() / 255, atol=1e-6)
    np.testing.assert_allclose(shown["edges"], EdgeDetector()(x)[0].abs().mean(0), rtol=1e-5, atol=1e-6)
    live = adavipro.live_regions().numpy()
    logits = shown["logits: on minus off"]
    assert np.isnan(logits).sum() == 9
    assert np.isnan(logits[~live]).all()
    np.testing.assert_allclose(logits[live], prompted.logits.diff(dim=1)[0, 0].numpy()[live], rtol=1e-5)
    reached = adavipro.prompt.support.numpy()
    assert np.isnan(shown["mask: white is on"][~reached]).all()
    np.testing.assert_array_equal(shown["mask: white is on"][reached], prompted.mask[0, 0].numpy()[reached])
    numbers = [text.get_text() for text in figure.axes[0].texts if text.get_position()[1] < 1]
    assert len(numbers) == 40  # one a region that the frame reaches

    before, after = clip(x).softmax(1)[0], clip(prompted.images).softmax(1)[0]
    told = bars(figure)
    assert len(told) == 5
    for name, pair in told.items():
        k = clip.class_names.index(name.removesuffix(" ✓"))
        assert name.endswith(" ✓") == (k == 2)
        assert pair == pytest.approx((100 * before[k].item(), 100 * after[k].item()), abs=1e-3)


@torch.no_grad()
def test_explain_figure_takes_decisions_by_hand(clip, adavipro):
    image = noisy_split(1, seed=2).images[0]
    figure = drawings.explain_figure(clip, adavipro, image, decisions=torch.zeros(1, 1, 7, 7))
    shown = pictures(figure)
    np.testing.assert_allclose(shown["prompted image"], shown["image"])
    assert np.nanmax(shown["mask: white is on"]) == 0
    assert all(before == pytest.approx(after) for before, after in bars(figure).values())


def test_explain_figure_of_vp_has_no_edges_and_no_logits(clip, rng):
    vp = AdaViPro(FramePrompt(56, 8, generator=rng))
    shown = pictures(drawings.explain_figure(clip, vp, noisy_split(1, seed=1).images[0]))
    assert list(shown) == ["image", "mask: white is on", "prompted image"]
    assert (np.nan_to_num(shown["mask: white is on"]) == vp.prompt.support.numpy()).all()


def test_gumbel_figure_tells_shares_means_and_the_exact_gradient():
    draws, difference = 4000, 1.0
    figure = curves.gumbel_figure([0.2, 2.0], difference, draws, seed=3)
    above, below = figure.axes[:2], figure.axes[2:]
    p_on = torch.sigmoid(torch.tensor(difference)).item()
    for axes, temperature in zip(above, (0.2, 2.0), strict=True):
        title = axes.get_title()
        assert title.startswith(f"temperature {temperature:g}\n")
        share = float(title.split("\n")[1].split("%")[0]) / 100
        assert share == pytest.approx(p_on, abs=0.03)  # whatever the temperature
        assert axes.lines[0].get_xdata()[0] == pytest.approx(p_on)
    means, variances = [], []
    for axes in below:
        exact, mean = (line.get_xdata()[0] for line in axes.lines)
        assert exact == pytest.approx(p_on * (1 - p_on))
        means.append(mean)
        variances.append(float(axes.get_title().removeprefix("gradient: variance ")))
    assert abs(means[0] - p_on * (1 - p_on)) < 0.02 < abs(means[1] - p_on * (1 - p_on))  # cold: no bias
    assert variances[0] > 10 * variances[1]  # and much spread


def test_gumbel_figure_draws_hard_values_with_the_same_gradient():
    soft, hard = (curves.gumbel_figure([1.0], 0.5, 500, 0, h) for h in (False, True))
    counts = np.unique(hard.axes[0].patches[0].get_path().vertices[:, 1])
    assert len(counts) == 3  # nothing but zero, the zeros and the ones
    assert len(np.unique(soft.axes[0].patches[0].get_path().vertices[:, 1])) > 3
    assert soft.axes[1].lines[1].get_xdata() == hard.axes[1].lines[1].get_xdata()


def test_curves_figure_has_a_panel_a_metric_and_a_line_a_run():
    rows = [
        {"epoch": str(i), "loss": str(2.0 - i), "val_accuracy": str(0.2 * i), "share_on": ""}
        for i in range(3)
    ]
    histories = {"a": rows, "b": [{"epoch": 0, "loss": 3.0, "val_accuracy": 0.5, "share_on": 0.25}]}
    figure = curves.curves_figure(histories, ("loss", "val_accuracy", "share_on"))
    assert [axes.get_title() for axes in figure.axes] == [
        "training loss",
        "validation accuracy (%)",
        "regions on (%)",
    ]
    loss, accuracy, share = ([line.get_xydata().tolist() for line in axes.lines] for axes in figure.axes)
    assert loss == [[[0, 2], [1, 1], [2, 0]], [[0, 3]]]
    assert accuracy == [[[0, 0], [1, 20], [2, 40]], [[0, 50]]]
    assert share == [[], [[0, 25]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 2


def test_curves_figure_is_wide_enough_for_long_names():
    histories = {f"letters-adavipro-15px-seed0-{i:012d}": [{"epoch": 0, "loss": 1.0}] for i in range(2)}
    figure = curves.curves_figure(histories, ("loss",))
    figure.savefig(io.BytesIO())
    assert figure.legends[0].get_window_extent().x1 < figure.bbox.x1


def test_forming_figure_lays_images_and_masks_in_a_row(rng):
    images = noisy_split(2, seed=1).images
    decided = [(torch.rand(2, 1, 7, 7, generator=rng) > 0.5).float() for _ in range(3)]
    figure = drawings.forming_figure(decided, images, 8)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["image", "epoch 0", "1", "2"]
    strip = torch.tensor(np.asarray(axes.images[0].get_array()))
    gap = 4
    assert strip.shape == (2 * 56 + gap, 4 * 56 + 3 * gap, 3)
    assert torch.equal(strip[:56, :56], images[0].permute(1, 2, 0) / 255)
    for i in range(2):
        for epoch, decisions in enumerate(decided):
            left, top = (epoch + 1) * (56 + gap), i * (56 + gap)
            shown = strip[top : top + 56, left : left + 56, 0]
            mask = masks.enlarge(decisions, 8)[i, 0].bool()
            assert shown[mask].min() >= 0.65
            assert shown[~mask].max() <= 0.35
