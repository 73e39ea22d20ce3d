"""Faults R5, R7, R8, S1 and what people give to `fit`: it is right, or refused with one sentence before it is used."""

import copy
import os
import pickle
import shutil
from dataclasses import replace

import own_network
import pytest
import torch
from helpers import draw_image
from own_network import SIDE, dataset, network, pictures
from PIL import Image
from safetensors.torch import load, save
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.transforms.functional import to_pil_image

import adavipro
from adavipro import checkpoints, models, training
from adavipro.checkpoints import CheckpointError
from adavipro.data import Split
from adavipro.datasets.images import ImageError
from adavipro.recipe import SettingError

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")
IMAGES, LABELS = pictures(12, seed=1)
QUICK = {"epochs": 1, "batch_size": 8, "generator_width": 4, "progress_bar": False}


@pytest.fixture(scope="module")
def made():
    return own_network.fit(None)


@pytest.fixture
def saved(made, tmp_path):
    made.save(tmp_path / "saved")
    return tmp_path / "saved"


def refused(file, told, mine=None):
    with pytest.raises(CheckpointError, match=told) as caught:
        adavipro.load(file, network() if mine is None else mine)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def forge(file, change) -> None:
    """Rewrite a saved classifier under its right hash, as someone who knows the format could."""
    tensors, settings = checkpoints.read_sealed(file)
    change(settings, tensors)
    checkpoints.write_sealed(file, tensors, settings)


# --- What is loaded -----------------------------------------------------------------------------------------------


@pytest.mark.fault("one flipped bit in a saved classifier", quick=20, long=1000)
def test_r7_flipped_bit_and_cut_are_found(saved, chance):
    content = saved.read_bytes()
    damaged = bytearray(content)
    damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    saved.write_bytes(damaged)
    refused(saved, "saved")
    saved.write_bytes(content[: chance.randrange(len(content))])
    refused(saved, "saved cannot be used")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.fault("a pickle that runs code, in the place of a file that is read")
@pytest.mark.parametrize("form", [pickle.dump, torch.save])
def test_s1_pickle_is_not_executed(tmp_path, form):
    bomb = Bomb(tmp_path / "executed")
    with (tmp_path / "file").open("wb") as file:
        form(bomb, file)
    refused(tmp_path / "file", "file cannot be used")
    assert not (tmp_path / "executed").exists()
    with (tmp_path / "file").open("rb") as file:
        pickle.load(file) if form is pickle.dump else torch.load(file, weights_only=False)
    assert (tmp_path / "executed").exists()  # the payload would have done it


@pytest.mark.fault("a saved classifier that was tampered with, or is for another network")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s, t: s.pop("kind"), "holds no prompted classifier: give a file"),
        (lambda s, t: s.update(kind="fine-tune"), "holds no prompted classifier"),
        (lambda s, t: s.pop("made_of"), "holds no prompted classifier"),
        (lambda s, t: s.update(made_of=[]), "holds no prompted classifier"),
        (lambda s, t: s["made_of"].pop("class_names"), "cannot be built here: 'class_names'"),
        (lambda s, t: s["made_of"].update(class_names=3), "cannot be built here"),
        (lambda s, t: s["made_of"].update(prompt=3), "cannot be built here"),
        (lambda s, t: s["made_of"].update(mean=[0.0]), "mean is .0.0., but it must have three values"),
        (lambda s, t: s["made_of"].update(mapping=[0]), "mapping is .0. there and None here"),
        (lambda s, t: s["made_of"]["masks"].update(width=3), "cannot be built here: .*'width'"),
        (lambda s, t: s["made_of"]["masks"].update(region_px=5), "region_px is 5, but regions must divide"),
        (lambda s, t: s["made_of"].update(image_px=8), "cannot be built here|does not fit"),
        (lambda s, t: s["made_of"].update(network={"model": "local-dir:moved"}), "is loaded by name: give no other"),
        (lambda s, t: s["made_of"].update(later=1), "later is 1 there and None here"),
        (
            lambda s, t: s["made_of"]["masks"].update(region_px=8),
            r"masks\.policy\.weight has shape \(2, 4, 4, 4\) there, \(2, 4, 8, 8\) here",
        ),
    ],
)  # fmt: skip
def test_r8_settings_that_do_not_fit_are_one_sentence(saved, change, told):
    forge(saved, change)
    refused(saved, told)


