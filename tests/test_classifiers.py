import hashlib
import json
import re

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

from adavipro.classifiers import FrozenClip, clean_class_names, weights_sha256
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt
from adavipro.settings import SettingError


@pytest.fixture(scope="module")
def reference(small_clip_folder) -> nn.Module:
    """The same model as open_clip makes it, untouched by us."""
    return open_clip.create_model(f"local-dir:{small_clip_folder}").eval()


@pytest.fixture(scope="module")
def reference_embeddings(reference, clip, small_clip_folder) -> torch.Tensor:
    tokenizer = open_clip.get_tokenizer(f"local-dir:{small_clip_folder}")
    with torch.no_grad():
        features = reference.encode_text(tokenizer([f"This is a photo of a {n}" for n in clip.class_names]))
    return features / features.norm(dim=-1, keepdim=True)


def test_logits_and_input_gradient_are_open_clips_own(clip, reference, reference_embeddings, images):
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    features = reference.encode_image(theirs)
    features = features / features.norm(dim=-1, keepdim=True)
    expected = reference.logit_scale.exp() * features @ reference_embeddings.T
    logits = clip(ours)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())

    logits.logsumexp(1).sum().backward()
    expected.logsumexp(1).sum().backward()
    scale = theirs.grad.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4 * scale)


def test_nothing_in_it_takes_a_gradient_or_leaves_evaluation(clip):
    assert not any(p.requires_grad for p in clip.parameters())
    assert clip.train() is clip
    nn.Sequential(clip).train()
    assert not any(module.training for module in clip.modules())


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


def test_class_names_are_encoded_once(monkeypatch, small_clip_folder, images):
    encoded = []
    create = open_clip.create_model

    def create_and_count(*args, **kwargs):
        model = create(*args, **kwargs)
        encode = model.encode_text
        model.encode_text = lambda tokens, **options: encoded.append(len(tokens)) or encode(tokens, **options)
        return model

    monkeypatch.setattr(open_clip, "create_model", create_and_count)
    clip = FrozenClip.load(f"local-dir:{small_clip_folder}", ["star", "moon", "sun"])
    for _ in range(3):
        clip(images)
    assert encoded == [3]


def test_template_changes_the_embeddings(clip):
    other = FrozenClip.load("small-clip", clip.class_names, template="{}")
    assert other.class_embeddings.shape == clip.class_embeddings.shape
    assert not torch.allclose(other.class_embeddings, clip.class_embeddings)


def test_normalisation_is_the_models_own_for_bytes_and_for_shares(clip, rng):
    pixels = torch.randint(256, (2, 3, 56, 56), generator=rng, dtype=torch.uint8)
    mean = np.array([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
    std = np.array([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)
    expected = torch.from_numpy((pixels.numpy() / 255 - mean) / std).float()
    torch.testing.assert_close(clip.normalise(pixels), expected)
    torch.testing.assert_close(clip.normalise(pixels.float() / 255), expected)
    assert clip.image_px == 56


def test_class_names_are_cleaned_as_vp_does():
    assert clean_class_names(("Annual_Crop", "T-shirt ", "9")) == ["annual crop", "t shirt", "9"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "class_names is empty"),
        (["cat", "_-"], "class name 1 is empty"),
        (["cat", "Cat"], "['cat'] occur more than once"),
        (["a_b", "dog", "a-b"], "['a b'] occur more than once"),
        ("cat", "'cat'"),
    ],
)
def test_class_names_that_cannot_be_told_apart_are_an_error(names, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        clean_class_names(names)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{name}", "{{}}", "{name} {}", ""])
def test_template_without_exactly_one_place_for_the_name_is_an_error(template):
    with pytest.raises(ValueError, match=re.escape(f"template is {template!r}")):
        FrozenClip.load("small-clip", ["star"], template=template)


def test_weights_are_known_by_their_hash_where_they_are_a_local_file(small_clip_folder, tmp_path):
    weights = (small_clip_folder / "open_clip_model.safetensors").read_bytes()
    assert weights_sha256("small-clip") == hashlib.sha256(weights).hexdigest()
    assert weights_sha256("ViT-B-32-quickgelu") is None
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert weights_sha256(f"timm:local-dir:{tmp_path}") == hashlib.sha256(b"weights").hexdigest()
    assert weights_sha256("timm:resnet50") is None
    with pytest.raises(ValueError, match=r"open_clip_model\.safetensors does not exist"):
        weights_sha256(f"local-dir:{tmp_path}")


def test_float32_logits_are_the_formula_to_the_last_bit_even_within_autocast(clip, images):
    outputs = clip.visual(images)
    features = nn.functional.normalize(outputs, dim=-1)
    expected = clip.scale * features @ clip.class_embeddings.T
    assert torch.equal(clip(images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(clip.visual(images).float(), clip.outputs(images))
        assert torch.equal(clip.outputs(images), outputs)


def test_a_clip_has_no_label_mapping(clip, images):
    before = clip(images)
    clip.refresh_mapping(None, None, 0)
    clip.use_mapping(None)
    assert clip.mapping_index() is None
    assert torch.equal(clip(images), before)


def test_an_untrained_network_is_the_same_for_everyone_and_not_the_trained_one(clip):
    state = torch.random.get_rng_state()
    first, second = (FrozenClip.load("small-clip", clip.class_names, "random") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = second.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.state_dict().items())
    assert not torch.allclose(first.class_embeddings, clip.class_embeddings, atol=0.1)
    assert not torch.equal(first.visual.proj, clip.visual.proj)


def test_a_folder_that_wants_other_images_is_refused(small_clip_folder, tmp_path):
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / name).write_bytes((small_clip_folder / name).read_bytes())
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= {"mean": [0.1, 0.2, 0.3]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    loaded = FrozenClip.load(f"local-dir:{tmp_path}", ["star"])
    assert loaded.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    config["preprocess_cfg"] |= {"resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(SettingError, match="wants images with resize_mode 'squash'"):
        FrozenClip.load(f"local-dir:{tmp_path}", ["star"])
