"""What is fast says what the plain formulation says: the same logits and the same gradients."""

import pytest
import torch
from torch import nn

from adavipro import models
from adavipro.datasets.embedded import CLASS_NAMES
from adavipro.experiment import preset
from adavipro.models import fast
from adavipro.models.fast import FastMaskGenerator
from adavipro.prompted import build_method
from adavipro.where import MaskGenerator


def worst(found, expected):
    """The largest difference beside the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def both(edges, side, width, **how):
    """Logits and gradients, first of all of the edges, of the plain generator and of the fast one."""
    told = []
    for kind in (MaskGenerator, FastMaskGenerator):
        start = torch.Generator().manual_seed(1)
        masks = kind(edges.shape[-1], side, width, generator=start, **how).to(edges.dtype)
        given = edges.clone().requires_grad_()
        logits = masks(given)
        pull = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=logits.dtype)
        gradients = torch.autograd.grad(logits, [given, *masks.parameters()], pull)
        told.append([logits, *gradients])
    return zip(*told, strict=True)


@pytest.mark.parametrize(("image_px", "side", "width"), [(56, 8, 16), (56, 7, 3), (224, 32, 64), (24, 24, 5)])
@pytest.mark.parametrize("standardise", [True, False])
def test_logits_and_gradients_are_the_plain_ones_to_a_hundred_thousandth(
    image_px, side, width, standardise, rng
):
    edges = torch.randn(3, 3, image_px, image_px, generator=rng)
    for plain, found in both(edges, side, width, standardise=standardise):
        assert worst(found, plain) < 1e-5


@pytest.mark.parametrize("how", [{}, {"relu": False}, {"relu": False, "standardise": False}])
def test_every_switch_is_the_plain_generators_in_double_precision(how, rng):
    edges = torch.randn(4, 3, 24, 24, generator=rng, dtype=torch.float64)
    for plain, found in both(edges, 8, 5, **how):
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("kept", [0, 10**9])
def test_gradient_agrees_with_finite_differences_kept_or_computed_again(standardise, kept, rng, monkeypatch):
    monkeypatch.setattr(fast, "KEPT_BYTES", kept)
    masks = FastMaskGenerator(8, 4, 2, standardise=standardise, generator=rng).double()
    names = [name for name, _ in masks.named_parameters()]
    edges = torch.randn(2, 3, 8, 8, generator=rng, dtype=torch.float64, requires_grad=True)

    def logits(edges, *values):
        return torch.func.functional_call(masks, dict(zip(names, values, strict=True)), (edges,))

    assert torch.autograd.gradcheck(logits, (edges, *masks.parameters()))


def test_images_that_are_worked_on_apart_are_as_together(rng, monkeypatch):
    masks, edges = FastMaskGenerator(56, 8, 4, generator=rng), torch.randn(5, 3, 56, 56, generator=rng)
    together = masks(edges)
    monkeypatch.setitem(fast.HIDDEN_BYTES, "cpu", 2 * 4 * 4 * 56 * 56)  # two images
    torch.testing.assert_close(masks(edges), together, rtol=1e-6, atol=1e-6)


def test_flat_images_have_finite_logits_and_gradients(rng):
    masks = FastMaskGenerator(24, 8, 5, generator=rng)
    nn.init.constant_(
        masks.convergence.bias, 30.0
    )  # a mean square that differs from the squared mean by rounding only
    logits = masks(torch.zeros(2, 3, 24, 24))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in masks.parameters())


@pytest.mark.parametrize("images", [0, 2])
def test_no_more_than_there_is_room_for_is_kept_for_the_gradient(images, rng, monkeypatch):
    of_an_image = 4 * 64 * 224**2  # F_c makes 77 MB of six
    monkeypatch.setattr(fast, "KEPT_BYTES", images * of_an_image)
    masks, kept = FastMaskGenerator(224, 32, 64, generator=rng), []
    edges = torch.randn(6, 3, 224, 224, generator=rng)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        masks(edges)
    assert kept.count(of_an_image) == images
    assert sum(kept) - images * of_an_image < 2 * edges.nbytes + 12 * masks.policy.weight.nbytes


def test_methods_are_built_with_it():
    e = preset("embedded", "adavipro")
    classifier = models.load(e.network, CLASS_NAMES["digits"])
    assert type(build_method(e.method, e.prompt, e.masks, classifier).masks) is FastMaskGenerator
