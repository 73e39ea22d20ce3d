"""The teaching figures show the method's own tensors, and tell what they show."""

import numpy as np
import pytest
import torch
from helpers import noisy_split

from adavipro.io import data_folder, generator
from adavipro.lessons import drawings
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt, frame_support
from adavipro.where import EdgeDetector, MaskGenerator, enlarge

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


@pytest.fixture
def pictures():
    return noisy_split(2, seed=1).images


@pytest.fixture
def adavipro(rng):
    """Frame of 15 px: the inner 3 x 3 of 7 x 7 regions are out of reach."""
    masks = MaskGenerator(56, 8, 4, generator=rng)
    return AdaViPro(FramePrompt(56, 15, generator=rng), EdgeDetector(), masks)


@pytest.fixture
def vp(rng):
    return AdaViPro(FramePrompt(56, 8, generator=rng))


def drawn(axes):
    return torch.tensor(np.ma.filled(axes.images[0].get_array(), np.nan))


def in_rows(figure, columns):
    return [figure.axes[i : i + columns] for i in range(0, len(figure.axes), columns)]


# --- Photographs --------------------------------------------------------------------------------------------------


def test_photographs_are_clips_size_and_come_as_asked_for():
    pictures = drawings.photographs()
    assert pictures.dtype == torch.uint8
    assert tuple(pictures.shape) == (4, 3, 224, 224)
    assert pictures.float().std((1, 2, 3)).min() > 20
    assert torch.equal(drawings.photographs(["rocket", "cat"]), pictures[[3, 1]])


def test_every_photograph_is_small_and_has_its_source_and_licence_told():
    folder = data_folder() / "photographs"
    files = {path.stem: path for path in folder.glob("*.jpg")}
    assert set(files) == set(drawings.PHOTOGRAPHS)
    lines = [line for line in (folder / "README.md").read_text().splitlines() if line.startswith("| `")]
    for name, path in files.items():
        assert path.stat().st_size < 25_000
        (line,) = (line for line in lines if f"`{name}.jpg`" in line)
        assert "CC0" in line or "public domain" in line


# --- Rows of pictures ---------------------------------------------------------------------------------------------


def test_grid_figure_shows_images_and_maps_with_zero_in_its_place(pictures, rng):
    signed = torch.randn(2, 7, 7, generator=rng)
    rows = {"image": pictures, "float": pictures / 255, "signed": signed, "strength": signed.abs()}
    grid = in_rows(drawings.grid_figure(rows, ["one", "two"]), 2)
    assert [line[0].get_ylabel() for line in grid] == list(rows)
    assert [axes.get_title() for axes in grid[0]] == ["one", "two"]
    for column in (0, 1):
        expected = (pictures[column] / 255).permute(1, 2, 0)
        assert drawn(grid[0][column]).allclose(expected)
        assert drawn(grid[1][column]).allclose(expected)
        assert torch.equal(drawn(grid[2][column]), signed[column])
        low, high = grid[2][column].images[0].get_clim()
        assert low == -high == pytest.approx(-signed.abs().flatten().quantile(0.995).item())
        assert grid[3][column].images[0].get_clim() == (0, high)


def test_grid_figure_draws_maps_that_are_zero_everywhere():
    low, high = drawings.grid_figure({"nothing": torch.zeros(1, 4, 4)}).axes[0].images[0].get_clim()
    assert (low, high > 0) == (0, True)


def test_frames_figure_adds_the_frame_after_normalisation_and_names_what_it_covers(pictures):
    template = torch.randn(1, 3, 56, 56, generator=generator(3, "template"))
    figure = drawings.frames_figure(pictures, [8, 28], seed=3)
    assert [axes.get_title() for axes in figure.axes] == [
        "as it is", "8 px, 49 % covered", "28 px, 100 % covered", "", "", "",
    ]  # fmt: skip
    x = (pictures / 255 - MEAN) / STD
    for image, line in enumerate(in_rows(figure, 3)):
        for axes, width in zip(line, [0, 8, 28], strict=True):
            frame = template * frame_support(56, width) if width else 0 * template
            expected = ((x + frame) * STD + MEAN).clamp(0, 1)[image].permute(1, 2, 0)
            assert drawn(axes).allclose(expected, atol=1e-5)


