"""The explorers' callbacks without a browser: a control moves, the picture and its line follow."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import noisy_split, small_splits, tiny
from PIL import Image

from adavipro import experiment
from adavipro.lessons import drawings, widgets
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


def test_frame_explorer_follows_image_and_width():
    (image, width), picture, line = parts(
        widgets.frame_explorer(noisy_split(3, seed=0).images, ["a", "b", "c"])
    )
    check_picture(picture)
    seen = {picture.value}
    width.value = 28
    assert "9,408 parameters" in line.value
    seen.add(picture.value)
    width.value = 7
    assert "4,116 parameters" in line.value
    seen.add(picture.value)
    image.value = 2
    seen.add(picture.value)
    assert len(seen) == 4
    assert (width.min, width.max) == (1, 28)


def test_frame_explorer_names_its_images():
    (image, _), *_ = parts(widgets.frame_explorer(noisy_split(2, seed=0).images, ["cat", "rocket"]))
    assert [name for name, _ in image.options] == ["1: cat", "2: rocket"]


def test_temperature_explorer_follows_its_controls():
    (temperature, difference), picture, _ = parts(widgets.temperature_explorer(draws=300))
    check_picture(picture)
    assert (10**temperature.min, 10**temperature.max) == pytest.approx((0.05, 10))
    seen = {picture.value}
    temperature.value = 0.1
    seen.add(picture.value)
    difference.value = -2
    seen.add(picture.value)
    assert len(seen) == 3


def test_explorers_redraw_from_other_threads():
    sliders = [parts(widgets.temperature_explorer(draws=50))[0][1] for _ in range(2)]
    (_, width), picture, line = parts(widgets.frame_explorer(noisy_split(1, seed=0).images, ["a"]))
    expected = parts(widgets.frame_explorer(noisy_split(1, seed=0).images, ["a"]))
    expected[0][1].value = 13

    def slide(control, values):
        for value in values:
            control.value = value

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(slide, slider, [-1, 2]) for slider in sliders]
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
    image, as_learned = left.children
    return image, as_learned, grid.children, picture, line


@torch.no_grad()
def test_mask_explorer_draws_what_the_regions_that_are_on_do(clip, method, monkeypatch):
    drawn, explain = [], drawings.explain_figure
    monkeypatch.setattr(drawings, "explain_figure", lambda *args: drawn.append(args) or explain(*args))
    split = noisy_split(2, seed=1)
    box = widgets.mask_explorer(clip, method, split.images, split.labels)
    image, as_learned, regions, picture, line = of_mask_explorer(box)
    check_picture(picture)

    def shows(i, decisions):
        *_, pixels, label, shown = drawn[-1]
        assert torch.equal(pixels, split.images[i])
        assert label == split.labels[i]
        live = method.live_regions()
        assert torch.equal(shown[0, 0, live], decisions[0, live])
        assert shown[0, 0, ~live].sum() == 0
        assert line.value == f"{int(decisions[0, live].sum())} of 40 regions on"

    learned = method(clip.normalise(split.images)).decisions
    assert [region.disabled for region in regions] == (~method.live_regions()).flatten().tolist()
    shows(0, learned[0])
    before = picture.value
    regions[3].value = not regions[3].value
    changed = learned[0].clone()
    changed[0, 0, 3] = 1 - changed[0, 0, 3]
    shows(0, changed)
    assert picture.value != before
    assert sum(region.value for region in regions[:6]) > 1
    for region in regions[:6]:
        region.value = False
    count = len(drawn)
    as_learned.click()
    assert len(drawn) == count + 1  # once, though many regions change
    shows(0, learned[0])
    assert picture.value == before
    image.value = 1
    shows(1, learned[1])


def test_mask_explorer_of_vp_has_one_region(clip, rng):
    split = noisy_split(1, seed=1)
    vp = AdaViPro(FramePrompt(56, 8, 3.0, rng))
    box = widgets.mask_explorer(clip, vp, split.images, split.labels)
    _, _, (region,), picture, _ = of_mask_explorer(box)
    assert region.value
    before = picture.value
    region.value = False
    assert picture.value != before


def test_live_view_redraws_after_each_epoch_and_keeps_the_masks(tmp_path, clip):
    run, images = tiny(prompt_px=28), noisy_split(3, seed=1).images
    path = run.folder(tmp_path) / "watched.safetensors"
    live = widgets.LiveView(clip, images, path)
    pictures = {tuple(picture.value for picture in live.widget.children)}

    def watch(method, history):
        live(method, history)
        pictures.add(tuple(picture.value for picture in live.widget.children))

    with small_splits():
        experiment.run(run, tmp_path, progress_bar=False, watch=watch)
    for picture in live.widget.children:
        check_picture(picture)
    assert len({curves for curves, _ in pictures}) == len({masks for _, masks in pictures}) == 4
    masks = widgets.LiveView(clip, images, path).masks  # as a new process has them
    assert [tuple(m.shape) for m in masks] == 3 * [(3, 1, 7, 7)]
    best = experiment.read_result(run, tmp_path)["best_epoch"]
    restored = experiment.restore(run.folder(tmp_path)).method
    assert torch.equal(masks[best], restored(clip.normalise(images)).decisions)
    live(restored, 2 * [{"epoch": 1}])  # resumed, in the second epoch
    assert len(live.masks) == 2
    late = widgets.LiveView(clip, images, tmp_path / "late")
    late(restored, 3 * [{"epoch": 1}])  # it did not see the first two
    late(restored, 4 * [{"epoch": 1}])
    assert len(late.masks) == 4