@pytest.mark.fault("a saved classifier that was tampered with, or is for another network")
def test_r8_every_wrong_tensor_is_listed(saved):
    def change(_, tensors):
        tensors["prompt.values"][0, 0] = float("nan")
        tensors["masks.policy.bias"] = torch.zeros(3)
        del tensors["masks.convergence.bias"]
        tensors["masks.extra"] = torch.zeros(1)

    forge(saved, change)
    told = refused(saved, "does not fit what is here")
    for phrase in (
        "masks.convergence.bias is missing",
        "masks.extra is unknown",
        "masks.policy.bias has shape (3,) there, (2,) here",
        "prompt.values holds values that are not finite",
    ):
        assert f"tensor {phrase}" in told


@pytest.mark.fault("a saved classifier that was tampered with, or is for another network")
def test_network_with_other_weights_or_statistics_is_refused_and_none_is_asked_for(saved):
    refused(
        saved,
        r"does not fit what is here: weights_sha256 is '\w{64}' there and '\w{64}' here$",
        network(seed=1),
    )
    moved = network()
    moved(torch.rand(8, 3, SIDE, SIDE))  # in training mode
    refused(saved, "weights_sha256 is", moved)
    with pytest.raises(
        CheckpointError, match=r"fitted to a network of your own: give that network, load\(file, netw"
    ):
        adavipro.load(saved)
    frozen = adavipro.FrozenClassifier(network(), ["x", "y", "z"], SIDE, mean=[0.5] * 3)
    told = refused(saved, "does not fit what is here", frozen)
    assert (
        "class_names is ['class 0', 'class 1', 'class 2'] there and ['x', 'y', 'z'] here; mean is [0.0"
        in told
    )
    frozen = adavipro.FrozenClassifier(network(), ["class 0", "class 1", "class 2"], SIDE)
    frozen.precision = torch.bfloat16
    refused(saved, r"here: precision is 'float32' there and 'bfloat16' here$", frozen)
    with pytest.raises(SettingError, match="device is 'nowhere'"):
        adavipro.load(saved, network(), device="nowhere")


def test_file_that_is_not_there_or_is_something_else_is_named(tmp_path, small_clip_folder):
    refused(tmp_path / "none", "none cannot be used: .*No such file")
    refused(tmp_path, "cannot be used: .*directory")
    refused(small_clip_folder / "open_clip_model.safetensors", "open_clip_model.safetensors cannot be used")


@pytest.mark.fault("a saved classifier that was tampered with, or is for another network")
def test_clip_with_other_weights_is_refused(tmp_path, small_clip_folder):
    folder = shutil.copytree(small_clip_folder, tmp_path / "model")
    run = adavipro.Experiment().changed(model=f"local-dir:{folder}", dataset="letters")
    frozen = models.load(run.network, ["letter a", "letter b"])
    method = adavipro.AdaViPro(adavipro.FramePrompt(56, 8))
    model = adavipro.PromptedClassifier(frozen, method, "vp", run.prompt, run.masks, run.network)
    model.save(tmp_path / "saved")
    adavipro.load(tmp_path / "saved")
    file = folder / "open_clip_model.safetensors"
    weights = load(file.read_bytes())
    weights["visual.class_embedding"][0] += 1
    file.write_bytes(save(weights))
    with pytest.raises(CheckpointError, match=r"not fit what is here: weights_sha256 is '\w{64}' there"):
        adavipro.load(tmp_path / "saved")


def test_r5_file_that_cannot_be_written_leaves_the_former(saved, made, monkeypatch):
    before = saved.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"could not write .*saved: No space left on device; it needs [\d,]+ bytes"
    ):
        made.save(saved)
    assert [p.name for p in saved.parent.iterdir()] == ["saved"]
    assert saved.read_bytes() == before


# --- What is fitted -----------------------------------------------------------------------------------------------


