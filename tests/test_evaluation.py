from dataclasses import replace

import pytest
import torch
from helpers import noisy_split

from adavipro import evaluation
from adavipro.edges import EdgeDetector
from adavipro.evaluation import Evaluation, evaluate, region_effects, region_gradients
from adavipro.masks import MaskGenerator
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt


@pytest.fixture
def split(monkeypatch):
    """Two full batches of evaluation and a part of a third."""
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 8)
    return noisy_split(20, seed=1)


@pytest.fixture
def method(rng) -> AdaViPro:
    """AdaViPro whose frame of 10 px ends within a region."""
    prompt = FramePrompt(56, 10, generator=rng)
    return AdaViPro(prompt, EdgeDetector(), MaskGenerator(56, 8, 4, generator=rng))


@torch.no_grad()
def test_every_figure_is_that_of_a_loop_over_single_images(clip, method, split):
    right, covered, on, often = 0, 0.0, [], torch.zeros(7, 7)
    ring = [(i, j) for i in range(7) for j in range(7) if min(i, j) < 2 or max(i, j) > 4]
    for image, objects, label in zip(split.images, split.objects, split.labels, strict=True):
        x = (image[None].float() / 255 - clip.mean) / clip.std
        logits = method.region_logits(x)[0]
        template = torch.zeros(3, 56, 56)
        for i in range(7):
            for j in range(7):
                if logits[1, i, j] > logits[0, i, j]:
                    rows, columns = slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8)
                    template[:, rows, columns] = method.prompt()[0, :, rows, columns]
                    covered += (objects[0] * (template[0] != 0))[rows, columns].sum().item()
                    often[i, j] += 1
        on.append(sum(float(logits[1, i, j] > logits[0, i, j]) for i, j in ring) / len(ring))
        right += int(clip(x + template).argmax() == label)
    q = torch.stack([often[i, j] for i, j in ring]) / 20

    found = evaluate(clip, method, split)
    assert found.accuracy == right / 20
    assert found.object_cover == pytest.approx(covered / split.objects.sum().item())
    assert found.share_on == pytest.approx(sum(on) / 20)
    assert found.mask_diversity == pytest.approx((4 * q * (1 - q)).mean().item())
    assert 0 < found.share_on < 1


def test_without_a_method_it_is_zero_shot(clip, split):
    found = clip(clip.normalise(split.images)).argmax(1)
    assert evaluate(clip, None, split) == Evaluation((found == split.labels).sum().item() / 20)


def test_decisions_can_be_replaced_slice_by_slice(clip, method, split):
    seen = []

    def all_off(decisions, part):
        seen.append((part.start, len(decisions)))
        return torch.zeros_like(decisions)

    off = evaluate(clip, method, split, all_off)
    assert seen == [(0, 8), (8, 8), (16, 4)]
    assert off == Evaluation(evaluate(clip, None, split).accuracy, 0.0, 0.0, 0.0)

    on = evaluate(clip, method, split, lambda decisions, _: torch.ones_like(decisions))
    assert on == replace(evaluate(clip, AdaViPro(method.prompt), split), mask_diversity=0.0)


def test_without_objects_there_is_no_cover(clip, method, split):
    found = evaluate(clip, method, replace(split, objects=None))
    assert found == replace(evaluate(clip, method, split), object_cover=None)


@torch.no_grad()
def test_effect_of_a_region_is_the_loss_with_it_on_minus_off(clip, method, split, rng):
    images, labels = clip.normalise(split.images[:3]), split.labels[:3]
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


def test_gradient_of_a_weak_template_is_its_effect_and_of_a_strong_one_is_not(clip, method, split, rng):
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
