"""Frozen classifiers by name: what goes together, class names, weights that cannot be had, and label mappings."""

import hashlib
import json
import pickle
import re
import urllib.error
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from adavipro import data, models
from adavipro.data import Split
from adavipro.datasets import embedded
from adavipro.method import AdaViPro
from adavipro.models import MappedClassifier, Network, PatchEmbedding, clean_class_names, greedy_mapping, load
from adavipro.prompts import FramePrompt
from adavipro.recipe import SettingError

NAMES = ["star", "moon", "arrow"]


def mapped(model: str, pretrained: str | None = "random", mapping: str = "identity") -> Network:
    return Network(model, pretrained, label_mapping=mapping)


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


# --- Class names --------------------------------------------------------------------------------------------------


def test_class_names_are_cleaned_as_vp_does_and_composed():
    assert clean_class_names(("Annual_Crop", "T-shirt ", "9")) == ["annual crop", "t shirt", "9"]
    assert clean_class_names(["cafe\u0301", "tea"]) == ["caf\u00e9", "tea"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "class_names is empty"),
        (["cat", "_-"], "class name 1 is empty"),
        (["cat", "Cat"], "['cat'] occur more than once"),
        (["a_b", "dog", "a-b"], "['a b'] occur more than once"),
        (["cafe\u0301", "caf\u00e9"], "['caf\u00e9'] occur more than once"),
        ("cat", "'cat'"),
    ],
)
def test_class_names_that_are_empty_or_the_same_are_an_error(names, said):
    with pytest.raises(SettingError, match=re.escape(said)):
        clean_class_names(names)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cat", "dog", "star"], "does not know words of the classes 'cat', 'dog': use other names"),
        (["n02113624", "n02113623"], "does not know words of the classes 'n02113624', 'n02113623'"),
        (["star", "blue whale"], "does not know words of the classes 'blue whale'"),
        (
            [9 * "star " + "moon", 9 * "star " + "arrow", "moon"],
            "cannot tell apart, in the 16 tokens that it reads, the classes 'star",
        ),
        (["star", "  star\tstar", "star star"], "cannot tell apart the classes 'star\\tstar', 'star star'"),
    ],
)
def test_classes_that_the_text_encoder_does_not_know_or_tell_apart_are_refused(names, said):
    with pytest.raises(SettingError, match=re.escape(said)) as caught:
        load(Network(), names)
    assert "classes.json), another model, or one of torchvision or timm with a label_mapping" in str(
        caught.value
    )


def test_a_template_that_leaves_no_room_for_the_names_is_refused():
    with pytest.raises(
        SettingError, match=r"cannot tell apart, in the 16 tokens that it reads, the classes 'star', 'moon"
    ):
        load(Network(template=14 * "photo " + "{}"), NAMES)


@pytest.mark.parametrize("pretrained", [None, "random"])
def test_classes_of_the_drawn_data_sets_are_told_apart(pretrained):
    for names in embedded.CLASS_NAMES.values():
        embeddings = load(Network(pretrained=pretrained), names).class_embeddings
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(names)))


def test_template_changes_the_embeddings(clip):
    other = load(Network(template="{}"), clip.class_names)
    assert other.class_embeddings.shape == clip.class_embeddings.shape
    assert not torch.allclose(other.class_embeddings, clip.class_embeddings)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{name}", "{{}}", "{name} {}", ""])
def test_template_without_exactly_one_place_for_the_name_is_an_error(template):
    with pytest.raises(SettingError, match=re.escape(f"template is {template!r}")):
        Network(template=template)


