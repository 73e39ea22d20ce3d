import pytest
import torch
from helpers import tiny

from adavipro import building, presets
from adavipro.controls import SigmoidMasks, SmmMasks
from adavipro.masks import MaskGenerator, decide, share_on
from adavipro.settings import SettingError


def test_sigmoid_masks_are_the_generator_without_noise_in_training_and_inference(clip, images, rng):
    method = building.build_method(tiny(where="sigmoid"), clip)
    learned = building.build_method(tiny(), clip)
    assert isinstance(method.masks, SigmoidMasks)
    assert [p.shape for p in method.parameters()] == [p.shape for p in learned.parameters()]
    shown, trained = method(images), method(images, 5.0, rng)
    assert torch.equal(shown.decisions, trained.decisions)
    silent = torch.zeros_like(shown.logits)
    torch.testing.assert_close(shown.decisions, decide(shown.logits, 1.0, silent, hard=False))
    assert 0 < shown.decisions.min() < shown.decisions.max() < 1
    trained.images.square().sum().backward()
    assert method.masks.policy.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("region_px", "side"), [(8, 28), (32, 7), (1, 224)])
def test_smm_masks_have_three_channels_and_smms_parameter_count(region_px, side, rng):
    masks = SmmMasks(224, region_px, rng)
    assert sum(p.numel() for p in masks.parameters()) == 102_339
    assert masks(torch.randn(1, 3, 224, 224, generator=rng)).shape == (1, 3, side, side)


def test_smm_mask_of_an_image_depends_on_that_image_alone(images, rng):
    masks = SmmMasks(56, 8, rng).eval()
    torch.testing.assert_close(masks(images)[:1], masks(images[:1]))


def test_smm_masks_each_colour_of_the_prompt_by_itself(clip, images):
    method = building.build_method(tiny(where="smm", prompt_px=28), clip)
    shown = method(images)
    assert shown.decisions.shape == (4, 3, 7, 7)
    assert shown.mask.shape == images.shape
    torch.testing.assert_close(shown.images - images, method.prompt() * shown.mask)
    live = method.live_regions()
    assert share_on(shown.decisions, live) == pytest.approx(shown.decisions.mean().item(), rel=1e-5)
    shown.images.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


def test_smm_region_that_does_not_divide_names_those_that_do():
    with pytest.raises(ValueError, match=r"region_px is 32, but .* 56 px .* 1, 2, 4, 8$"):
        SmmMasks(56, 32)


def test_variants_are_methods_with_single_settings_changed():
    assert presets.preset("paper", "vp-random-patch").prompt_kind == "random-patch"
    assert presets.preset("embedded", "smm").where == "smm"
    kind = building.build_method(presets.preset("embedded", "soft-masks"), _Frozen())
    assert type(kind.masks) is SigmoidMasks
    assert (
        type(building.build_method(presets.preset("embedded", "adavipro"), _Frozen()).masks) is MaskGenerator
    )
    with pytest.raises(SettingError, match="random_share is 'learned'"):
        presets.preset("paper", "random-masks")
    with pytest.raises(SettingError, match=r"recipe is 'best', .* paper, ours"):
        presets.preset("paper", "vp", recipe="best")


class _Frozen:
    image_px = 56
    mean = torch.zeros(1, 3, 1, 1)
    std = torch.ones(1, 3, 1, 1)
