"""The paper's world by its commands, on a CPU: all of it but CLIP's weights and the size of the data."""

import csv
import json
import logging

import nine_samples
import pytest

from adavipro import baselines, datasets, deploy, experiment, presets
from adavipro.cli import main
from adavipro.prompts import FramePrompt

# 20 images to train on, 10 to validate, 10 to test; two epochs of two steps.
SHORT = ["-s", "pretrained=random", "-s", "epochs=2", "-s", "batch_size=10", "-s", "warmup_share=0.25"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::adavipro.nine.PartialDataWarning"),
    pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _eurosat(tmp_path_factory):
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of weights that were not trained
    folder = tmp_path_factory.mktemp("data")
    nine_samples.write("eurosat", folder, per_class=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAVIPRO_DATA", str(folder))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def results(root, method):
    return [json.loads(p.read_text()) for p in root.glob(f"eurosat-{method}-*/result.json")]


def test_data_has_the_sizes_that_the_test_speaks_of():
    assert [len(datasets.load_split("eurosat", split, 224)) for split in ("train", "val", "test")] == [
        20,
        10,
        10,
    ]
    assert datasets.class_names("eurosat")[0] == "annual crop land"


@pytest.mark.parametrize(
    ("method", "more", "parameters"),
    [
        ("adavipro", [], 69_840 + 132_866),
        ("vp", ["-s", "precision=bfloat16", "-s", "epochs=1"], 69_840),
        ("zero-shot", [], 0),
    ],
)
def test_vit_b_32_runs_by_one_command(root, capsys, method, more, parameters):
    main(["run", "--world", "paper", "--method", method, "--root", str(root), *SHORT, *more])
    assert f"| eurosat | {method} |" in capsys.readouterr().out
    (result,) = results(root, method)
    assert result["parameters"] == parameters
    assert result["split"] == "ours, version 1"
    assert 0 <= result["test_accuracy"] <= 1
    assert result["steps"] == {"adavipro": 4, "vp": 2, "zero-shot": 0}[method]
    if method != "zero-shot":
        (folder,) = root.glob(f"eurosat-{method}-30px-*")
        timing = json.loads((folder / "timing.json").read_text())
        assert timing["device"] == "cpu"
        assert timing["memory_mb"] > 600  # CLIP ViT-B/32 alone
        assert (
            len(list(csv.DictReader((folder / "metrics.csv").read_text().splitlines())))
            == result["steps"] / 2
        )


def test_finished_run_is_restored_saved_and_says_the_same(root, tmp_path):
    (result,) = results(root, "adavipro")
    run = experiment.Experiment(**result["settings"])
    made = deploy.PromptedClassifier.from_run(run, root)
    assert isinstance(made.method.prompt, FramePrompt)
    assert int(made.method.live_regions().sum()) == 24  # of 49, under a frame of 30 px
    made.save(tmp_path)
    test = datasets.load_split("eurosat", "test", 224)
    said = deploy.PromptedClassifier.load(tmp_path)(test.images[:4]).argmax(1)
    assert said.tolist() == made(test.images[:4]).argmax(1).tolist()


def test_linear_probe_runs_on_the_features_of_vit_b_32(root):
    row = baselines.run(
        baselines.Baseline("eurosat", "linear-probe", world="paper", pretrained="random"), root
    )
    assert row["parameters"] == 512 * 10 + 10
    assert 0 <= row["test_accuracy"] <= 1


def test_recipe_of_ours_names_every_difference():
    theirs, ours = (presets.preset("paper", "adavipro", recipe=r) for r in ("paper", "ours"))
    differ = {name for name in vars(theirs) if getattr(theirs, name) != getattr(ours, name)}
    assert differ == {*presets.OURS, *presets.OURS_METHOD["adavipro"]}
