"""The paper's world by its commands, on a CPU: all of it but CLIP's weights and the size of the data."""

import json
import logging

import nine_samples
import pytest

from adavipro import datasets, experiment
from adavipro.__main__ import main
from adavipro.baselines import probes
from adavipro.prompts import FramePrompt

# 20 images to train on, 10 to validate, 10 to test; two steps an epoch.
SHORT = "-s pretrained=random -s batch_size=10 -s warmup_share=0.25 -s epochs=1".split()
pytestmark = [
    pytest.mark.filterwarnings("ignore::adavipro.datasets.nine.PartialDataWarning"),
    pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of weights that were not trained
    folder = tmp_path_factory.mktemp("data")
    nine_samples.write("eurosat", folder, per_class=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAVIPRO_DATA", str(folder))
        yield tmp_path_factory.mktemp("runs")


def run(root, method, *more):
    main(["run", "--world", "paper", "--method", method, "--root", str(root), *SHORT, *more])
    (file,) = root.glob(f"eurosat-{method}-*/result.json")
    return json.loads(file.read_bytes()), file.parent


def test_adavipro_on_vit_b_32_is_one_command_and_its_result_is_restored_and_saved(root, tmp_path, capsys):
    result, folder = run(root, "adavipro")
    assert "test accuracy" in capsys.readouterr().out
    assert result["parameters"] == 69_840 + 132_866
    assert (result["split"], result["steps"]) == ("ours, version 1", 2)
    timing = json.loads((folder / "timing.json").read_bytes())
    assert timing["device"] == "cpu"
    assert timing["memory_mb"] > 600  # CLIP ViT-B/32 alone
    restored = experiment.restore(folder)
    assert restored.classifier.class_names[0] == "annual crop land"
    assert isinstance(restored.method.prompt, FramePrompt)
    assert int(restored.method.live_regions().sum()) == 24  # of 49, under a frame of 30 px
    restored.save(tmp_path / "own.safetensors")
    assert (tmp_path / "own.safetensors").read_bytes() == (folder / experiment.PROMPT).read_bytes()
    images = datasets.load_split("eurosat", "test", 224).images[:2]
    assert restored(images).isfinite().all()


def test_linear_probe_runs_on_the_features_of_vit_b_32(root, monkeypatch):
    monkeypatch.setattr(probes, "PENALTIES", (1.0, 0.1))  # of eleven
    result, _ = run(root, "linear-probe")
    assert result["parameters"] == 512 * 10 + 10
    assert 0 <= result["test_accuracy"] <= 1
