import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from adavipro import masks
from adavipro.masks import MaskGenerator, RandomMasks
from adavipro.seeds import generator


@pytest.mark.parametrize(("width", "count"), [(8, 16_610), (16, 33_218), (32, 66_434), (64, 132_866)])
def test_generator_has_the_papers_parameter_count(width, count):
    assert sum(p.numel() for p in MaskGenerator(224, 32, width).parameters()) == count


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_are_those_of_two_convolutions(bias, relu, channels, rng):
    model = MaskGenerator(24, 8, 5, channels, bias, relu, generator=rng).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, generator=rng)  # biases of F_p start at zero: give them something to say
    edges = torch.randn(2, channels, 24, 24, generator=rng, dtype=torch.float64)

    weights = dict(model.named_parameters())
    hidden = F.conv2d(edges, weights["convergence.weight"], weights.get("convergence.bias"), padding=1)
    hidden = hidden.clamp(min=0) if relu else hidden
    expected = F.conv2d(hidden, weights["policy.weight"], weights.get("policy.bias"), stride=8)
    assert len(weights) == (4 if bias else 2)
    torch.testing.assert_close(model(edges), expected, rtol=1e-12, atol=1e-12)


def test_standardised_channels_have_mean_0_and_spread_1_over_each_image(rng):
    model = MaskGenerator(24, 8, 5, standardise=True, generator=rng)
    images = masks.CPU_CHUNK + 3  # more than one pass
    edges = torch.randn(images, 3, 24, 24, generator=rng) * torch.logspace(-1, 1, images).view(-1, 1, 1, 1)
    for logits, image in zip(model(edges), edges, strict=True):
        hidden = F.conv2d(image, model.convergence.weight, model.convergence.bias, padding=1).relu().double()
        spread = hidden.var((1, 2), correction=0, keepdim=True).add(1e-5).sqrt()
        hidden = (hidden - hidden.mean((1, 2), keepdim=True)) / spread
        expected = F.conv2d(hidden, model.policy.weight.double(), model.policy.bias.double(), stride=8)
        torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


def test_gradient_of_the_logits_agrees_with_finite_differences(rng):
    model = MaskGenerator(8, 4, 2, generator=rng).double()
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
    model = MaskGenerator(56, 8, on_bias=3.0, policy_scale=0.0, generator=rng)
    logits = model(torch.randn(2, 3, 56, 56, generator=rng))
    assert torch.equal(logits[:, 1] - logits[:, 0], torch.full((2, 7, 7), 3.0))
    with pytest.raises(ValueError, match=r"on_bias is 3.0"):
        MaskGenerator(56, 8, bias=False, on_bias=3.0)


def test_noise_is_gumbel_distributed():
    n = 200_000
    noise = masks.gumbel_noise((n,), generator(0, "gumbel")).double()
    variance = math.pi**2 / 6
    assert abs(noise.mean() - 0.5772156649) < 5 * (variance / n) ** 0.5
    assert abs(noise.var() - variance) < 5 * variance * (4.4 / n) ** 0.5  # kurtosis 27/5
    assert scipy.stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3


def test_noise_is_finite_at_the_ends_of_the_uniform_numbers(monkeypatch):
    def ends(*args, dtype=torch.float32, **kwargs):
        return torch.tensor([0.0, 1 - torch.finfo(dtype).eps / 2], dtype=dtype)

    monkeypatch.setattr(torch, "rand", ends)
    assert masks.gumbel_noise((2,), generator(0, "gumbel")).isfinite().all()


def test_noise_is_drawn_by_its_key_alone():
    first, again, other = (masks.gumbel_noise((2, 2), generator(0, "gumbel", step)) for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_regions_are_on_as_often_as_the_softmax_says_at_every_temperature(rng):
    n = 50_000
    logits = torch.randn(1, 2, 2, 2, generator=rng).expand(n, -1, -1, -1)
    noise = masks.gumbel_noise(logits.shape, rng)
    cold, warm = (masks.decide(logits, tau, noise) for tau in (0.1, 5.0))
    assert torch.equal(cold.round(), warm.round())
    expected = logits[0].double().softmax(0)[1]
    bound = 5 * (expected * (1 - expected) / n).sqrt()
    assert ((warm.mean(0)[0] - expected).abs() < bound).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_soft_decision_is_the_softmax_of_the_paper(temperature, rng):
    logits, noise = torch.randn(2, 3, 2, 4, 4, generator=rng).double()
    expected = ((logits + noise) / temperature).softmax(1)[:, 1:]
    soft = masks.decide(logits, temperature, noise, hard=False)
    torch.testing.assert_close(soft.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_hard_decision_is_exactly_0_or_1_with_the_soft_gradient(temperature, rng):
    logits, noise = torch.randn(2, 64, 2, 7, 7, generator=rng)
    upstream = torch.randn(64, 1, 7, 7, generator=rng)
    soft_logits, hard_logits = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    soft = masks.decide(soft_logits, temperature, noise, hard=False)
    hard = masks.decide(hard_logits, temperature, noise, hard=True)
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
    assert torch.equal(masks.choose(logits), expected)
    assert expected[0, 0, 0, 0] == 0


def test_each_decision_is_repeated_over_the_pixels_of_its_region(rng):
    decisions = torch.rand(2, 1, 3, 3, generator=rng)
    mask = masks.enlarge(decisions, 4)
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
    assert masks.share_on(decisions, live) == pytest.approx(sum(shares) / len(shares))
    diversity = sum(4 * q * (1 - q) for q in shares) / len(shares)
    assert masks.mask_diversity(decisions, live) == pytest.approx(diversity)


def test_diversity_is_0_for_equal_masks_and_1_for_opposite_ones(rng):
    mask = torch.randint(2, (1, 1, 4, 4), generator=rng).float()
    live = torch.ones(4, 4, dtype=torch.bool)
    assert masks.mask_diversity(torch.cat([mask, mask]), live) == 0
    assert masks.mask_diversity(torch.cat([mask, 1 - mask]), live) == 1


def test_random_masks_are_on_with_their_share_and_have_no_parameters():
    model = RandomMasks(56, 8, share=0.3)
    assert list(model.parameters()) == []
    logits = model(torch.zeros(2000, 3, 56, 56))
    torch.testing.assert_close(logits.softmax(1)[:, 1], torch.full((2000, 7, 7), 0.3))
    drawn = masks.decide(logits, 1.0, masks.gumbel_noise(logits.shape, generator(0, "x")))
    assert abs(drawn.mean() - 0.3) < 5 * (0.3 * 0.7 / drawn.numel()) ** 0.5


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_random_masks_that_are_not_random_are_refused(share):
    with pytest.raises(ValueError, match=f"random_share is {share}, .* between 0 and 1"):
        RandomMasks(56, 8, share)