# --- Names and weights that go together ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "pretrained", "said"),
    [
        ("ViT-B-32", "openai", "trained with QuickGELU, other than model 'ViT-B-32': use ViT-B-32-quickgelu"),
        ("RN50", "openai", "use RN50-quickgelu"),
        ("ViT-B/32", "openai", "did you mean 'ViT-B-32'?"),
        ("smal-clip", None, "did you mean 'small-clip'?"),
        ("ViT-B-32-quickgelu", None, "ViT-B-32-quickgelu has none of that name: use one of openai, "),
        ("ViT-B-32-quickgelu", "opnai", "did you mean 'openai'?"),
        ("small-clip", "openai", "has its own weights: leave it out"),
        ("ViT-B-16-SigLIP", "webli", "wants images with resize_mode 'squash', but here it is 'shortest'"),
        ("MobileCLIP-B", "datacompdr", "wants images with interpolation 'bilinear', but here it is 'bicubic'"),
        ("coca_ViT-B-32", "laion2b_s13b_b90k", "use one that is CLIP alone"),
        ("torchvision:resnet5O", "IMAGENET1K_V1", "torchvision has none of that name: did you mean 'resnet50'?"),
        ("torchvision:fasterrcnn_resnet50_fpn", "random", "torchvision has none of that name"),
        ("torchvision:resnet18", "IMAGENET1K_V7", "did you mean 'IMAGENET1K_V1'?"),
        ("torchvision:resnet18", None, "use one of IMAGENET1K_V1, random"),
        ("torchvision:", "random", "torchvision has none of that name"),
        ("timm:resnt50.a1_in1k", None, "timm has none of that name: did you mean 'resnet50."),
        ("timm:resnt50", "random", "Unknown model (resnt50)"),
        ("timm:test_resnet", None, "did you mean 'test_resnet.r160_in1k'?"),
        ("timm:test_resnet", "best", "did you mean 'test_resnet.r160_in1k'?"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "random", "has features but no classes: use one that classifies"),
    ],
)  # fmt: skip
def test_model_and_weights_that_do_not_go_together_are_one_sentence(model, pretrained, said):
    mapping = "identity" if ":" in model else None
    with pytest.raises(SettingError, match=re.escape(said)) as caught:
        load(Network(model, pretrained, label_mapping=mapping), NAMES)
    assert "\n" not in str(caught.value)
    assert "connection" not in str(caught.value)


def test_every_tag_of_open_clips_is_taken_or_refused_before_anything_is_fetched():
    taken, refused = [], []
    for model, tag in open_clip.list_pretrained():
        try:
            models._check_clip(Network(model, tag))
            taken.append((model, tag))
        except SettingError as error:
            refused.append(str(error))
    reasons = ("QuickGELU", "resize_mode", "interpolation", "captions")
    assert all(any(word in told for word in reasons) for told in refused)
    assert {("ViT-B-32-quickgelu", "openai"), ("ViT-L-14-quickgelu", "openai")} <= set(taken)
    assert ("ViT-B-16", "laion2b_s34b_b88k") in taken


def test_a_label_mapping_is_for_models_with_classes_of_their_own():
    for model, mapping in (
        ("small-clip", "identity"),
        ("timm:test_resnet", None),
        ("torchvision:resnet18", None),
    ):
        with pytest.raises(
            SettingError, match=re.escape(f"label_mapping is {mapping!r} and model is {model!r}")
        ):
            Network(model, "random", label_mapping=mapping)


def test_weights_are_known_by_their_hash_where_they_are_a_local_file(small_clip_folder, tmp_path):
    weights = (small_clip_folder / "open_clip_model.safetensors").read_bytes()
    assert models.weights_sha256("small-clip") == hashlib.sha256(weights).hexdigest()
    assert models.weights_sha256("ViT-B-32-quickgelu") is None
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert models.weights_sha256(f"timm:local-dir:{tmp_path}") == hashlib.sha256(b"weights").hexdigest()
    assert models.weights_sha256("timm:resnet50") is None
    with pytest.raises(SettingError, match=r"open_clip_model\.safetensors does not exist"):
        models.weights_sha256(f"local-dir:{tmp_path}")


def test_a_network_is_known_by_its_tensors_and_their_names():
    network = nn.Linear(2, 3)
    network.tied = network.weight
    known = models.tensors_sha256(network)
    assert models.tensors_sha256(network) == known
    with torch.no_grad():
        network.bias[0] += 1
    assert models.tensors_sha256(network) != known
    assert models.tensors_sha256(nn.Sequential(network)) != models.tensors_sha256(network)


