"""Faults S1 and S3 of a backbone's weights: a pickle is never run, and a download that fails is one sentence."""

import json
import pickle
import urllib.error
from pathlib import Path

import huggingface_hub
import pytest
import torch
import torchvision

from adavipro.classifiers import FrozenClip
from adavipro.mapping import MappedClassifier


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


def test_s1_the_payload_of_these_tests_works(trace):
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()


@pytest.mark.parametrize("write", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))])
def test_s1_a_pickle_in_torchvisions_cache_is_not_run(write, trace, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url
    file = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    write({"weight": Payload(trace)}, file)
    with pytest.raises(ValueError, match=r"model 'torchvision:squeezenet1_1' .* cannot be loaded"):
        MappedClassifier.load("torchvision:squeezenet1_1", ["star"], "IMAGENET1K_V1")
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "open_clip_pytorch_model.bin", "model.pth", "model.safetensors"]
)
def test_s1_a_pickle_in_a_folder_is_not_run(name, trace, tmp_path, small_clip_folder):
    torch.save({"weight": Payload(trace)}, tmp_path / name)
    (tmp_path / "open_clip_config.json").write_bytes(
        (small_clip_folder / "open_clip_config.json").read_bytes()
    )
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": {}}))
    with pytest.raises(ValueError, match=r"open_clip_model\.safetensors does not exist"):
        FrozenClip.load(f"local-dir:{tmp_path}", ["star"])
    told = "cannot be loaded" if name == "model.safetensors" else r"model\.safetensors does not exist"
    with pytest.raises(ValueError, match=told):
        MappedClassifier.load(f"timm:local-dir:{tmp_path}", ["star"])
    (tmp_path / name).rename(tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match="cannot be loaded"):
        FrozenClip.load(f"local-dir:{tmp_path}", ["star"])
    assert not trace.exists()


def test_s3_weights_of_other_libraries_that_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    for model, tag in (("timm:test_resnet", "r160_in1k"), ("torchvision:squeezenet1_1", "IMAGENET1K_V1")):
        with pytest.raises(
            ValueError, match=f"model '{model}' .* cannot be loaded: .*needs the network"
        ) as caught:
            MappedClassifier.load(model, ["star"], tag)
        assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
