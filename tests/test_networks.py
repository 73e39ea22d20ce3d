"""Networks of other libraries: what goes together, and the faster first layer."""

import re

import huggingface_hub
import open_clip
import pytest
import torch
from torch import nn

from adavipro.classifiers import FrozenClip
from adavipro.networks import PatchEmbedding, check_clip
from adavipro.settings import SettingError


@pytest.mark.parametrize("bias", [True, False])
def test_patch_embedding_is_the_convolution(bias, rng):
    conv = nn.Conv2d(3, 5, 8, stride=8, bias=bias).double()
    ours, theirs = torch.randn(2, 3, 16, 24, generator=rng).double().expand(2, -1, -1, -1, -1).clone()
    ours.requires_grad_(), theirs.requires_grad_()
    embedded, expected = PatchEmbedding(conv)(ours), conv(theirs)
    torch.testing.assert_close(embedded, expected, rtol=1e-12, atol=1e-12)
    embedded.sin().sum().backward()
    expected.sin().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "pretrained", "said"),
    [
        ("ViT-B-32", "openai", "trained with QuickGELU, other than model 'ViT-B-32': use ViT-B-32-quickgelu"),
        ("RN50", "openai", "use RN50-quickgelu"),
        ("ViT-B/32", "openai", "did you mean 'ViT-B-32'?"),
        ("smal-clip", None, "did you mean 'small-clip'?"),
        ("ViT-B-32-quickgelu", None, "the weights of ViT-B-32-quickgelu are: openai, "),
        ("ViT-B-32-quickgelu", "opnai", "the weights of ViT-B-32-quickgelu are: openai, "),
        ("ViT-B-32-quickgelu", "WEIGHTS", "as model local-dir:FOLDER"),
        ("small-clip", "openai", "is a folder with its own weights: leave it out"),
        ("ViT-B-16-SigLIP", "webli", "wants images with resize_mode 'squash', but here it is 'shortest'"),
        (
            "MobileCLIP-B",
            "datacompdr",
            "wants images with interpolation 'bilinear', but here it is 'bicubic'",
        ),
        ("coca_ViT-B-32", "laion2b_s13b_b90k", "use one that is CLIP alone"),
    ],
)
def test_model_and_weights_that_do_not_go_together_are_one_sentence(model, pretrained, said, tmp_path):
    (tmp_path / "weights.pt").write_bytes(
        b"weights"
    )  # open_clip would take it, with its own idea of preprocessing
    wanted = str(tmp_path / "weights.pt") if pretrained == "WEIGHTS" else pretrained
    with pytest.raises(SettingError, match=re.escape(said)) as caught:
        FrozenClip.load(model, ["star"], wanted)
    assert "\n" not in str(caught.value)


def test_every_tag_of_open_clips_is_taken_or_refused_before_anything_is_fetched():
    taken, refused = [], []
    for model, tag in open_clip.list_pretrained():
        try:
            check_clip(model, model, tag)
            taken.append((model, tag))
        except SettingError as error:
            refused.append(str(error))
    reasons = ("QuickGELU", "resize_mode", "interpolation", "captions")
    assert all(any(word in told for word in reasons) for told in refused)
    assert {("ViT-B-32-quickgelu", "openai"), ("ViT-L-14-quickgelu", "openai")} <= set(taken)
    assert ("ViT-B-16", "laion2b_s34b_b88k") in taken
    for model, tag in taken:
        weights, config = open_clip.get_pretrained_cfg(model, tag), open_clip.get_model_config(model)
        assert weights.get("quick_gelu", False) == config.get("quick_gelu", False)
        assert weights.get("resize_mode", "shortest") == "shortest"


def test_weights_that_cannot_be_fetched_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SettingError) as caught:
        FrozenClip.load("ViT-B-32-quickgelu", ["star"], "openai")
    told = str(caught.value)
    assert told.startswith("model 'ViT-B-32-quickgelu' with pretrained 'openai' cannot be loaded: ")
    assert "fetched once, which needs the network, and kept under HF_HOME" in told
    assert "\n" not in told