@torch.no_grad()
def test_picture_figure_shows_each_image_as_the_classifier_sees_it_and_each_mask(clip, vp, adavipro):
    split = noisy_split(3, seed=1)
    figure = drawings.picture_figure(clip, split.images, {"VP-8": vp, "AdaViPro-15": adavipro}, split.labels)
    lines = in_rows(figure, 3)
    assert [line[0].get_ylabel() for line in lines] == ["raw", "VP-8", "AdaViPro-15", "AdaViPro-15\nmask"]
    x = (split.images.float() / 255 - clip.mean) / clip.std
    for line, images in zip(lines, [x, vp(x).images, adavipro(x).images], strict=False):
        for i, axes in enumerate(line):
            expected = (images[i] * clip.std[0] + clip.mean[0]).clamp(0, 1).permute(1, 2, 0)
            assert drawn(axes).allclose(expected, atol=1e-6)
            found = int(clip(images)[i].argmax())
            wrong = "" if found == split.labels[i] else " ✗"
            true = f"true: {clip.class_names[int(split.labels[i])]}\n" if line is lines[0] else ""
            assert axes.get_title() == true + clip.class_names[found] + wrong
    for mask, axes in zip(adavipro(x).mask[:, 0], lines[3], strict=True):
        assert torch.equal(drawn(axes).isnan(), ~adavipro.prompt.support)
        assert torch.equal(drawn(axes).nan_to_num(), mask * adavipro.prompt.support)
        assert axes.get_title() == ""


def test_forming_figure_of_a_long_run_shows_ten_epochs_with_the_first_and_the_last(pictures):
    figure = drawings.forming_figure(25 * [torch.ones(2, 1, 7, 7)], pictures)
    titles = [axes.get_title() for axes in figure.axes[:11]]
    assert (titles[:2], titles[-1], figure.axes[11].get_title()) == (["image", "epoch 1"], "epoch 25", "")


def test_forming_figure_begins_with_the_masks_before_training(pictures):
    on, off = torch.ones(2, 1, 7, 7), torch.zeros(2, 1, 7, 7)
    figure = drawings.forming_figure([on], pictures, before=off)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "before", "epoch 1"]
    for _, before, after in in_rows(figure, 3):
        assert torch.allclose(drawn(after) - drawn(before), torch.tensor(0.65), atol=1e-6)


def test_forming_figure_lays_images_and_masks_in_a_row(pictures, rng):
    decided = [(torch.rand(2, 1, 7, 7, generator=rng) > 0.5).float() for _ in range(3)]
    figure = drawings.forming_figure(decided, pictures)
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "epoch 1", "epoch 2", "epoch 3"]
    for i, (image, *masks) in enumerate(in_rows(figure, 4)):
        assert torch.equal(drawn(image), pictures[i].permute(1, 2, 0) / 255)
        for axes, decisions in zip(masks, decided, strict=True):
            on, shown = enlarge(decisions, 8)[i, 0].bool(), drawn(axes)[:, :, 0]
            assert shown[on].min() >= 0.65
            assert shown[~on].max() <= 0.35


# --- One image through the method -----------------------------------------------------------------------------------


def panels(figure):
    """What each panel shows, by its title."""
    return {axes.get_title(): drawn(axes) for axes in figure.axes if axes.images}


def bars(figure):
    """Percent before and after, by class."""
    axes = figure.axes[-1]
    names = [label.get_text() for label in axes.get_yticklabels()]
    before, after = axes.containers[0], axes.containers[1]
    return {n: (b.get_width(), a.get_width()) for n, b, a in zip(names, before, after, strict=True)}