def test_an_untrained_clip_is_the_same_for_everyone_and_not_the_trained_one(clip):
    state = torch.random.get_rng_state()
    first, second = (load(Network(pretrained="random"), clip.class_names) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(first, second)
    assert not torch.allclose(first.class_embeddings, clip.class_embeddings, atol=0.1)
    assert not torch.equal(first.network.proj, clip.network.proj)


def test_a_folder_has_its_own_preprocessing(small_clip_folder, tmp_path, monkeypatch):
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / name).write_bytes((small_clip_folder / name).read_bytes())
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= {"mean": [0.1, 0.2, 0.3]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    loaded = load(Network(f"local-dir:~/{tmp_path.name}"), ["star"])
    assert loaded.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    config["preprocess_cfg"] |= {"resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(SettingError, match="wants images with resize_mode 'squash'"):
        load(Network(f"local-dir:{tmp_path}"), ["star"])


def test_a_device_that_is_not_there_is_one_sentence():
    for device in ("gpu", "cuda:99"):
        with pytest.raises(
            SettingError,
            match=rf"^device is '{device}', which torch cannot use here \(.*: use cpu, or a torch",
        ) as caught:
            load(Network(), NAMES, device)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bias", [True, False])
def test_patch_embedding_is_the_convolution(bias, rng):
    conv = nn.Conv2d(3, 5, 8, stride=8, bias=bias).double()
    ours, theirs = torch.randn(2, 3, 16, 24, generator=rng).double().expand(2, -1, -1, -1, -1).clone()
    ours.requires_grad_(), theirs.requires_grad_()
    embedded_, expected = PatchEmbedding(conv)(ours), conv(theirs)
    torch.testing.assert_close(embedded_, expected, rtol=1e-12, atol=1e-12)
    embedded_.sin().sum().backward()
    expected.sin().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


# --- Weights that cannot be had, and pickles ----------------------------------------------------------------------


class Payload:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.fixture
def trace(tmp_path):
    """The file that a payload would make."""
    return tmp_path / "executed"


def torchvisions_file(folder: Path) -> Path:
    """Where torchvision keeps the weights of squeezenet1_1."""
    url = torchvision.models.get_model_weights("squeezenet1_1").IMAGENET1K_V1.url
    file = folder / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    return file


def test_s1_the_payload_of_these_tests_works(trace):
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()


@pytest.mark.parametrize("write", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))])
def test_s1_a_pickle_in_torchvisions_cache_is_not_run(write, trace, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    write({"weight": Payload(trace)}, torchvisions_file(tmp_path))
    with pytest.raises(
        SettingError, match=r"model 'torchvision:squeezenet1_1' .* cannot be loaded"
    ) as caught:
        load(mapped("torchvision:squeezenet1_1", "IMAGENET1K_V1"), ["star"])
    assert "connection" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "open_clip_pytorch_model.bin", "model.pth", "model.safetensors"]
)
def test_s1_a_pickle_in_a_folder_is_not_run(name, trace, tmp_path, small_clip_folder):
    torch.save({"weight": Payload(trace)}, tmp_path / name)
    config = (small_clip_folder / "open_clip_config.json").read_bytes()
    (tmp_path / "open_clip_config.json").write_bytes(config)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": {}}))
    with pytest.raises(SettingError, match=r"open_clip_model\.safetensors does not exist"):
        load(Network(f"local-dir:{tmp_path}"), ["star"])
    told = "cannot be loaded" if name == "model.safetensors" else r"model\.safetensors does not exist"
    with pytest.raises(SettingError, match=told):
        load(mapped(f"timm:local-dir:{tmp_path}", None), ["star"])
    (tmp_path / name).rename(tmp_path / "open_clip_model.safetensors")
    with pytest.raises(SettingError, match="cannot be loaded"):
        load(Network(f"local-dir:{tmp_path}"), ["star"])
    assert not trace.exists()


