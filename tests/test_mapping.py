"""Classifiers of torchvision and timm with a label mapping: what they are, and which class stands for which."""

import json
import re

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from adavipro.datasets import Split
from adavipro.mapping import MAPPINGS, MappedClassifier, greedy_mapping
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt

NAMES = ["red", "green", "blue"]


class ColourNet(nn.Module):
    """Six classes of colours: the mean of each channel, then the means of their opposites."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(10.0))

    def forward(self, images):
        means = self.factor * images.mean((2, 3))
        return torch.cat([means.flip(1), -means.flip(1)], 1)  # blue, green, red, and what is least so


def colours(mapping: str) -> MappedClassifier:
    mean, std = torch.full((1, 3, 1, 1), 0.5), torch.ones(1, 3, 1, 1)
    return MappedClassifier(ColourNet(), list(NAMES), mean, std, 8, "colours", 6, mapping)


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


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_an_untrained_network_is_the_same_for_everyone_and_frozen(name):
    state = torch.random.get_rng_state()
    first, second = (MappedClassifier.load(name, NAMES, "random") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.state_dict().keys() == second.state_dict().keys()
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    assert not any(p.requires_grad for p in first.parameters())
    first.train()
    assert not any(module.training for module in first.modules())
    assert (first.class_names, first.name, first.sources) == (NAMES, name, 1000)


def test_side_and_normalisation_are_the_models_own():
    torchvisions = MappedClassifier.load("torchvision:squeezenet1_1", NAMES, "random")
    assert torchvisions.image_px == 224
    assert torchvisions.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert torchvisions.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    timms = MappedClassifier.load("timm:test_resnet", NAMES, "random")
    assert timms.image_px == 160
    assert timms.mean.flatten().tolist() == timms.std.flatten().tolist() == [0.5, 0.5, 0.5]


def test_logits_are_the_networks_own_in_the_order_of_the_mapping(rng):
    classifier = MappedClassifier.load("timm:test_resnet", NAMES, "random")
    images = torch.randn(2, 3, 160, 160, generator=rng)
    expected = classifier.visual(images)
    assert torch.equal(classifier(images), expected[:, :3])
    classifier.use_mapping([7, 999, 0])
    assert classifier.mapping_index() == [7, 999, 0]
    assert torch.equal(classifier(images), expected[:, [7, 999, 0]])
    classifier.use_mapping(None)
    assert classifier.mapping_index() == [0, 1, 2]


def test_the_gradient_reaches_the_prompt_and_nothing_else(rng):
    classifier = MappedClassifier.load("timm:test_resnet", NAMES, "random", "frequency")
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    method = AdaViPro(FramePrompt(160, 20, generator=rng))
    both = nn.ModuleList([method, classifier]).train()
    optimiser = torch.optim.SGD([p for p in both.parameters() if p.requires_grad], lr=1.0, weight_decay=0.1)
    images = torch.randn(2, 3, 160, 160, generator=rng)
    nn.functional.cross_entropy(classifier(method(images).images), torch.tensor([0, 2])).backward()
    gradient = method.prompt.values.grad
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_weights_of_torchvision_are_read_from_its_own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.get_model_weights("squeezenet1_1").IMAGENET1K_V1
    file = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
    loaded = MappedClassifier.load("torchvision:squeezenet1_1", NAMES, "IMAGENET1K_V1").visual.state_dict()
    stored = torch.load(file, weights_only=True)
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())


def test_a_folder_of_timms_is_a_model_with_its_own_preprocessing(tmp_path):
    images = {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config = {"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": images | {"num_classes": 5}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = timm.create_model("test_resnet", num_classes=5)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    classifier = MappedClassifier.load(f"timm:local-dir:{tmp_path}", NAMES)
    assert (classifier.image_px, classifier.sources) == (96, 5)
    assert classifier.mean.flatten().tolist() == pytest.approx(images["mean"])
    assert all(torch.equal(classifier.visual.state_dict()[n], v) for n, v in network.state_dict().items())
    with pytest.raises(ValueError, match=r"the data set has 6 classes, but model .* has 5"):
        MappedClassifier.load(f"timm:local-dir:{tmp_path}", list("abcdef"))
    with pytest.raises(ValueError, match=r"pretrained is 'a1_in1k'.*leave it out"):
        MappedClassifier.load(f"timm:local-dir:{tmp_path}", NAMES, "a1_in1k")


@pytest.mark.parametrize(
    ("model", "pretrained", "said"),
    [
        ("torchvision:resnet5O", None, "no such image classifier: did you mean 'resnet50'?"),
        ("torchvision:fasterrcnn_resnet50_fpn", None, "no such image classifier"),
        (
            "torchvision:resnet18",
            "IMAGENET1K_V7",
            "the weights of torchvision:resnet18 are: IMAGENET1K_V1, random",
        ),
        ("timm:resnt50", None, "timm has no such model: did you mean 'resnet50'?"),
        ("timm:test_resnet", "best", "the weights of timm:test_resnet are: r160_in1k, random"),
        ("timm:test_resnet.best", None, "pretrained is 'best'"),
        ("timm:resnet10t.c3_in1k", "best", "pretrained is 'best'"),
        ("resnet50", None, "it is torchvision:NAME, timm:NAME or timm:local-dir:FOLDER"),
        ("torchvision:", None, "it is torchvision:NAME"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(model, pretrained, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        MappedClassifier.load(model, NAMES, pretrained)
    assert "\n" not in str(caught.value)
    assert "network" not in str(caught.value)


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
    monkeypatch.setattr("adavipro.mapping.EVALUATION_BATCH", 7)
    assert torch.equal(classifier.count(pictures), whole)
    assert whole.sum() == len(pictures)
    assert whole[:3].flip(0).equal(10 * torch.eye(3, dtype=torch.int64))


@pytest.mark.parametrize("index", [[0, 1], [0, 1, 1], [0, 1, 6], [-1, 0, 1], [0, 1, 2, 3]])
def test_an_index_that_is_no_mapping_is_an_error_and_changes_nothing(index):
    classifier = colours("identity")
    with pytest.raises(ValueError, match=re.escape(f"mapping is {index}, but it must hold 3 different")):
        classifier.use_mapping(index)
    assert classifier.mapping_index() == [0, 1, 2]


def test_a_mapping_must_be_known_and_every_class_must_find_a_source():
    assert MAPPINGS == ("identity", "frequency", "iterative")
    with pytest.raises(ValueError, match="mapping is 'random', but it must be one of: identity"):
        colours("random")
    one = torch.ones(1, 3, 1, 1)
    with pytest.raises(ValueError, match="the data set has 7 classes, but model 'colours' has 6"):
        MappedClassifier(ColourNet(), list("abcdefg"), one, one, 8, "colours", 6)