class Wrong(nn.Module):
    """A network whose scores are none."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, images):
        return self.change(images)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "adaviper"}, "method is 'adaviper', but it must be one of: vp, adavipro"),
        ({"promt_px": 4}, r"no setting 'promt_px': did you mean 'prompt_px'\?"),
        ({"prompt_px": 17}, "prompt_px is 17, .* from 1 to 16"),
        ({"region_px": 5}, "region_px is 5, .* 4, 8, 16, 32$"),
        ({"method": "vp", "where": "sigmoid"}, "where is 'sigmoid' and method is 'vp'"),
        ({"epochs": 0}, "epochs is 0, but it must be at least 1"),
        ({"warmup_steps": 99}, "warm-up takes 99 steps, but the run has 2"),
        ({"mean": [0.5]}, "mean is .0.5., but it must have three values, one a colour"),
        ({"device": "nowhere"}, "device is 'nowhere', which torch cannot use here"),
        ({"class_names": ["a", "b"]}, r"2 class names \(a, b\), but the network has 3 logits"),
        ({"class_names": ["a", "b", "b"]}, r"3 class names \(a, b, b\), but .*give each its own name"),
        ({"image_px": 64}, "images are 32 x 32 px, .*64.*: resize them"),
        ({"train": TensorDataset(IMAGES, LABELS + 1)}, "labels lie from 1 to 3, .* 3 logits: expected 0 to 2"),
        ({"val": TensorDataset(IMAGES, LABELS - 1)}, "labels lie from -1 to 1, but the network has 3 logits"),
        ({"train": TensorDataset(IMAGES, LABELS.float())}, "item 0 of the data, label .* cannot be used"),
        ({"train": TensorDataset(IMAGES[..., :16], LABELS)}, "images are 32 x 16 px, .*square.*: resize them"),
        ({"train": TensorDataset(2 * IMAGES - 1, LABELS)}, r"pixels lie from -.* expected floats in \[0, 1\] or uint8"),
        ({"val": TensorDataset(2 * IMAGES, LABELS)}, r"pixels lie from .* expected floats in \[0, 1\] or uint8"),
        ({"val": TensorDataset(IMAGES * torch.nan, LABELS)}, "pixels lie from nan to nan"),
        ({"train": TensorDataset(IMAGES[:, :1], LABELS)}, r"image 0 of the data set is \(1, 32, 32\), expected"),
        ({"train": TensorDataset(IMAGES[:, :, :16, :16], LABELS)}, "images are 32 x 32 px, .*16.*: resize them"),
        ({"train": [], "val": None}, "the data set is empty"),
        ({"train": TensorDataset(IMAGES[:1], LABELS[:1]), "val": None}, "train has one image, .*give val"),
        ({"train": [(to_pil_image(IMAGES[0]), 0)]}, "image 0 of the data set is of type Image: .*image_px=224"),
        ({"train": Split(IMAGES, None, LABELS[:8])}, r"12 images have labels torch.int64 \(8,\): expected"),
        ({"val": Split(IMAGES, None, LABELS.float())}, "12 images have labels torch.float32 .*an int64 label"),
        ({"train": "nowhere", "image_px": 32, "epochs": 0}, "epochs is 0, but it must be at least 1"),
        ({"train": "nowhere"}, "images .*nowhere are of any size: .*image_px=224"),
        ({"train": "nowhere", "image_px": 32}, "there is no folder nowhere"),
        ({"network": nn.Sequential(nn.Flatten(), nn.Linear(7, 3))}, "cannot take images of 32 x 32 px: mat1 and mat2"),
        ({"network": Wrong(lambda x: x)}, r"the network makes \(2, 3, 32, 32\) of 2 images, expected logits \(2, k\)"),
        ({"network": Wrong(lambda x: (x, x))}, "the network cannot take images .*tuple"),
        ({"network": Wrong(lambda x: x[0, :, :3, 0])}, r"the network makes \(3, 3\) of 2 images, expected"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence_before_training(monkeypatch, tmp_path, changes, told):
    monkeypatch.setattr(training, "train_step", None)
    monkeypatch.chdir(tmp_path)
    given = {
        "network": network(),
        "train": dataset(12, 1),
        "val": dataset(12, 2),
        "folder": "kept",
        **QUICK,
        **changes,
    }
    with pytest.raises(ValueError, match=told) as caught:
        adavipro.fit(**given)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def folder_of(path, *names):
    for i, name in enumerate(names):
        for k in range(4):
            draw_image(path / name / f"{k}.png", 10 * i + k)
    return path


def test_folders_of_other_classes_than_the_networks_are_refused(tmp_path):
    train = folder_of(tmp_path / "train", "ape", "bee", "cow")
    few = folder_of(tmp_path / "few", "ape", "cow")
    here = {"image_px": SIDE, **QUICK}
    with pytest.raises(
        SettingError, match=r"few has the classes \['ape', 'cow'\], but the network has \['ape', 'bee'"
    ):
        adavipro.fit(network(), train, few, **here)
    with pytest.raises(SettingError, match=r"2 class names \(ape, cow\), but the network has 3 logits"):
        adavipro.fit(network(), few, **here)
    with pytest.raises(
        SettingError, match=r"train has the classes .*, but the network has \['x', 'y', 'z'\]"
    ):
        adavipro.fit(network(), train, class_names=["x", "y", "z"], **here)
    model = adavipro.fit(network(), train, **here)
    assert model.classifier.class_names == ["ape", "bee", "cow"]
    with pytest.raises(SettingError, match=r"few has the classes"):
        adavipro.evaluate(model, few)
    (train / "bee" / "page.png").write_bytes(b"<html></html>")
    with pytest.raises(
        SettingError, match=r"1 of 13 files in .* cannot be used: bee/page\.png: the file is HTML"
    ):
        adavipro.evaluate(model, train)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (TensorDataset(IMAGES, LABELS + 1), "labels lie from 1 to 3, but the network has 3 logits"),
        (TensorDataset(IMAGES[:, :, :16, :16], LABELS), "images are 16 x 16 px, .*32.*: resize them"),
        ([], "the data set is empty"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(made, data, told):
    with pytest.raises(SettingError, match=told):
        adavipro.evaluate(made, data)


@pytest.mark.fault("a checkpoint of another run, or with wrong tensors")
def test_checkpoints_of_another_fit_are_refused_with_every_difference(tmp_path):
    own_network.fit(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"belongs to another run: recipe is .*; seed is 0 there and 1 here$"
    ):
        own_network.fit(tmp_path, prompt_lr=1.0, seed=1)
    given = {"epochs": own_network.EPOCHS, "batch_size": 8, "generator_width": 4, "progress_bar": False}
    with pytest.raises(CheckpointError, match=r"another run: weights_sha256 is '\w+' there and '\w+' here$"):
        adavipro.fit(network(1), dataset(40, 1), dataset(20, 2), folder=tmp_path, **given)
    for train, val, name in (
        (dataset(40, 3), dataset(20, 2), "train"),
        (dataset(40, 1), dataset(20, 3), "val"),
    ):
        with pytest.raises(CheckpointError, match=rf"another run: {name} is '\w+' there and '\w+' here$"):
            adavipro.fit(network(), train, val, folder=tmp_path, **given)


def test_image_that_cannot_be_used_is_named(made, tmp_path):
    (tmp_path / "page.png").write_bytes(b"<html></html>")
    with pytest.raises(ImageError, match=r"page\.png cannot be used: the file is HTML"):
        made.classify(tmp_path / "page.png")
    with pytest.raises(ImageError, match="the image cannot be used: its pixels are floating"):
        made.classify(Image.new("F", (8, 8)))
    with pytest.raises(
        ImageError, match=r"the image cannot be used: it is an array float32 \(32, 32, 3\), expected"
    ):
        made.classify(IMAGES[0])
    with pytest.raises(ImageError, match=r"none\.png cannot be used: it cannot be read \(No such file"):
        made.classify(tmp_path / "none.png")


def test_split_of_the_caller_is_not_written_into():
    split = Split(IMAGES.clone(), None, LABELS.clone())
    before = copy.deepcopy(split)
    model = adavipro.fit(network(), split, replace(split), **QUICK)
    adavipro.evaluate(model, split)
    assert torch.equal(split.images, before.images)
    assert torch.equal(split.labels, before.labels)
