"""Controls of "where": soft masks, and random ones that belong to their image."""

import pytest
import torch
from helpers import tiny

from adavipro.baselines.controls import RandomMasks, SigmoidMasks
from adavipro.io import generator
from adavipro.method import AdaViPro
from adavipro.models.fast import FastMaskGenerator
from adavipro.prompted import build_method
from adavipro.prompts import FramePrompt
from adavipro.where import decide


def built(clip, **changes):
    wanted = tiny(**changes)
    return build_method(wanted.method, wanted.prompt, wanted.masks, clip, wanted.seed)


def test_sigmoid_masks_are_the_generator_without_noise_in_training_and_inference(clip, images, rng):
    method, learned = built(clip, where="sigmoid"), built(clip)
    assert type(method.masks) is SigmoidMasks
    assert type(learned.masks) is FastMaskGenerator
    for ours, theirs in zip(method.parameters(), learned.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    shown, trained = method(images), method(images, 5.0, rng)
    assert torch.equal(shown.decisions, trained.decisions)
    torch.testing.assert_close(shown.decisions, decide(shown.logits, 1.0, torch.zeros_like(shown.logits)))
    assert 0 < shown.decisions.min() < shown.decisions.max() < 1
    trained.images.square().sum().backward()
    assert method.masks.policy.weight.grad.abs().sum() > 0


# --- Random masks -------------------------------------------------------------------------------------------------


@pytest.fixture
def random_masks(rng) -> AdaViPro:
    return AdaViPro(FramePrompt(56, 28, generator=rng), torch.nn.Identity(), RandomMasks(56, 8, share=0.3))


def test_random_masks_are_on_with_their_share_and_have_no_parameters(random_masks, rng):
    assert list(random_masks.masks.parameters()) == []
    images = torch.randn(400, 3, 56, 56, generator=rng)
    for decisions in (random_masks(images).decisions, random_masks(images, 5.0, rng).decisions):
        assert set(decisions.unique().tolist()) == {0, 1}
        assert abs(decisions.mean() - 0.3) < 5 * (0.3 * 0.7 / decisions.numel()) ** 0.5
        per_region = decisions.mean(0)
        assert (per_region - 0.3).abs().max() < 5 * (0.3 * 0.7 / 400) ** 0.5


def test_an_images_random_mask_at_inference_depends_on_the_image_alone(random_masks, rng):
    images = torch.randn(9, 3, 56, 56, generator=rng)
    expected = random_masks(images).decisions
    assert torch.equal(random_masks(images.flip(0)).decisions.flip(0), expected)  # not on its place
    alone = torch.cat([random_masks(image[None]).decisions for image in images])  # nor on the batch
    assert torch.equal(alone, expected)
    assert len({tuple(mask.flatten().tolist()) for mask in expected}) == len(images)
    changed = images[:1].clone()
    changed[0, 0, 0, 0] += 0.01
    assert not torch.equal(random_masks(changed).decisions, expected[:1])


def test_random_masks_in_training_are_drawn_by_the_key_and_anew_for_each_step(random_masks, images):
    first, again, other = (
        random_masks(images, 5.0, generator(0, "gumbel", step)).decisions for step in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, random_masks(images).decisions)
