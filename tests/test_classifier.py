"""Frozen classifiers: frozen whatever happens, a copy of the caller's network, pixels normalised, float32 scores."""

import copy

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

from adavipro.classifier import FrozenClassifier
from adavipro.method import AdaViPro
from adavipro.models import MappedClassifier
from adavipro.prompts import FramePrompt


@pytest.fixture
def network(rng) -> nn.Module:
    """A network of the caller's own, in training and with statistics that a forward pass would move."""
    made = nn.Sequential(
        nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(196, 6)
    )
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=rng))
    return made


def test_nothing_in_it_takes_a_gradient_or_leaves_evaluation(clip):
    assert not any(p.requires_grad for p in clip.parameters())
    assert clip.train() is clip
    nn.Sequential(clip).train()
    assert not any(module.training for module in clip.modules())


@pytest.mark.parametrize("kind", [FrozenClassifier, MappedClassifier])
def test_a_callers_network_never_changes(network, images, rng, kind):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    classifier = kind(network, class_names=list("abcdef"), image_px=56)
    prompt = AdaViPro(FramePrompt(56, 8, generator=rng))
    nn.ModuleList([classifier, prompt]).train()
    classifier(prompt(images).images).sum().backward()
    assert prompt.prompt.values.grad.abs().sum() > 0
    assert network.training
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(classifier(images), copy.deepcopy(network).eval()(images))


def test_a_network_that_is_given_away_is_frozen_as_it_is(network):
    classifier = FrozenClassifier(network, list("abcdef"), 56, own=True)
    assert classifier.network is network
    assert not any(p.requires_grad for p in network.parameters())


def test_training_a_prompt_through_it_changes_no_bit_of_it(clip, images, rng):
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    model = AdaViPro(FramePrompt(56, 8, generator=rng))
    start = model.prompt.values.detach().clone()
    both = nn.ModuleList([model, clip]).train()
    optimiser = torch.optim.SGD(both.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(clip(model(images).images), torch.tensor([0, 1, 2, 3])).backward()
        optimiser.step()
    assert not torch.equal(model.prompt.values, start)
    after = clip.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is None for p in clip.parameters())


def test_logits_and_input_gradient_are_open_clips_own(clip, small_clip_folder, images):
    model = open_clip.create_model(f"local-dir:{small_clip_folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{small_clip_folder}")(
        [f"This is a photo of a {n}" for n in clip.class_names]
    )
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    with torch.no_grad():
        text = model.encode_text(tokens)
    features = model.encode_image(theirs)
    cosine = nn.functional.normalize(features, dim=-1) @ nn.functional.normalize(text, dim=-1).T
    expected = model.logit_scale.exp().detach() * cosine
    logits = clip(ours)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    logits.logsumexp(1).sum().backward()
    expected.logsumexp(1).sum().backward()
    scale = theirs.grad.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4 * scale)


def test_normalisation_is_the_models_own_for_bytes_and_for_shares(clip, rng):
    pixels = torch.randint(256, (2, 3, 56, 56), generator=rng, dtype=torch.uint8)
    mean = np.array([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
    std = np.array([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)
    expected = torch.from_numpy((pixels.numpy() / 255 - mean) / std).float()
    torch.testing.assert_close(clip.normalise(pixels), expected)
    torch.testing.assert_close(clip.normalise(pixels.float() / 255), expected)


@pytest.mark.parametrize("wrong", [-0.01, 1.01, 255.0, float("nan")])
def test_pixels_outside_0_to_1_are_an_error(clip, wrong):
    pixels = torch.full((1, 3, 56, 56), 0.5)
    pixels[0, 2, 3, 4] = wrong
    with pytest.raises(ValueError, match=r"pixels lie from .* expected floats in \[0, 1\] or uint8"):
        clip.normalise(pixels)


def test_float32_logits_are_the_formula_to_the_last_bit_even_within_autocast(clip, images):
    outputs = clip.network(images)
    expected = clip.scale * nn.functional.normalize(outputs, dim=-1) @ clip.class_embeddings.T
    assert torch.equal(clip(images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(clip.network(images).float(), outputs)
        assert torch.equal(clip(images), expected)


def test_a_clip_has_no_label_mapping(clip, images):
    before = clip(images)
    clip.refresh_mapping(None, None, 0)
    clip.use_mapping(None)
    assert clip.mapping_index() is None
    assert torch.equal(clip(images), before)
