"""Where to add: edges (Eq. 3), region logits, sampled and likelier decisions (Eq. 4 to 7), and what masks show."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
import torch.nn.functional as F

from adavipro import where
from adavipro.io import generator
from adavipro.where import EdgeDetector, MaskGenerator

# --- Edges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_are_scipys_laplacian_of_each_channel(dtype, rng):
    images = torch.randn(2, 3, 9, 12, generator=rng, dtype=dtype)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    edges = EdgeDetector()(images)
    assert edges.dtype == dtype
    for image, edge in zip(images.numpy(), edges.numpy(), strict=True):
        for channel in range(3):
            convolved = scipy.ndimage.convolve(image[channel], kernel, mode="constant", cval=0.0)
            np.testing.assert_allclose(edge[channel], convolved, atol=1e-5)
            laplacian = scipy.ndimage.laplace(image[channel], mode="constant", cval=0.0)
            np.testing.assert_allclose(edge[channel], laplacian, atol=1e-5)


def test_flat_image_has_edges_at_its_border_only():
    """Outside the image is zero: a border pixel lacks one neighbour, a corner two."""
    edges = EdgeDetector()(torch.full((1, 3, 5, 5), 3.0))[0, 0]
    assert torch.equal(edges[1:-1, 1:-1], torch.zeros(3, 3))
    assert torch.equal(edges[0, 1:-1], torch.full((3,), -3.0))
    assert torch.equal(edges[0, 0], torch.tensor(-6.0))


def test_detector_is_fixed():
    detector = EdgeDetector()
    assert not list(detector.parameters())
    assert not detector.state_dict()


# --- Region logits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "count"), [(8, 16_610), (16, 33_218), (32, 66_434), (64, 132_866)])
def test_generator_has_the_papers_parameter_count(width, count):
    assert sum(p.numel() for p in MaskGenerator(224, 32, width).parameters()) == count


@pytest.mark.parametrize("relu", [True, False])
def test_logits_are_those_of_two_convolutions(relu, rng):
    model = MaskGenerator(24, 8, 5, relu, standardise=False, generator=rng).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, generator=rng)  # biases of F_p start at zero: give them something to say
    edges = torch.randn(2, 3, 24, 24, generator=rng, dtype=torch.float64)

    weights = dict(model.named_parameters())
    hidden = F.conv2d(edges, weights["convergence.weight"], weights["convergence.bias"], padding=1)
    hidden = hidden.clamp(min=0) if relu else hidden
    expected = F.conv2d(hidden, weights["policy.weight"], weights["policy.bias"], stride=8)
    torch.testing.assert_close(model(edges), expected, rtol=1e-12, atol=1e-12)


def test_standardised_channels_have_mean_0_and_standard_deviation_1_over_each_image(rng):
    model = MaskGenerator(24, 8, 5, standardise=True, generator=rng)
    images = 5
    edges = torch.randn(images, 3, 24, 24, generator=rng) * torch.logspace(-1, 1, images).view(-1, 1, 1, 1)
    for logits, image in zip(model(edges), edges, strict=True):
        hidden = F.conv2d(image, model.convergence.weight, model.convergence.bias, padding=1).relu().double()
        std = hidden.var((1, 2), correction=0, keepdim=True).add(1e-5).sqrt()
        hidden = (hidden - hidden.mean((1, 2), keepdim=True)) / std
        expected = F.conv2d(hidden, model.policy.weight.double(), model.policy.bias.double(), stride=8)
        torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("standardise", [True, False])
def test_gradient_of_the_logits_agrees_with_finite_differences(rng, standardise):
    model = MaskGenerator(8, 4, 2, standardise=standardise, generator=rng).double()
    names = [name for name, _ in model.named_parameters()]
    edges = torch.randn(1, 3, 8, 8, generator=rng, dtype=torch.float64, requires_grad=True)

    def logits(edges, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (edges,))

    assert torch.autograd.gradcheck(logits, (edges, *model.parameters()))


def test_start_is_torchs_own_and_depends_on_the_key_alone():
    first, again, other = (MaskGenerator(56, 8, generator=generator(s, "masks")) for s in (3, 3, 4))
    for name, bound in (("convergence", 27**-0.5), ("policy", 4096**-0.5)):
        weight = first.get_parameter(f"{name}.weight").detach()
        assert 0.99 * bound < weight.abs().max() <= bound
        assert math.isclose(weight.std(), bound / 3**0.5, rel_tol=0.05)
        assert torch.equal(weight, again.get_parameter(f"{name}.weight"))
        assert not torch.equal(weight, other.get_parameter(f"{name}.weight"))


def test_without_policy_weights_every_region_starts_at_the_on_bias(rng):
    model = MaskGenerator(56, 8, on_bias=3.0, generator=rng)
    torch.nn.init.zeros_(model.policy.weight)
    logits = model(torch.randn(2, 3, 56, 56, generator=rng))
    assert torch.equal(logits[:, 1] - logits[:, 0], torch.full((2, 7, 7), 3.0))


def test_by_default_channels_are_standardised_and_decisions_are_soft_in_training(rng):
    edges = torch.randn(2, 3, 56, 56, generator=rng)
    switches = ({}, {"standardise": True}, {"standardise": False})
    models = [MaskGenerator(56, 8, 4, **switch, generator=generator(0, "masks")) for switch in switches]
    logits, standardised, plain = (model(edges) for model in models)
    assert torch.equal(logits, standardised)
    assert not torch.equal(logits, plain)
    decisions = models[0].decide(logits, 5.0, rng)
    assert ((decisions > 0) & (decisions < 1)).all()


def test_noise_is_gumbel_distributed():
    n = 200_000
    noise = where.gumbel_noise((n,), generator(0, "gumbel")).double()
    variance = math.pi**2 / 6
    assert abs(noise.mean() - 0.5772156649) < 5 * (variance / n) ** 0.5
    assert abs(noise.var() - variance) < 5 * variance * (4.4 / n) ** 0.5  # kurtosis 27/5
    assert scipy.stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3


def test_noise_is_finite_at_the_ends_of_the_uniform_numbers(monkeypatch):
    def ends(*args, dtype=torch.float32, **kwargs):
        return torch.tensor([0.0, 1 - torch.finfo(dtype).eps / 2], dtype=dtype)

    monkeypatch.setattr(torch, "rand", ends)
    assert where.gumbel_noise((2,), generator(0, "gumbel")).isfinite().all()


def test_noise_is_drawn_by_its_key_alone():
    first, again, other = (where.gumbel_noise((2, 2), generator(0, "gumbel", step)) for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_regions_are_on_as_often_as_the_softmax_says_at_every_temperature(rng):
    n = 50_000
    logits = torch.randn(1, 2, 2, 2, generator=rng).expand(n, -1, -1, -1)
    noise = where.gumbel_noise(logits.shape, rng)
    cold, warm = (where.decide(logits, tau, noise, hard=True) for tau in (0.1, 5.0))
    assert torch.equal(cold, warm)
    expected = logits[0].double().softmax(0)[1]
    bound = 5 * (expected * (1 - expected) / n).sqrt()
    assert ((warm.mean(0)[0] - expected).abs() < bound).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_soft_decision_is_the_softmax_of_the_paper(temperature, rng):
    logits, noise = torch.randn(2, 3, 2, 4, 4, generator=rng).double()
    expected = ((logits + noise) / temperature).softmax(1)[:, 1:]
    soft = where.decide(logits, temperature, noise, hard=False)
    torch.testing.assert_close(soft.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_hard_decision_is_exactly_0_or_1_with_the_soft_gradient(temperature, rng):
    logits, noise = torch.randn(2, 64, 2, 7, 7, generator=rng)
    upstream = torch.randn(64, 1, 7, 7, generator=rng)
    soft_logits, hard_logits = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    soft = where.decide(soft_logits, temperature, noise, hard=False)
    hard = where.decide(hard_logits, temperature, noise, hard=True)
    assert torch.equal(hard, (logits + noise).argmax(1, keepdim=True).float())

    (soft * upstream).sum().backward()
    (hard * upstream).sum().backward()
    assert torch.equal(hard_logits.grad, soft_logits.grad)
    s = ((logits + noise) / temperature).double().softmax(1)[:, 1:]
    slope = upstream * s * (1 - s) / temperature  # d softmax / d e_on; the opposite for e_off
    expected = torch.cat([-slope, slope], 1).float()
    torch.testing.assert_close(soft_logits.grad, expected, rtol=1e-3, atol=1e-5)


def test_inference_takes_the_likelier_decision(rng):
    logits = torch.randn(3, 2, 4, 4, generator=rng)
    logits[0, :, 0, 0] = 1.0  # a tie leaves the image as it is
    expected = logits.argmax(1, keepdim=True).float()
    assert torch.equal(where.choose(logits), expected)
    assert expected[0, 0, 0, 0] == 0


def test_each_decision_is_repeated_over_the_pixels_of_its_region(rng):
    decisions = torch.rand(2, 1, 3, 3, generator=rng)
    mask = where.enlarge(decisions, 4)
    assert mask.shape == (2, 1, 12, 12)
    for b in range(2):
        for i in range(12):
            for j in range(12):
                assert mask[b, 0, i, j] == decisions[b, 0, i // 4, j // 4]


def test_share_and_diversity_count_live_regions_only(rng):
    decisions = torch.randint(2, (5, 1, 4, 4), generator=rng).float()
    live = torch.randint(2, (4, 4), generator=rng).bool()
    shares = [
        sum(decisions[b, 0, i, j].item() for b in range(5)) / 5
        for i in range(4)
        for j in range(4)
        if live[i, j]
    ]
    assert where.share_on(decisions, live) == pytest.approx(sum(shares) / len(shares))
    diversity = sum(4 * q * (1 - q) for q in shares) / len(shares)
    assert where.mask_diversity(decisions, live) == pytest.approx(diversity)


def test_diversity_is_0_for_equal_masks_and_1_for_opposite_ones(rng):
    mask = torch.randint(2, (1, 1, 4, 4), generator=rng).float()
    live = torch.ones(4, 4, dtype=torch.bool)
    assert where.mask_diversity(torch.cat([mask, mask]), live) == 0
    assert where.mask_diversity(torch.cat([mask, 1 - mask]), live) == 1


def test_settled_tells_how_far_the_noise_reaches():
    g = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn((40, 2, 5, 5), generator=g)
    live = torch.rand((5, 5), generator=g) < 0.6
    draws = 400
    noise = torch.stack([where.gumbel_noise(logits.shape, g) for _ in range(draws)])
    difference = logits.diff(dim=1)[:, 0, live]
    sampled = (logits + noise).diff(dim=2)[:, :, 0, live]
    flipped = ((sampled > 0) != (difference > 0)).float().mean().item()
    for temperature in (0.2, 1.0, 5.0):
        found = where.settled(logits, live, temperature)
        decided = torch.sigmoid(sampled / temperature)
        assert found["logit_gap"] == pytest.approx(difference.abs().median().item(), rel=1e-5)
        assert found["flips"] == pytest.approx(flipped, abs=0.005)
        soft = ((decided > 0.05) & (decided < 0.95)).float().mean().item()
        assert found["soft"] == pytest.approx(soft, abs=0.005)
    cold = where.settled(100 * logits, live, 1e-3)
    assert cold["flips"] < 0.01 > cold["soft"]


def test_settled_of_undecided_regions_is_a_coin():
    found = where.settled(torch.zeros(2, 2, 3, 3), torch.ones(3, 3, dtype=torch.bool), 1e6)
    assert found == {"logit_gap": 0, "flips": 0.5, "soft": pytest.approx(1)}
