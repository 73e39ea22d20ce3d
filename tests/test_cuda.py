"""On a GPU it is as on a CPU, nothing waits that need not, and memory stays bounded. Skipped where there is none."""

import warnings
from dataclasses import replace

import pytest
import torch
from helpers import noisy_split, tiny

from adavipro import models, training
from adavipro.data import batches
from adavipro.datasets.embedded import CLASS_NAMES
from adavipro.evaluation import evaluate
from adavipro.io import generator
from adavipro.models.fast import FastMaskGenerator
from adavipro.prompted import build_method
from adavipro.recipe import Recipe
from adavipro.where import MaskGenerator

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning"),
]
RECIPE = Recipe(epochs=2, batch_size=16, warmup_steps=0, temperature_gamma=0.8)


def loaded(device: str):
    return models.load(tiny().network, CLASS_NAMES["letters"], device)


def built(classifier, **changes):
    run = tiny("adavipro", **changes)
    return build_method(run.method, run.prompt, run.masks, classifier)


@pytest.mark.parametrize("one_byte_a_pixel", [False, True])
def test_batches_are_those_of_the_cpu(one_byte_a_pixel):
    split, parts = noisy_split(40, seed=1), [slice(0, 16), torch.arange(16, 40)]
    if one_byte_a_pixel:  # grey photographs: three views of one colour
        split = replace(split, images=split.images[:, :1].expand(-1, 3, -1, -1))
    for ours, theirs in zip(
        batches(split, loaded("cuda"), parts), batches(split, loaded("cpu"), parts), strict=True
    ):
        assert ours.images.is_cuda
        torch.testing.assert_close(ours.images.cpu(), theirs.images)
        assert torch.equal(ours.labels.cpu(), theirs.labels)
        assert torch.equal(ours.objects.cpu(), theirs.objects)


def test_logits_and_gradients_are_the_plain_generators():
    models.prepare_device("cuda")
    edges, found = torch.randn(3, 3, 224, 224, generator=generator(0, "edges")).cuda(), []
    for kind in (MaskGenerator, FastMaskGenerator):
        masks = kind(224, 32, 64, generator=generator(0, "masks")).cuda()
        logits = masks(edges)
        logits.backward(torch.randn(logits.shape, generator=generator(0, "pull")).cuda())
        found.append([logits, *(p.grad for p in masks.parameters())])
    for plain, fast in zip(*found, strict=True):
        assert (fast - plain).abs().max() < 1e-4 * plain.abs().max()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_masks_of_a_large_batch_take_bounded_memory(precision):
    masks = FastMaskGenerator(224, 32, 64, generator=generator(0, "masks")).cuda()
    edges = torch.randn(256, 3, 224, 224, device="cuda")  # F_c makes 3.3 GB of it
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", getattr(torch, precision), enabled=precision != "float32"):
        masks(edges).float().sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 1.5 * 2**30


def test_a_step_waits_for_the_device_once():
    classifier = loaded("cuda")
    method, split = built(classifier), noisy_split(64, seed=1)
    optimizer = training.build_optimizer(method, RECIPE)
    given = batches(split, classifier, torch.arange(64).split(16))

    def step(batch):
        noise = generator(0, "noise")
        training.train_step(classifier, method, optimizer, batch.images, batch.labels, 1.0, noise, "a step")

    step(next(given))  # libraries make ready
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")  # which itself warns that it is a prototype
            waits.clear()
            for batch in given:
                step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in waits if "synchroniz" in str(w.message)]) == 3


def test_a_training_ends_as_on_the_cpu_and_a_resumed_one_with_the_same_bits(tmp_path):
    train, val, ended = noisy_split(40, seed=1), noisy_split(16, seed=2), {}
    for device in ("cpu", "cuda"):
        classifier = loaded(device)
        method = built(classifier)
        training.train(classifier, method, train, val, RECIPE, 3, progress_bar=False)
        ended[device] = [p.detach().cpu() for p in method.parameters()]
        assert 0 <= evaluate(classifier, method, val).accuracy <= 1
    for here, there in zip(ended["cpu"], ended["cuda"], strict=True):
        torch.testing.assert_close(here, there, rtol=1e-2, atol=1e-3)

    classifier = loaded("cuda")
    method, seen = built(classifier), []

    def stop(_method, history):
        seen.append(len(history))
        if len(history) == 2:  # the first epoch is saved
            raise KeyboardInterrupt

    given = (train, val, RECIPE, 3, tmp_path, {}, False, False)
    with pytest.raises(KeyboardInterrupt):
        training.train(classifier, method, *given, watch=stop)
    again = built(classifier)
    training.train(classifier, again, train, val, RECIPE, 3, tmp_path, {}, True, False)
    assert seen == [1, 2]
    for here, there in zip(again.parameters(), ended["cuda"], strict=True):
        assert torch.equal(here.detach().cpu(), there)
