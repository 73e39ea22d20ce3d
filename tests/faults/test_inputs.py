"""Faults P1 to P4: images, widths, region sides, masks and temperatures that a user can get wrong."""

import re

import pytest
import torch

from adavipro import where
from adavipro.io import generator
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt
from adavipro.where import EdgeDetector, MaskGenerator

pytestmark = pytest.mark.fault("images, widths, regions or temperatures out of range")


@pytest.fixture
def model(rng) -> AdaViPro:
    prompt = FramePrompt(56, 28, generator=rng)
    return AdaViPro(prompt, EdgeDetector(), MaskGenerator(56, 8, 4, generator=rng))


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (torch.zeros(2, 3, 55, 55), "(2, 3, 55, 55)"),
        (torch.zeros(2, 3, 56, 57), "(2, 3, 56, 57)"),
        (torch.zeros(2, 1, 56, 56), "(2, 1, 56, 56)"),
        (torch.zeros(2, 56, 56, 3), "(2, 56, 56, 3)"),
        (torch.zeros(3, 56, 56), "(3, 56, 56)"),
        (torch.zeros(2, 3, 56, 56, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(2, 3, 56, 56).numpy(), "ndarray"),
        (torch.zeros(0, 3, 56, 56), "empty"),
    ],
)
def test_p1_images_that_cannot_be_prompted(model, wrong, got):
    with pytest.raises(ValueError, match=re.escape(got)) as caught:
        model(wrong)
    assert "(b, 3, 56, 56)" in str(caught.value)


@pytest.mark.parametrize("wrong", [255.0, -0.5, float("nan"), float("inf")])
def test_p1_pixels_outside_0_to_1(clip, wrong):
    images = torch.full((2, 3, 56, 56), 0.5)
    images[1, 2, 3, 4] = wrong
    with pytest.raises(ValueError, match=re.escape("[0, 1]")) as caught:
        clip.normalise(images)
    assert str(wrong) in str(caught.value)


@pytest.mark.parametrize("width", [1, 28])
def test_p2_frame_of_every_width_up_to_half_the_image(width, images, rng):
    prompted = AdaViPro(FramePrompt(56, width, generator=rng))(images)
    assert prompted.images.shape == images.shape


@pytest.mark.parametrize("width", [0, -1, 29, 2.5, True, "8"])
def test_p2_frame_of_any_other_width(width):
    with pytest.raises(ValueError, match=f"prompt_px is {width!r}.*1 to 28"):
        FramePrompt(56, width)


@pytest.mark.parametrize("side", [0, -8, 5, 57, 112, 2.5, 8.0, True, "8", None])
def test_p3_region_side_that_does_not_divide_the_image(side):
    with pytest.raises(ValueError, match=f"region_px is {side!r}.*1, 2, 4, 7, 8, 14, 28, 56$"):
        MaskGenerator(56, side)


def test_p4_all_regions_off_return_the_image_bit_for_bit(model, images):
    prompted = model(images, decisions=torch.zeros(4, 1, 7, 7))
    assert torch.equal(prompted.images.view(torch.int32), images.view(torch.int32))


def test_p4_all_regions_on_are_vp(model, images):
    prompted = model(images, decisions=torch.ones(4, 1, 7, 7))
    assert torch.equal(prompted.images, AdaViPro(model.prompt)(images).images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [1e-6, 1e6])
@pytest.mark.parametrize("hard", [True, False])
def test_p4_extreme_temperatures_and_logits_stay_finite(dtype, temperature, hard, rng):
    extreme = torch.tensor([[0, 0], [6e4, -6e4], [-6e4, 6e4], [1e-4, 0], [20, -20]])
    logits = extreme.view(5, 2, 1, 1).to(dtype).requires_grad_()
    decisions = where.decide(logits, temperature, where.gumbel_noise(logits.shape, rng), hard)
    decisions.sum().backward()
    assert ((decisions >= 0) & (decisions <= 1)).all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_p4_temperature_that_is_not_above_0(model, images, temperature):
    with pytest.raises(ValueError, match=f"temperature is {temperature}.*above 0"):
        model(images, temperature, generator(0, "gumbel"))