@torch.no_grad()
def test_explain_figure_shows_each_step_from_the_methods_own_tensors(clip, adavipro):
    image = noisy_split(1, seed=1).images[0]
    figure = drawings.explain_figure(clip, adavipro, image, label=2)
    shown = panels(figure)
    assert list(shown) == ["image", "edges", "logits: on minus off", "mask: white is on", "prompted image"]
    x = clip.normalise(image[None])
    prompted = adavipro(x)
    torch.testing.assert_close(shown["image"], image.permute(1, 2, 0) / 255)
    torch.testing.assert_close(shown["edges"], EdgeDetector()(x)[0].abs().mean(0)[1:-1, 1:-1])
    live, logits = adavipro.live_regions(), shown["logits: on minus off"]
    assert logits.isnan().sum() == 9
    torch.testing.assert_close(logits[live], prompted.logits.diff(dim=1)[0, 0][live])
    reached, mask = adavipro.prompt.support, shown["mask: white is on"]
    assert mask[~reached].isnan().all()
    assert torch.equal(mask[reached], prompted.mask[0, 0][reached])

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
    figure = drawings.explain_figure(clip, adavipro, image, 2, decisions=torch.zeros(1, 1, 7, 7))
    shown = panels(figure)
    torch.testing.assert_close(shown["prompted image"], shown["image"])
    assert shown["mask: white is on"].nan_to_num().max() == 0
    assert all(before == pytest.approx(after) for before, after in bars(figure).values())


def test_explain_figure_of_vp_has_no_edges_and_no_logits(clip, vp):
    shown = panels(drawings.explain_figure(clip, vp, noisy_split(1, seed=1).images[0], 2))
    assert list(shown) == ["image", "mask: white is on", "prompted image"]
    assert torch.equal(shown["mask: white is on"].nan_to_num(), vp.prompt.support.float())


def test_architecture_figure_has_a_panel_with_its_shape_for_every_tensor(clip, adavipro, pictures):
    figure = drawings.architecture_figure(clip, adavipro, pictures[0])
    assert [axes.get_xlabel() for axes in figure.axes[:6]] == [
        "3 x 56 x 56", "3 x 56 x 56", "4 x 56 x 56", "2 x 7 x 7", "1 x 56 x 56", "3 x 56 x 56",
    ]  # fmt: skip
    assert [axes.get_title() for axes in figure.axes if axes.title.get_fontweight() == "bold"] == [
        "$F_c(m_e)$", "logits, on - off", "template P",
    ]  # fmt: skip


# --- Numbers --------------------------------------------------------------------------------------------------------


def test_gumbel_figure_tells_shares_means_and_the_exact_gradient():
    draws, difference = 4000, 1.0
    figure = drawings.gumbel_figure([0.2, 2.0], difference, draws, seed=3)
    above, below = figure.axes[:2], figure.axes[2:]
    p_on = torch.sigmoid(torch.tensor(difference)).item()
    for axes, temperature in zip(above, (0.2, 2.0), strict=True):
        title = axes.get_title()
        assert title.startswith(f"temperature {temperature:g}\n")
        share = float(title.split("\n")[1].split("%")[0]) / 100
        assert share == pytest.approx(p_on, abs=0.03)  # whatever the temperature
        assert axes.lines[0].get_xdata()[0] == pytest.approx(p_on)
    means, deviations = [], []
    for axes in below:
        exact, mean = (line.get_xdata()[0] for line in axes.lines)
        assert exact == pytest.approx(p_on * (1 - p_on))
        means.append(mean)
        deviations.append(float(axes.get_title().removeprefix("standard deviation ")))
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)  # no draw is left out
    assert abs(means[0] - p_on * (1 - p_on)) < 0.02 < abs(means[1] - p_on * (1 - p_on))  # cold: no bias
    assert deviations[0] > 5 * deviations[1]  # and a large deviation
    assert below[0].get_xlim() == below[1].get_xlim()


def test_curves_figure_has_a_panel_a_metric_and_a_line_a_run():
    rows = [{"epoch": i, "loss": 2.0 - i, "val_accuracy": 0.2 * i, "share_on": None} for i in range(3)]
    histories = {"a": rows, "b": [{"epoch": 0, "loss": 3.0, "val_accuracy": 0.5, "share_on": 0.25}], "c": []}
    figure = drawings.curves_figure(histories, ("loss", "val_accuracy", "share_on"))
    titles = ["training loss", "validation accuracy (%)", "regions on (%)"]
    assert [axes.get_title() for axes in figure.axes] == titles
    loss, accuracy, share = ([line.get_xydata().tolist() for line in axes.lines] for axes in figure.axes)
    assert loss == [[[1, 2], [2, 1], [3, 0]], [[1, 3]], []]
    assert accuracy == [[[1, 0], [2, 20], [3, 40]], [[1, 50]], []]
    assert share == [[], [[1, 25]], []]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 3
