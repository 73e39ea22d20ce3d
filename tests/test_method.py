import pytest
import torch

from adavipro import masks
from adavipro.edges import EdgeDetector
from adavipro.masks import MaskGenerator
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt, PatchPrompt, build_prompt
from adavipro.seeds import generator


@pytest.fixture
def model(rng) -> AdaViPro:
    """AdaViPro on 56 px with regions of 8 px, its template covering the whole image."""
    prompt = FramePrompt(56, 28, generator=rng)
    return AdaViPro(prompt, EdgeDetector(), MaskGenerator(56, 8, 4, generator=rng))


def test_vp_adds_the_template_to_every_image(images, rng):
    prompt = FramePrompt(56, 8, generator=rng)
    prompted = AdaViPro(prompt)(images)
    assert torch.equal(prompted.images, images + prompt())
    assert prompted.logits is None
    assert torch.equal(prompted.mask, torch.ones(4, 1, 56, 56))


def test_template_is_added_where_the_region_is_on_and_nowhere_else(model, images, rng):
    prompted = model(images, temperature=1.0, generator=rng)
    assert 0 < prompted.decisions.mean() < 1
    template = model.prompt()[0]
    for b, image in enumerate(images):
        for i in range(56):
            for j in range(56):
                on = prompted.decisions[b, 0, i // 8, j // 8] == 1
                expected = image[:, i, j] + template[:, i, j] if on else image[:, i, j]
                assert torch.equal(prompted.images[b, :, i, j], expected)


@pytest.mark.parametrize("hard", [True, False])
def test_training_samples_from_the_logits_of_the_edges_with_keyed_noise(model, images, hard):
    model.hard = hard
    prompted = model(images, temperature=2.0, generator=generator(0, "gumbel", 5))
    logits = model.masks(model.edges(images))
    noisy = logits + masks.gumbel_noise(logits.shape, generator(0, "gumbel", 5))
    assert torch.equal(prompted.logits, logits)
    expected = noisy.argmax(1, keepdim=True).float() if hard else (noisy / 2.0).softmax(1)[:, 1:]
    torch.testing.assert_close(prompted.decisions, expected, rtol=0, atol=0 if hard else 1e-6)


def test_inference_is_deterministic_and_takes_each_image_by_itself(model, images):
    together = model(images)
    assert torch.equal(together.decisions, together.logits.argmax(1, keepdim=True).float())
    assert torch.equal(model(images).images, together.images)
    for b in range(4):
        alone = model(images[b : b + 1])
        assert torch.equal(alone.decisions[0], together.decisions[b])
        assert torch.equal(alone.images[0], together.images[b])


def test_random_patch_moves_in_training_and_rests_in_inference(images, rng):
    vp = AdaViPro(PatchPrompt(56, 8, "random", generator=rng))
    first, other = (vp(images, 1.0, generator(0, "place", step)).images for step in (1, 2))
    assert not torch.equal(first, other)
    assert torch.equal(first, vp(images, 1.0, generator(0, "place", 1)).images)
    assert torch.equal(vp(images, None, generator(0, "place", 1)).images, vp(images).images)


@pytest.mark.parametrize("hard", [True, False])
def test_training_reaches_template_and_generator(model, images, rng, hard):
    model.hard = hard
    model(images, 1.0, rng).images.square().sum().backward()
    for name, p in model.named_parameters():
        assert 0 < p.grad.abs().max() < float("inf"), name


def test_gradient_of_the_template_agrees_with_finite_differences(rng):
    model = AdaViPro(FramePrompt(8, 2, generator=rng), EdgeDetector(), MaskGenerator(8, 4, 2)).double()
    images = torch.randn(2, 3, 8, 8, generator=rng, dtype=torch.float64)
    decisions = torch.tensor([[1, 0, 0, 1], [0.25, 1, 0.5, 0]], dtype=torch.float64).view(2, 1, 2, 2)

    def prompted(values):
        call = ((images,), {"decisions": decisions})
        return torch.func.functional_call(model, {"prompt.values": values}, *call).images.sin()

    assert torch.autograd.gradcheck(prompted, model.prompt.values)


@pytest.mark.parametrize(
    ("kind", "image_px", "prompt_px", "region_px", "count"),
    [
        ("frame", 224, 30, 32, 24),
        ("frame", 224, 112, 32, 49),
        ("frame", 56, 8, 8, 24),
        ("frame", 56, 9, 8, 40),
        ("fixed-patch", 56, 9, 8, 4),
        ("random-patch", 56, 9, 8, 49),
    ],
)
def test_live_regions_hold_at_least_one_pixel_of_the_template(kind, image_px, prompt_px, region_px, count):
    prompt = build_prompt(kind, image_px, prompt_px)
    live = AdaViPro(prompt, EdgeDetector(), MaskGenerator(image_px, region_px, 1)).live_regions()
    for i, row in enumerate(prompt.support.split(region_px)):
        for j, region in enumerate(row.split(region_px, dim=1)):
            assert live[i, j] == region.any()
    assert int(live.sum()) == count


def test_vp_has_one_live_region():
    assert AdaViPro(FramePrompt(56, 8)).live_regions().tolist() == [[True]]


def test_temperature_without_generator_is_an_error(model, images):
    with pytest.raises(ValueError, match="generator"):
        model(images, temperature=1.0)


@pytest.mark.parametrize("parts", [{"edges": EdgeDetector()}, {"masks": MaskGenerator(56, 8, 1)}])
def test_edges_without_masks_or_masks_without_edges_are_an_error(parts):
    with pytest.raises(ValueError, match=r"edges.*masks"):
        AdaViPro(FramePrompt(56, 8), **parts)


@pytest.mark.parametrize("shape", [(4, 1, 5, 5), (3, 1, 7, 7), (4, 2, 7, 7), (4, 7, 7)])
def test_decisions_of_the_wrong_shape_are_an_error(model, images, shape):
    with pytest.raises(ValueError, match="decisions"):
        model(images, decisions=torch.ones(shape))
