from dataclasses import replace

import pytest
import torch
from helpers import noisy_split

from adavipro import data
from adavipro.evaluation import Evaluation, evaluate
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt
from adavipro.where import EdgeDetector, MaskGenerator


@pytest.fixture
def split(monkeypatch):
    """Two full batches of evaluation and a part of a third."""
    monkeypatch.setattr(data, "EVALUATION_BATCH", 8)
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


def test_without_objects_there_is_no_cover(clip, method, split):
    for objects in (None, torch.zeros_like(split.objects)):
        found = evaluate(clip, method, replace(split, objects=objects))
        assert found == replace(evaluate(clip, method, split), object_cover=None)
