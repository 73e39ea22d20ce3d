"""The explorers' callbacks without a browser: a control moves, the picture and its line follow."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import noisy_split
from PIL import Image

from adavipro.lessons import widgets
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt
from adavipro.where import EdgeDetector, MaskGenerator


def parts(box):
    """Controls, picture and line of an explorer."""
    row, picture, line = box.children
    return row.children, picture, line


def check_picture(picture):
    with Image.open(io.BytesIO(picture.value)) as image:
        assert image.format == "PNG"
        assert min(image.size) > 150
    assert picture.tooltip is None  # breaks an Image's view in the browser


def test_frame_explorer_follows_image_and_width():
    (image, width), picture, line = parts(widgets.frame_explorer(noisy_split(3, seed=0).images))
    check_picture(picture)
    seen = {picture.value}
    width.value = 28
    assert "covers 100% of the image; it has 9,408 parameters" in line.value
    seen.add(picture.value)
    width.value = 7
    assert f"covers {(56**2 - 42**2) / 56**2:.0%} of the image; it has 4,116 parameters" in line.value
    seen.add(picture.value)
    image.value = 2
    seen.add(picture.value)
    assert len(seen) == 4
    assert (width.min, width.max) == (1, 28)


def test_frame_explorer_names_its_images():
    (image, _), *_ = parts(widgets.frame_explorer(noisy_split(2, seed=0).images, ["cat", "rocket"]))
    assert [name for name, _ in image.options] == ["1: cat", "2: rocket"]


def test_temperature_explorer_follows_its_controls():
    (temperature, difference, hard), picture, line = parts(widgets.temperature_explorer(draws=300))
    check_picture(picture)
    assert (10**temperature.min, 10**temperature.max) == pytest.approx((0.05, 10))
    seen = {picture.value}
    temperature.value = 0.1
    seen.add(picture.value)
    difference.value = -2
    assert "temperature 0.1" in line.value
    assert "P(on) 0.119" in line.value
    seen.add(picture.value)
    hard.value = True
    seen.add(picture.value)
    assert len(seen) == 4


def test_explorers_redraw_from_other_threads():
    sliders = [parts(widgets.temperature_explorer(draws=50))[0][1] for _ in range(3)]
    (_, width), picture, line = parts(widgets.frame_explorer(noisy_split(1, seed=0).images))
    expected = parts(widgets.frame_explorer(noisy_split(1, seed=0).images))
    expected[0][1].value = 13

    def slide(control, values):
        for value in values:
            control.value = value

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(slide, slider, [-1, 0, 2]) for slider in sliders]
        work.append(pool.submit(slide, width, [11, 12, 13]))
        for done in work:
            done.result()
    assert (picture.value, line.value) == (expected[1].value, expected[2].value)


@pytest.fixture
def method(rng):
    """Frame of 15 px, which does not reach the inner 3 x 3 of 7 x 7 regions; a template that decides."""
    generator = MaskGenerator(56, 8, 4, generator=rng)
    return AdaViPro(FramePrompt(56, 15, 3.0, rng), EdgeDetector(), generator)


def of_mask_explorer(box):
    (left, grid), picture, line = parts(box)
    image, *buttons = left.children
    return image, {button.description: button for button in buttons}, grid.children, picture, line


@torch.no_grad()
def test_mask_explorer_tells_the_scores_of_the_regions_that_are_on(clip, method):
    split = noisy_split(2, seed=1)
    box = widgets.mask_explorer(clip, method, split.images, split.labels)
    image, buttons, regions, picture, line = of_mask_explorer(box)
    check_picture(picture)
    x = clip.normalise(split.images)

    def expected(i, decisions):
        before, after = (
            clip(images).softmax(1)[0] for images in (x[[i]], method(x[[i]], decisions=decisions).images)
        )
        told = [
            f"{name}: {clip.class_names[s.argmax()]} ({s.max():.1%}), true class {s[split.labels[i]]:.1%}"
            for name, s in (("zero-shot", before), ("prompted", after))
        ]
        on = int(decisions[0, 0, method.live_regions()].sum())
        return f"<div>{on} of 40 regions on; {told[0]}; {told[1]}</div>"

    learned = method(x).decisions
    assert [region.disabled for region in regions] == (~method.live_regions()).flatten().tolist()
    assert sum(region.disabled for region in regions) == 9
    assert expected(0, learned[:1]) in line.value

    before = picture.value
    regions[3].value = not regions[3].value
    changed = learned[:1].clone()
    changed[0, 0, 0, 3] = 1 - changed[0, 0, 0, 3]
    assert expected(0, changed) in line.value
    assert picture.value != before

    buttons["all off"].click()
    assert expected(0, torch.zeros(1, 1, 7, 7)) in line.value
    buttons["all on"].click()
    assert expected(0, torch.ones(1, 1, 7, 7)) in line.value
    assert not any(region.value for region in regions if region.disabled)
    buttons["as learned"].click()
    assert expected(0, learned[:1]) in line.value
    assert picture.value == before
    image.value = 1
    assert expected(1, learned[1:]) in line.value


def test_mask_explorer_redraws_once_when_many_regions_change(clip, method, monkeypatch):
    split = noisy_split(1, seed=1)
    _, buttons, *_ = of_mask_explorer(widgets.mask_explorer(clip, method, split.images, split.labels))
    drawn = []
    explain = widgets.drawings.explain_figure
    monkeypatch.setattr(widgets.drawings, "explain_figure", lambda *args: drawn.append(1) or explain(*args))
    buttons["all off"].click()
    assert len(drawn) == 1


def test_mask_explorer_of_vp_has_one_region(clip, rng):
    split = noisy_split(1, seed=1)
    vp = AdaViPro(FramePrompt(56, 8, 3.0, rng))
    box = widgets.mask_explorer(clip, vp, split.images, split.labels)
    _, _, (region,), picture, line = of_mask_explorer(box)
    assert region.value
    before = picture.value
    region.value = False
    assert picture.value != before
    zero_shot, prompted = (part.partition(": ")[2] for part in line.value.split("</div>")[0].split("; ")[1:])
    assert zero_shot == prompted


def test_live_view_redraws_after_each_epoch(rng):
    live = widgets.LiveView(3, noisy_split(2, seed=0).images)
    bar, curves, pictures, _ = live.widget.children
    seen, history = {(curves.value, pictures.value)}, []
    for epoch in range(3):
        history.append({"epoch": epoch, "loss": 1 / (1 + epoch), "val_accuracy": 0.5, "temperature": 1.0})
        live.update(history, (torch.rand(2, 1, 7, 7, generator=rng) > 0.5).float())
        seen.add((curves.value, pictures.value))
        assert (bar.value, bar.max) == (epoch + 1, 3)
    check_picture(curves)
    check_picture(pictures)
    assert len({curve for curve, _ in seen}) == len({masks for _, masks in seen}) == 4


def test_live_view_of_vp_has_no_masks():
    live = widgets.LiveView(2, noisy_split(1, seed=0).images)
    _, curves, pictures, _ = live.widget.children
    before = curves.value, pictures.value
    live.update([{"epoch": 0, "loss": 1.0, "val_accuracy": 0.5}])
    assert curves.value != before[0]
    assert pictures.value == before[1]
