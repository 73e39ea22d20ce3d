"""Eq. 2: the template is added where the regions are on, and nothing else happens to an image."""

import pytest
import torch
from torch import nn

from adavipro import where
from adavipro.io import generator
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt
from adavipro.where import EdgeDetector, MaskGenerator

both_kinds = pytest.mark.parametrize("hard", [True, False])


def adavipro(rng, hard=False, **settings) -> AdaViPro:
    """AdaViPro on 56 px with regions of 8 px, its template covering the whole image."""
    prompt = FramePrompt(56, 28, generator=rng)
    return AdaViPro(prompt, EdgeDetector(), MaskGenerator(56, 8, 4, hard=hard, generator=rng), **settings)


def test_vp_adds_the_template_to_every_image(images, rng):
    prompt = FramePrompt(56, 8, generator=rng)
    prompted = AdaViPro(prompt)(images)
    assert torch.equal(prompted.images, images + prompt())
    assert prompted.logits is None
    assert torch.equal(prompted.mask, torch.ones(4, 1, 56, 56))


def test_template_is_added_where_the_region_is_on_and_nowhere_else(images, rng):
    model = adavipro(rng, hard=True)
    prompted = model(images, temperature=1.0, generator=rng)
    assert 0 < prompted.decisions.mean() < 1
    template = model.prompt()[0]
    for b, image in enumerate(images):
        for i in range(56):
            for j in range(56):
                on = prompted.decisions[b, 0, i // 8, j // 8] == 1
                expected = image[:, i, j] + template[:, i, j] if on else image[:, i, j]
                assert torch.equal(prompted.images[b, :, i, j], expected)


@both_kinds
def test_training_samples_from_the_logits_of_the_edges_with_keyed_noise(images, rng, hard):
    model = adavipro(rng, hard)
    prompted = model(images, temperature=2.0, generator=generator(0, "gumbel", 5))
    logits = model.masks(model.edges(images))
    noisy = logits + where.gumbel_noise(logits.shape, generator(0, "gumbel", 5))
    assert torch.equal(prompted.logits, logits)
    expected = noisy.argmax(1, keepdim=True).float() if hard else (noisy / 2.0).softmax(1)[:, 1:]
    torch.testing.assert_close(prompted.decisions, expected, rtol=0, atol=0 if hard else 1e-6)


def test_inference_is_deterministic_and_takes_each_image_by_itself(images, rng):
    model = adavipro(rng)
    together = model(images)
    assert torch.equal(together.decisions, together.logits.argmax(1, keepdim=True).float())
    assert torch.equal(model(images).images, together.images)
    for b in range(4):
        alone = model(images[b : b + 1])
        assert torch.equal(alone.decisions[0], together.decisions[b])
        assert torch.equal(alone.images[0], together.images[b])


@both_kinds
def test_training_reaches_template_generator_and_image(images, rng, hard):
    model, shown = adavipro(rng, hard), images.clone().requires_grad_()
    prompted = model(shown, 1.0, rng)
    prompted.images.square().sum().backward()
    for name, p in [*model.named_parameters(), ("image", shown)]:
        assert 0 < p.grad.abs().max() < float("inf"), name


def test_gradient_flows_through_the_edges_to_an_image_that_requires_one(images, rng):
    shown = images.clone().requires_grad_()
    adavipro(rng).region_logits(shown).square().sum().backward()
    assert 0 < shown.grad.abs().max() < float("inf")


def test_gradient_of_the_template_agrees_with_finite_differences(rng):
    model = AdaViPro(FramePrompt(8, 2, generator=rng), EdgeDetector(), MaskGenerator(8, 4, 2)).double()
    images = torch.randn(2, 3, 8, 8, generator=rng, dtype=torch.float64)
    decisions = torch.tensor([[1, 0, 0, 1], [0.25, 1, 0.5, 0]], dtype=torch.float64).view(2, 1, 2, 2)

    def prompted(values):
        call = ((images,), {"decisions": decisions})
        return torch.func.functional_call(model, {"prompt.values": values}, *call).images.sin()

    assert torch.autograd.gradcheck(prompted, model.prompt.values)


@both_kinds
@pytest.mark.parametrize("temperature", [None, 1.0])
def test_within_autocast_all_is_as_outside(clip, images, rng, hard, temperature):
    """A caller's autocast is for what is the caller's: edges, logits, images and scores keep every bit."""
    model = adavipro(rng, hard)
    expected = model(images, temperature, generator(0, "gumbel"))
    scores = clip(expected.images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(clip(expected.images), scores)
        within = model(images, temperature, generator(0, "gumbel"))
        half = model(images.bfloat16(), temperature, generator(0, "gumbel"))
    assert half.logits.dtype == torch.float32
    for found, wanted in zip(within, expected, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)


def test_double_precision_is_kept(images, rng):
    model, shown = adavipro(rng), images.double()
    expected = model(images).logits
    torch.testing.assert_close(model.double()(shown).logits, expected, rtol=1e-4, atol=1e-4)
    assert model(shown).images.dtype == torch.float64


def test_generator_in_bfloat16_gives_float32_logits_and_decisions(images, rng):
    model = adavipro(rng)
    expected = model(images, 1.0, generator(0, "gumbel"))
    model.precision = torch.bfloat16
    found = model(images, 1.0, generator(0, "gumbel"))
    assert found.logits.dtype == found.decisions.dtype == found.images.dtype == torch.float32
    assert not torch.equal(found.logits, expected.logits)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("prompt", "region_px", "count"),
    [
        (FramePrompt(224, 30), 32, 24),
        (FramePrompt(224, 112), 32, 49),
        (FramePrompt(56, 8), 8, 24),
        (FramePrompt(56, 9), 8, 40),
    ],
)
def test_live_regions_hold_at_least_one_pixel_of_the_template(prompt, region_px, count):
    live = AdaViPro(prompt, EdgeDetector(), MaskGenerator(prompt.image_px, region_px, 1)).live_regions()
    for i, row in enumerate(prompt.support.split(region_px)):
        for j, region in enumerate(row.split(region_px, dim=1)):
            assert live[i, j] == region.any()
    assert int(live.sum()) == count


def test_vp_has_one_live_region():
    assert AdaViPro(FramePrompt(56, 8)).live_regions().tolist() == [[True]]


def test_temperature_without_generator_is_an_error(images, rng):
    with pytest.raises(ValueError, match="generator"):
        adavipro(rng)(images, temperature=1.0)


@pytest.mark.parametrize("parts", [{"edges": EdgeDetector()}, {"masks": MaskGenerator(56, 8, 1)}])
def test_edges_without_masks_or_masks_without_edges_are_an_error(parts):
    with pytest.raises(ValueError, match=r"edges.*masks"):
        AdaViPro(FramePrompt(56, 8), **parts)


@pytest.mark.parametrize("shape", [(4, 1, 5, 5), (3, 1, 7, 7), (4, 2, 7, 7), (4, 7, 7)])
def test_decisions_of_the_wrong_shape_are_an_error(images, rng, shape):
    with pytest.raises(ValueError, match="decisions"):
        adavipro(rng)(images, decisions=torch.ones(shape))


def test_any_masks_that_decide_for_themselves_can_follow(images, rng):
    class Checkerboard(nn.Module):
        region_px = 28

        def forward(self, edges):
            return edges.new_zeros(len(edges), 2, 2, 2)

        def decide(self, logits, temperature, generator):
            return torch.eye(2).expand(len(logits), 1, 2, 2)

    prompt = FramePrompt(56, 28, generator=rng)
    added = AdaViPro(prompt, nn.Identity(), Checkerboard())(images).images - images
    assert torch.equal(added[:, :, :28, 28:], torch.zeros(4, 3, 28, 28))
    torch.testing.assert_close(added[0, :, :28, :28], prompt()[0, :, :28, :28])
