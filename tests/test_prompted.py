"""Any network, any data: fit, evaluate, save, load, classify; and the caller's network stays as it was."""

import copy
import json
import multiprocessing
import re
import shutil
from pathlib import Path

import numpy as np
import open_clip
import own_network
import pytest
import torch
from helpers import draw_image, small_splits, tiny
from own_network import CLASSES, SIDE, dataset, network, pictures
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

import adavipro
from adavipro import checkpoints, datasets, experiment, models, training
from adavipro.classifier import FrozenClassifier
from adavipro.data import Split
from adavipro.evaluation import Evaluation
from adavipro.models import MappedClassifier, Network
from adavipro.prompted import PromptedClassifier

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")
QUICK = {"epochs": 2, "batch_size": 16, "generator_width": 4, "progress_bar": False}


@pytest.fixture(scope="module")
def fitted():
    return own_network.fit(None, class_names=["ape", "bee", "cow"])


@pytest.fixture
def images() -> torch.Tensor:
    return pictures(6, seed=3)[0]


def in_another_process(code: str, **names) -> None:
    """Run code with names in another process; a fork server spares it the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(own_network.PRELOADED)
    process = context.Process(target=exec, args=(f"import torch\ntorch.set_num_threads(1)\n{code}", names))
    process.start()
    process.join()
    assert process.exitcode == 0


# --- Fit ----------------------------------------------------------------------------------------------------------


def test_five_lines_of_the_readme_run_as_printed_and_say_the_same_in_another_process(
    tmp_path, monkeypatch, images
):
    text = (Path(__file__).parent.parent / "README.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "adavipro.fit" in b)
    here, there = block.split("model = adavipro.load(")
    assert len([line for line in block.splitlines() if line and not line.startswith(("import", "#"))]) == 5
    monkeypatch.chdir(tmp_path)
    names = {"network": network(), "train": dataset(40, 1), "val": dataset(20, 2), "test": dataset(30, 3)}
    exec(here, names)
    expected = names["model"](images)
    prepared = "import adavipro, own_network\nnetwork = own_network.network()\n"
    stored = "\ntorch.save(scores, 'scores.pt')"
    in_another_process(f"{prepared}model = adavipro.load({there}{stored}", images=images)
    scores = torch.load("scores.pt", weights_only=True)
    assert scores.shape == (6, CLASSES)
    assert torch.equal(scores, expected)


def test_fit_is_a_training_of_the_prompt_before_the_network(fitted, images):
    assert isinstance(fitted.classifier, FrozenClassifier)
    assert (fitted.prompt.prompt_px, fitted.masks.region_px) == (
        4,
        4,
    )  # 30 and 32 of 224 px, as a share of 32 px
    frozen = network().eval()
    prompted = fitted.method(images)
    assert torch.equal(fitted(images), frozen(prompted.images))
    assert torch.equal(fitted((255 * images).byte()), fitted((255 * images).byte().float() / 255))
    torch.testing.assert_close(fitted(images.double()), fitted(images))
    start = own_network.fit(None, prompt_lr=0.0, generator_lr=0.0)
    for p, q in zip(fitted.method.parameters(), start.method.parameters(), strict=True):
        assert not torch.equal(p, q)
    assert not any(p.requires_grad for p in fitted.parameters())


def test_callers_network_is_untouched_by_fit_evaluate_and_load(tmp_path):
    mine = network()
    mine[0].weight.requires_grad_(False)
    mine[3].eval()
    before = copy.deepcopy(mine)
    model = adavipro.fit(mine, dataset(32, 1), dataset(16, 2), **QUICK)
    adavipro.evaluate(model, dataset(16, 3))
    model.save(tmp_path / "file")
    adavipro.load(tmp_path / "file", mine)
    assert [m.training for m in mine.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in mine.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(p.grad is None for p in mine.parameters())
    for key, value in mine.state_dict().items():
        assert torch.equal(value, before.state_dict()[key]), key


def test_same_images_give_the_same_prompt_whatever_they_come_in(tmp_path, fitted):
    images, labels = pictures(45, seed=1)
    images, order = (255 * images).byte(), labels.argsort(stable=True)
    images, labels = images[order], labels[order]
    shown = [to_pil_image(image) for image in images]
    for i, (picture, label) in enumerate(zip(shown, labels.tolist(), strict=True)):
        (tmp_path / f"class {label}").mkdir(exist_ok=True)
        picture.save(tmp_path / f"class {label}" / f"{i:02}.png")
    forms = {
        "split": Split(images, None, labels),
        "tensors": torch.utils.data.TensorDataset(images, labels),
        "pillow": list(zip(shown, labels.tolist(), strict=True)),
        "arrays": [(np.array(picture), label) for picture, label in zip(shown, labels, strict=True)],
        "folder": str(tmp_path),
        "path": tmp_path,
    }
    models_ = {name: adavipro.fit(network(), form, image_px=SIDE, **QUICK) for name, form in forms.items()}
    for name, model in models_.items():
        assert model.classifier.class_names == ["class 0", "class 1", "class 2"]
        for p, q in zip(model.method.parameters(), models_["split"].method.parameters(), strict=True):
            assert torch.equal(p, q), name
    results = {
        adavipro.evaluate(model, form) for form, model in zip(forms.values(), models_.values(), strict=True)
    }
    assert len(results) == 1


def test_evaluation_is_that_of_a_loop(fitted):
    data = dataset(30, 3)
    right = sum(int(fitted(image[None]).argmax()) == int(label) for image, label in data)
    found = adavipro.evaluate(fitted, data)
    assert isinstance(found, Evaluation)
    assert found.accuracy == right / 30
    assert 0 < found.share_on < 1
    assert found.object_cover is None


def test_a_fifth_of_train_is_held_out_where_no_val_is_given(monkeypatch):
    seen, train = [], training.train

    def watched(classifier, method, train_split, val_split, *rest):
        seen.append((train_split, val_split))
        return train(classifier, method, train_split, val_split, *rest)

    monkeypatch.setattr(training, "train", watched)
    data = dataset(50, 1)
    for _ in range(2):
        adavipro.fit(network(), data, **QUICK)
    (left, held), (again, _) = seen
    assert (len(left), len(held)) == (40, 10)
    assert torch.equal(left.images, again.images)
    both = torch.cat([left.images, held.images]).flatten(1)
    assert {tuple(image.tolist()) for image in both} == {tuple(image.flatten().tolist()) for image, _ in data}


def test_mean_and_std_are_of_the_networks_normalisation(images):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    model = adavipro.fit(network(), dataset(16, 1), dataset(8, 2), mean=mean, std=std, **QUICK)
    x = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(model(images), network().eval()(model.method(x).images))


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "vp", "prompt_px": 9},
        {"where": "sigmoid"},
        {"where": "random", "random_share": 0.5},
        {"edges": False, "relu": False, "hard": True, "temperature_gamma": 0.5},
    ],
    ids=str,
)
def test_every_setting_of_prompt_masks_and_recipe_goes_through_fit_save_and_load(tmp_path, images, settings):
    model = adavipro.fit(network(), dataset(32, 1), dataset(16, 2), **QUICK, **settings)
    model.save(tmp_path / "new" / "file")
    loaded = adavipro.load(tmp_path / "new" / "file", network())
    assert torch.equal(loaded(images), model(images))
    assert (loaded.kind, loaded.prompt, loaded.masks) == (model.kind, model.prompt, model.masks)


def test_call_that_was_stopped_goes_on_and_a_finished_one_is_not_repeated(tmp_path, monkeypatch):
    seen = []

    def stop_in_the_third(method, history):
        if len(history) == 3:
            raise KeyboardInterrupt
        seen.append(history[-1]["epoch"])

    with pytest.raises(KeyboardInterrupt):
        own_network.fit(tmp_path, watch=stop_in_the_third)
    model = own_network.fit(tmp_path, watch=lambda method, history: seen.append(history[-1]["epoch"]))
    assert seen == list(range(own_network.EPOCHS))
    monkeypatch.setattr(training, "train_step", None)
    for again in (own_network.fit(str(tmp_path)), model):
        for p, q in zip(again.method.parameters(), model.method.parameters(), strict=True):
            assert torch.equal(p, q)


# --- A classifier that is frozen already ------------------------------------------------------------------------


def test_frozen_clip_brings_its_size_and_names(clip, tmp_path):
    with small_splits():
        split = datasets.load_split("letters", "val")
    data = Split(split.images, None, split.labels % 5)
    model = adavipro.fit(clip, data, data, **QUICK)
    assert model.classifier.class_names == clip.class_names
    assert model.prompt.prompt_px == 8
    model.save(tmp_path / "file")
    assert torch.equal(adavipro.load(tmp_path / "file", clip)(data.images), model(data.images))


def test_mapping_that_a_fit_finds_is_its_own(tmp_path, images):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # else the mappings hang on which tests ran before
        ten = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 10))
    mine = MappedClassifier(ten, "iterative", class_names=["a", "b", "c"], image_px=SIDE)
    first, second = (adavipro.fit(mine, dataset(32, seed), dataset(16, seed), **QUICK) for seed in (1, 5))
    assert mine.mapping_index() == [0, 1, 2]
    assert mine.class_names == ["a", "b", "c"]
    assert first.classifier.mapping_index() != second.classifier.mapping_index()
    scores = first(images)
    first.save(tmp_path / "file")
    loaded = adavipro.load(tmp_path / "file", mine)
    assert mine.mapping_index() == [0, 1, 2]
    assert torch.equal(loaded(images), scores)


# --- Classify, save and load --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The prompted classifier of a finished run, and the run's folder."""
    root = tmp_path_factory.mktemp("runs")
    with small_splits():
        experiment.run(tiny(), root, progress_bar=False)
    return experiment.restore(tiny().folder(root)), tiny().folder(root)


