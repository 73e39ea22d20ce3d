"""What a region's decision is worth (of the benchmark)."""

import sys
from pathlib import Path

import pytest
import torch
from helpers import noisy_split

from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt
from adavipro.where import EdgeDetector, MaskGenerator

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from decisions import region_effects, region_gradients


@pytest.fixture
def method(rng):
    """Frame of 15 px: the inner 3 x 3 of 7 x 7 regions are out of reach."""
    masks = MaskGenerator(56, 8, 4, generator=rng)
    return AdaViPro(FramePrompt(56, 15, generator=rng), EdgeDetector(), masks)


@torch.no_grad()
def test_effect_of_a_region_is_the_loss_with_it_on_minus_off(clip, method, rng):
    split = noisy_split(3, seed=1)
    images, labels = clip.normalise(split.images), split.labels
    decisions = torch.randint(2, (3, 1, 7, 7), generator=rng).float()
    found = region_effects(clip, method, images, labels, decisions)
    for b, row, column in [(0, 0, 0), (1, 3, 6), (2, 6, 5), (0, 1, 4)]:
        losses = []
        for decision in (0, 1):
            changed = decisions[b : b + 1].clone()
            changed[0, 0, row, column] = decision
            scores = clip(method(images[b : b + 1], decisions=changed).images)
            losses.append(-scores.log_softmax(1)[0, labels[b]])
        assert found[b, row, column] == pytest.approx(float(losses[1] - losses[0]), abs=1e-4)
    assert torch.equal(found[:, 2:5, 2:5], torch.zeros(3, 3, 3))  # out of the frame's reach


def test_gradient_of_a_weak_template_is_its_effect_and_of_a_strong_one_is_not(clip, method, rng):
    split = noisy_split(20, seed=1)
    images, labels = clip.normalise(split.images), split.labels
    decisions = torch.randint(2, (20, 1, 7, 7), generator=rng).float()
    agreement = []
    for strength in (0.01, 100.0):
        with torch.no_grad():
            for p in method.prompt.parameters():
                p.mul_(strength)
        found = [f(clip, method, images, labels, decisions) for f in (region_effects, region_gradients)]
        live = method.live_regions()
        agreement.append(float(torch.corrcoef(torch.stack([x[:, live].flatten() for x in found]))[0, 1]))
    assert agreement[0] > 0.95
    assert agreement[1] < 0.9
    assert all(p.grad is None for p in method.parameters())
