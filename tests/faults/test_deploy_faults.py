"""Faults R7, R8 and S1 for a saved classifier: it is right, or refused with one sentence before it is used."""

import hashlib
import json
import os
import pickle
import random
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import small_splits, tiny
from PIL import Image
from safetensors.torch import load, save

from adavipro import experiment
from adavipro.decoding import ImageError
from adavipro.deploy import PromptedClassifier
from adavipro.files import canonical_json
from adavipro.settings import SettingError

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")
TENSORS, MANIFEST = "step-00000001.safetensors", "step-00000001.json"


@pytest.fixture(scope="module", autouse=True)
def _small_splits():
    with small_splits():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    experiment.run(tiny(), root, progress_bar=False)
    return root


@pytest.fixture(scope="module")
def made(root):
    return PromptedClassifier.from_run(tiny(), root)


@pytest.fixture
def saved(made, tmp_path):
    made.save(tmp_path / "saved")
    return tmp_path / "saved"


def forge(folder, change=None, content=None):
    """Rewrite a saved classifier, hashes included, as someone who knows the format could."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("sha256")
    if content is not None:
        (folder / TENSORS).write_bytes(content)
        manifest["tensors_sha256"] = hashlib.sha256(content).hexdigest()
    if change is not None:
        change(manifest["settings"])
    digest = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
    (folder / MANIFEST).write_text(canonical_json({**manifest, "sha256": digest}))


def refused(folder, told):
    with pytest.raises(ValueError, match=told) as caught:
        PromptedClassifier.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_run_that_is_not_finished_or_has_no_prompt_is_an_error(root, tmp_path):
    with pytest.raises(SettingError, match="no finished run"):
        PromptedClassifier.from_run(tiny(), tmp_path)
    zero_shot = tiny("zero-shot")
    experiment.run(zero_shot, tmp_path)
    with pytest.raises(SettingError, match="zero-shot"):
        PromptedClassifier.from_run(zero_shot, tmp_path)


def test_image_that_cannot_be_used_is_named(made, tmp_path):
    (tmp_path / "page.png").write_bytes(b"<html></html>")
    with pytest.raises(ImageError, match=r"page\.png cannot be used: the file is HTML"):
        made.classify(tmp_path / "page.png")
    with pytest.raises(ImageError, match="the image cannot be used: its pixels are floating"):
        made.classify(Image.new("F", (8, 8)))
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        made.classify(tmp_path / "none.png")


def test_folder_without_a_classifier_is_named(root, tmp_path):
    refused(tmp_path / "none", "no classifier in .*none")
    refused(tiny().folder(root) / "checkpoints", "holds no prompted classifier, but something else")


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_flipped_bit_and_cut_are_found(saved, name):
    """Fault R7, at 300 places of each file."""
    content = (saved / name).read_bytes()
    for bit in random.Random(0).sample(range(8 * len(content)), 300):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        (saved / name).write_bytes(damaged)
        refused(saved, name)
    (saved / name).write_bytes(content[:-1])
    refused(saved, name)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_pickle_is_not_executed(saved):
    """Fault S1, with the hashes forged."""
    payload = pickle.dumps(Bomb(saved / "executed"))
    forge(saved, content=payload)
    refused(saved, TENSORS)
    assert not (saved / "executed").exists()
    pickle.loads(payload)
    assert (saved / "executed").exists()  # the payload would have done it


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.update(format=2), "format version 2, but this release reads 1"),
        (lambda s: s.pop("format"), "format version None"),
        (lambda s: s.pop("kind"), "holds no prompted classifier"),
        (lambda s: s.pop("made_of"), "holds no prompted classifier"),
        (lambda s: s["made_of"].pop("class_names"), "class_names is empty"),
        (lambda s: s.update(made_of=[]), "holds no prompted classifier"),
        (lambda s: s["made_of"].update(class_names=3), "cannot be built here"),
        (lambda s: s["made_of"].update(model="local-dir:moved"), "cannot be built here: .*moved"),
        (lambda s: s["made_of"].update(model="hf-hub:someone/else"), "model is 'hf-hub:someone/else', but"),
        (lambda s: s["made_of"].pop("relu"), "relu is None there and True here"),
        (lambda s: s["made_of"].update(width=3), "no setting 'width'"),
        (lambda s: s["made_of"].update(model="small_clip"), "model is 'small_clip'"),
        (lambda s: s["made_of"].update(image_px=224), "image_px is 224 there and 56 here"),
        (
            lambda s: s["made_of"].update(region_px=14),
            r"masks\.policy\.weight has shape \(2, 8, 8, 8\) there",
        ),
        (
            lambda s: s["made_of"].update(weights_sha256="0", mean=[0.0, 0.0, 0.0], prompt_px=9),
            r"mean is \[0.0, .*; weights_sha256 is '0' there and '\w+' here; tensor prompt.values has shape",
        ),
    ],
)
def test_manifest_that_does_not_fit_is_one_sentence(saved, change, told):
    forge(saved, change)
    refused(saved, told)


def test_every_wrong_tensor_is_listed(saved):
    """Fault R8."""
    tensors = load((saved / TENSORS).read_bytes())
    tensors["prompt.values"][0, 0] = float("nan")
    tensors["masks.policy.bias"] = torch.zeros(3)
    del tensors["masks.convergence.bias"]
    tensors["masks.extra"] = torch.zeros(1)
    forge(saved, content=save(tensors))
    told = refused(saved, "does not fit what is here")
    for phrase in (
        "masks.convergence.bias is missing",
        "masks.extra is unknown",
        "masks.policy.bias has shape (3,) there, (2,) here",
        "prompt.values holds values that are not finite",
    ):
        assert f"tensor {phrase}" in told


def test_another_models_weights_are_refused(root, tmp_path, small_clip_folder):
    model = shutil.copytree(small_clip_folder, tmp_path / "model")
    run = replace(tiny(), model=f"local-dir:{model}", epochs=1)
    experiment.run(run, tmp_path / "runs", progress_bar=False)
    PromptedClassifier.from_run(run, tmp_path / "runs").save(tmp_path / "saved")
    PromptedClassifier.load(tmp_path / "saved")
    file = model / "open_clip_model.safetensors"
    weights = load(file.read_bytes())
    weights["visual.class_embedding"][0] += 1
    file.write_bytes(save(weights))
    refused(
        tmp_path / "saved", r"does not fit what is here: weights_sha256 is '\w{64}' there and '\w{64}' here$"
    )


def test_wrapping_a_method_leaves_the_callers_method_trainable(made):
    method = experiment.build_method(tiny(), made.classifier)
    wrapped = PromptedClassifier(made.classifier, method, tiny())
    assert all(p.requires_grad for p in method.parameters())
    assert not any(p.requires_grad for p in wrapped.method.parameters())