@pytest.fixture(scope="module")
def picture():
    """A picture of a letter, with more at its sides than the classifier sees."""
    with small_splits():
        image = to_pil_image(datasets.load_split("letters", "test").images[0]).resize((112, 112))
    wide = Image.new("RGB", (150, 112), "red")
    wide.paste(image, (19, 0))
    return wide


def test_prediction_is_what_the_parts_say(made, picture):
    model, _ = made
    found = model.classify(picture)
    clip, method = models.load(tiny().network, datasets.find("letters").class_names), model.method
    crop = picture.resize((75, 56), Image.Resampling.BICUBIC).crop((10, 0, 66, 56))
    images = clip.normalise(pil_to_tensor(crop)[None])
    prompted = method(images)
    expected = clip(prompted.images).softmax(1)[0]
    assert list(found.scores) == clip.class_names
    torch.testing.assert_close(torch.tensor(list(found.scores.values())), expected)
    assert found.name == clip.class_names[int(expected.argmax())]
    assert sum(found.scores.values()) == pytest.approx(1)
    assert torch.equal(found.mask, prompted.mask[0, 0])
    assert (found.picture.shape, found.mask.shape) == ((56, 56, 3), (56, 56))
    shown, raw = found.picture.permute(2, 0, 1), (prompted.images * clip.std + clip.mean)[0]
    inside = (raw > 0) & (raw < 1)
    torch.testing.assert_close(shown[inside], raw[inside])