def test_s3_weights_that_cannot_be_fetched_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    for network in (
        Network("ViT-B-32-quickgelu", "openai"),
        mapped("timm:test_resnet", "r160_in1k"),
        mapped("torchvision:squeezenet1_1", "IMAGENET1K_V1"),
    ):
        with pytest.raises(SettingError, match=f"^model '{network.model}' .* cannot be loaded: ") as caught:
            load(network, ["star"])
        assert "fetched once, which needs a network connection, and kept under HF_HOME or TORCH_HOME" in str(
            caught.value
        )
        assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- torchvision and timm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_an_untrained_network_is_the_same_for_everyone_and_frozen(name):
    state = torch.random.get_rng_state()
    first, second = (load(mapped(name), NAMES) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(first, second)
    assert not any(p.requires_grad for p in first.parameters())
    assert not any(module.training for module in first.train().modules())
    assert (first.class_names, first.name, first.sources) == (NAMES, name, 1000)


def test_side_and_normalisation_are_the_models_own():
    torchvisions = load(mapped("torchvision:squeezenet1_1"), NAMES)
    assert torchvisions.image_px == 224
    assert torchvisions.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert torchvisions.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    timms = load(mapped("timm:test_resnet"), NAMES)
    assert timms.image_px == 160
    assert timms.mean.flatten().tolist() == timms.std.flatten().tolist() == [0.5, 0.5, 0.5]


def test_logits_are_the_networks_own_in_the_order_of_the_mapping(rng):
    classifier = load(mapped("timm:test_resnet"), NAMES)
    images = torch.randn(2, 3, 160, 160, generator=rng)
    expected = classifier.network(images)
    assert torch.equal(classifier(images), expected[:, :3])
    classifier.use_mapping([7, 999, 0])
    assert classifier.mapping_index() == [7, 999, 0]
    assert torch.equal(classifier(images), expected[:, [7, 999, 0]])
    classifier.use_mapping(None)
    assert classifier.mapping_index() == [0, 1, 2]


def test_the_gradient_reaches_the_prompt_and_nothing_else(rng):
    classifier = load(mapped("timm:test_resnet", mapping="frequency"), NAMES)
    method = AdaViPro(FramePrompt(160, 20, generator=rng))
    images = torch.randn(2, 3, 160, 160, generator=rng)
    nn.functional.cross_entropy(classifier(method(images).images), torch.tensor([0, 2])).backward()
    gradient = method.prompt.values.grad
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    assert all(p.grad is None for p in classifier.parameters())


def test_weights_of_torchvision_are_read_from_its_own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = torchvision.models.squeezenet1_1()
    torch.save(network.state_dict(), torchvisions_file(tmp_path))
    assert same(load(mapped("torchvision:squeezenet1_1", "IMAGENET1K_V1"), NAMES).network, network)


def test_a_folder_of_timms_is_a_model_with_its_own_preprocessing(tmp_path):
    images = {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config = {"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": images | {"num_classes": 5}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = timm.create_model("test_resnet", num_classes=5)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    folder = f"timm:local-dir:{tmp_path}"
    classifier = load(mapped(folder, None), NAMES)
    assert (classifier.image_px, classifier.sources) == (96, 5)
    assert classifier.mean.flatten().tolist() == pytest.approx(images["mean"])
    assert same(classifier.network, network)
    with pytest.raises(SettingError, match=r"the data set has 6 classes, but model .* has 5"):
        load(mapped(folder, None), list("abcdef"))
    with pytest.raises(SettingError, match=r"pretrained is 'a1_in1k'.*leave it out"):
        load(mapped(folder, "a1_in1k"), NAMES)


# --- Label mappings -----------------------------------------------------------------------------------------------


class ColourNet(nn.Module):
    """Six classes of colours: the mean of each channel, then the means of their opposites."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(10.0))

    def forward(self, images):
        means = self.factor * images.mean((2, 3))
        return torch.cat([means.flip(1), -means.flip(1)], 1)  # blue, green, red, and what is least so


def colours(mapping: str) -> MappedClassifier:
    names = ["red", "green", "blue"]
    return MappedClassifier(ColourNet(), mapping, class_names=names, image_px=8, mean=3 * [0.5], std=3 * [1])


@pytest.fixture
def pictures() -> Split:
    """Thirty pictures, each of one colour among grey."""
    labels = torch.arange(30) % 3
    images = torch.full((30, 3, 8, 8), 100, dtype=torch.uint8)
    images[torch.arange(30), labels] = 200
    return Split(images, None, labels)


def frame(colour: int) -> AdaViPro:
    """A prompt that makes each picture darker in one colour, by far."""
    prompt = FramePrompt(8, 4, start_std=0.0)
    with torch.no_grad():
        prompt.values[colour] = -5.0
    return AdaViPro(prompt)


def brute_force(counts: torch.Tensor) -> list[int]:
    left, index = counts.clone(), [-1] * counts.shape[1]
    while -1 in index:
        sources, targets = counts.shape
        places = [(-left[s, t].item(), s, t) for s in range(sources) for t in range(targets)]
        _, source, target = min(places)
        index[target] = source
        left[source] = left[:, target] = -1
    return index


def test_greedy_mapping_by_hand():
    counts = torch.tensor([[5, 9, 0], [8, 8, 1], [0, 0, 0], [2, 7, 1]])
    assert greedy_mapping(counts) == [1, 0, 3]  # 9, then 8; the third class is left with source 3


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (6, 4), (9, 2)])
def test_greedy_mapping_takes_the_largest_count_again_and_again(shape, rng):
    for _ in range(40):
        counts = torch.randint(5, shape, generator=rng)  # many ties
        assert greedy_mapping(counts) == brute_force(counts)
    assert greedy_mapping(torch.zeros(shape, dtype=torch.int64)) == list(range(shape[1]))


def test_identity_never_changes(pictures):
    classifier = colours("identity")
    classifier.refresh_mapping(frame(0), pictures, 0)
    assert classifier.mapping_index() == [0, 1, 2]


def test_frequency_is_found_once_on_unprompted_images(pictures):
    classifier = colours("frequency")
    assert classifier.mapping_index() == [0, 1, 2]  # until it is found
    classifier.refresh_mapping(frame(0), pictures, 0)
    assert classifier.mapping_index() == [2, 1, 0]
    classifier.use_mapping([3, 4, 5])
    classifier.refresh_mapping(frame(0), pictures, 1)
    assert classifier.mapping_index() == [3, 4, 5]


def test_iterative_follows_the_prompt_and_says_nothing_of_gradients(pictures):
    classifier, method = colours("iterative"), frame(0)
    classifier.refresh_mapping(None, pictures, 0)
    assert classifier.mapping_index() == [2, 1, 0]
    classifier.refresh_mapping(method, pictures, 1)
    expected = greedy_mapping(classifier.count(pictures, method))
    assert classifier.mapping_index() == expected
    assert expected != [2, 1, 0]  # under the prompt all pictures look least red
    assert classifier.count(pictures, method)[5].tolist() == [10, 10, 10]
    assert method.prompt.values.grad is None


def test_counts_are_those_of_each_image_by_itself(pictures, monkeypatch):
    classifier = colours("frequency")
    whole = classifier.count(pictures)
    monkeypatch.setattr(data, "EVALUATION_BATCH", 7)
    assert torch.equal(classifier.count(pictures), whole)
    assert whole.sum() == len(pictures)
    assert whole[:3].flip(0).equal(10 * torch.eye(3, dtype=torch.int64))


@pytest.mark.parametrize("index", [[0, 1], [0, 1, 1], [0, 1, 6], [-1, 0, 1], [0, 1, 2, 3]])
def test_an_index_that_is_no_mapping_is_an_error_and_changes_nothing(index):
    classifier = colours("identity")
    with pytest.raises(ValueError, match=re.escape(f"mapping is {index}, but it must hold 3 different")):
        classifier.use_mapping(index)
    assert classifier.mapping_index() == [0, 1, 2]
