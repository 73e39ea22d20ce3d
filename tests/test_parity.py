"""What we compute is what the published code computes: open_clip's logits, VP's frame, and VP's training loop."""

import math

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from helpers import small_splits
from PIL import Image
from torch import nn

from adavipro import datasets, models, where
from adavipro.datasets.embedded.vocabulary import SYMBOLS
from adavipro.datasets.images import to_tensor
from adavipro.io import generator
from adavipro.method import AdaViPro
from adavipro.models import Network
from adavipro.prompts import FramePrompt
from adavipro.recipe import Recipe
from adavipro.training import train

TEMPLATE = "This is a photo of a {}"
NAMES = ["star", "arrow", "cloud"]


def photograph() -> Image.Image:
    """A picture of 300 x 260 px with detail of every size."""
    rows, columns, colours = np.mgrid[0:260, 0:300, 0:3]
    waves = (
        np.sin(rows**1.5 / 40 + colours) + np.sin(columns**1.4 / 30 - colours) + np.sin(rows * columns / 900)
    )
    return Image.fromarray(np.uint8(127.5 + 42 * waves))


@pytest.mark.parametrize("name", ["small", "ViT-B-32-quickgelu"])
def test_zero_shot_logits_are_open_clips_own(name, small_clip_folder):
    source, pretrained = (f"local-dir:{small_clip_folder}", None) if name == "small" else (name, "random")
    ours = models.load(Network(source, pretrained), NAMES)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        theirs, _, preprocess = open_clip.create_model_and_transforms(source)
    theirs.eval()
    with torch.no_grad():
        image = theirs.encode_image(preprocess(photograph())[None])
        text = theirs.encode_text(open_clip.get_tokenizer(source)([TEMPLATE.format(n) for n in NAMES]))
        cosine = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        logits = ours(ours.normalise(to_tensor(photograph(), ours.image_px)[None]))
    expected = theirs.logit_scale.exp() * cosine
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def blocks_of(template: torch.Tensor, width: int) -> list[nn.Parameter]:
    """Cut a frame (1, 3, s, s) into the blocks above, below, left and right, as VP keeps them."""
    middle = template[..., width : template.shape[-1] - width, :]
    parts = template[..., :width, :], template[..., -width:, :], middle[..., :width], middle[..., -width:]
    return [nn.Parameter(part.detach().clone()) for part in parts]


def joined(blocks: list[nn.Parameter], width: int) -> torch.Tensor:
    """Lay VP's four blocks around a middle of zeros."""
    up, down, left, right = blocks
    inside = up.shape[-1] - 2 * width
    row = torch.cat([left, torch.zeros(1, 3, inside, inside), right], 3)
    return torch.cat([up, row, down], 2)


@pytest.mark.parametrize("width", [1, 8, 23, 28])
def test_frame_is_vps_four_blocks(width, images, rng):
    prompt = FramePrompt(56, width, generator=rng)
    up, side = (
        torch.randn(2, 1, 3, width, 56, generator=rng),
        torch.randn(2, 1, 3, 56 - 2 * width, width, generator=rng),
    )
    blocks = [nn.Parameter(part) for part in (*up, *side)]
    template = joined(blocks, width)
    with torch.no_grad():
        prompt.values.copy_(template[0][:, prompt.support])
    prompted = AdaViPro(prompt)(images).images
    assert torch.equal(prompted, images + template)
    assert sum(b.numel() for b in blocks) == prompt.values.numel()

    weights = torch.randn(images.shape, generator=rng)
    (prompted * weights).sum().backward()
    ((images + template) * weights).sum().backward()
    gradient = joined([nn.Parameter(b.grad) for b in blocks], width)
    torch.testing.assert_close(prompt.values.grad, gradient[0][:, prompt.support].detach())


def vps_loop(folder, template, images, labels, names, recipe, seed):
    """VP's published loop, restated: blocks, texts encoded at every step, its schedule. Returns each epoch's frame."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([TEMPLATE.format(n) for n in names])
    blocks = blocks_of(template, 8)
    optimiser = torch.optim.SGD(blocks, lr=recipe.prompt_lr, momentum=0.9, weight_decay=0)
    steps_an_epoch = math.ceil(len(labels) / recipe.batch_size)
    total, frames = recipe.epochs * steps_an_epoch, []
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(labels), generator=generator(seed, "order", epoch))
        for i, batch in enumerate(order.split(recipe.batch_size)):
            step = epoch * steps_an_epoch + i
            if step < recipe.warmup_steps:
                rate = recipe.prompt_lr * (step + 1) / recipe.warmup_steps
            else:
                e, es = step - recipe.warmup_steps, total - recipe.warmup_steps
                rate = 0.5 * (1 + math.cos(math.pi * e / es)) * recipe.prompt_lr
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
            seen, text, scale = model(images[batch] + joined(blocks, 8), tokens)
            F.cross_entropy(scale * seen @ text.T, labels[batch]).backward()
            optimiser.step()
        frames.append(joined(blocks, 8).detach())
    return frames


def test_twenty_steps_of_vp_are_those_of_vps_loop(small_clip_folder):
    recipe, seed = Recipe(epochs=4, batch_size=10, prompt_lr=4.0, warmup_steps=6), 3
    classifier = models.load(Network(), list(SYMBOLS))
    prompt = FramePrompt(56, 8, generator=generator(seed, "template"))
    start = prompt().detach()
    with small_splits():
        train_split, val_split = (datasets.load_split("sketches", split) for split in ("train", "val"))
    images = classifier.normalise(train_split.images)
    expected = vps_loop(
        small_clip_folder, start, images, train_split.labels, classifier.class_names, recipe, seed
    )
    ours = []
    train(
        classifier, AdaViPro(prompt), train_split, val_split, recipe, seed, progress_bar=False,
        watch=lambda method, history: ours.append(method.prompt().detach().clone()),
    )  # fmt: skip
    assert len(ours) == len(expected) == 4
    assert -(-len(train_split) // recipe.batch_size) * recipe.epochs == 20
    assert (expected[-1] - start).abs().max() > 0.01
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


def test_bfloat16_moves_logits_by_less_than_a_hundredth_of_their_range(images):
    classifier = models.load(Network(precision="bfloat16"), NAMES)
    shown = images.clone().requires_grad_()
    expected = models.load(Network(), NAMES)(shown)
    logits = classifier(shown)
    assert logits.dtype == torch.float32
    assert 0 < (logits - expected).abs().max() < 0.01 * classifier.scale
    logits.logsumexp(1).sum().backward()
    assert shown.grad.isfinite().all()
    assert shown.grad.dtype == torch.float32


def test_decisions_are_float32_whatever_the_precision_of_what_they_are_made_from(rng):
    logits, noise = torch.randn(2, 4, 2, 7, 7, generator=rng).bfloat16()
    expected = where.decide(logits.float(), 0.1, noise.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(where.decide(logits, 0.1, noise), expected)