def test_mask_of_vp_is_on_everywhere(picture):
    found = adavipro.fit(network(), dataset(16, 1), dataset(8, 2), "vp", **QUICK).classify(picture)
    assert (found.mask == 1).all()


def test_image_may_be_a_path_bytes_an_open_file_or_an_array(made, picture, tmp_path):
    model, _ = made
    expected = model.classify(picture).scores
    file = tmp_path / "photo.png"
    picture.save(file)
    with file.open("rb") as opened:
        for form in (str(file), file, file.read_bytes(), opened, np.array(picture)):
            assert model.classify(form).scores == expected


def test_run_is_loaded_by_name_in_another_process_from_its_file_alone(made, picture, tmp_path):
    model, folder = made
    file = Path(shutil.copy(folder / "prompt.safetensors", tmp_path / "file"))
    code = "import adavipro, json\nopen(out, 'w').write(json.dumps(adavipro.load(file).classify(picture).scores))"
    in_another_process(code, file=str(file), picture=picture, out=str(tmp_path / "out"))
    assert json.loads((tmp_path / "out").read_text()) == model.classify(picture).scores


def test_file_says_what_is_needed_and_nothing_of_the_place(made, fitted, tmp_path, small_clip_folder):
    _, folder = made
    _, told = checkpoints.read_sealed(folder / "prompt.safetensors")
    assert told["kind"] == "prompted classifier"
    assert told["made_of"]["network"]["model"] == "small-clip"
    assert told["made_of"]["class_names"] == list(datasets.find("letters").class_names)
    assert told["made_of"]["weights_sha256"] == models.weights_sha256("small-clip")
    fitted.save(tmp_path / "mine")
    _, own = checkpoints.read_sealed(tmp_path / "mine")
    assert own["made_of"]["network"] is None
    assert own["made_of"]["weights_sha256"] == models.tensors_sha256(network())
    for content in ((folder / "prompt.safetensors").read_bytes(), (tmp_path / "mine").read_bytes()):
        assert str(small_clip_folder.parent).encode() not in content
        assert len(content) < 200_000  # the network's weights are not in it


def test_second_save_replaces_the_first(fitted, tmp_path, monkeypatch):
    other = own_network.fit(None, method="vp")
    monkeypatch.setenv("HOME", str(tmp_path))
    for model in (fitted, other):
        model.save("~/file")
    assert adavipro.load("~/file", network()).kind == "vp"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_wrapping_a_method_leaves_the_callers_method_trainable(fitted):
    method = copy.deepcopy(fitted.method).requires_grad_(True)
    wrapped = PromptedClassifier(fitted.classifier, method, "adavipro", fitted.prompt, fitted.masks)
    assert all(p.requires_grad for p in method.parameters())
    assert not any(p.requires_grad for p in wrapped.method.parameters())


def paper_sized(folder: Path, small: Path) -> str:
    """A CLIP of the paper's image and patch size with random weights, tiny otherwise."""
    config = json.loads((small / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] |= {"image_size": 224, "patch_size": 32, "layers": 1}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    cfg = config["model_cfg"]
    model = open_clip.model.CLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def test_paper_sized_model_goes_the_same_way(tmp_path, small_clip_folder):
    for i in range(8):
        draw_image(tmp_path / "images" / ("star", "moon")[i % 2] / f"{i}.png", i)
    model = models.load(Network(model=paper_sized(tmp_path / "model", small_clip_folder)), ["moon", "star"])
    fitted = adavipro.fit(model, tmp_path / "images", **QUICK)
    assert (fitted.prompt.prompt_px, fitted.masks.region_px) == (30, 32)
    found = fitted.classify(Image.new("RGB", (300, 500)))
    assert list(found.scores) == ["moon", "star"]
    assert found.mask.shape == (224, 224)
    assert found.picture.shape == (224, 224, 3)
