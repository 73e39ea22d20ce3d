import csv
import json
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from helpers import SMALL, small_splits, tiny

from adavipro import checkpoints, datasets, experiment, presets, tables, training
from adavipro.choices import OpenChoices
from adavipro.classifiers import FrozenClip
from adavipro.experiment import Experiment
from adavipro.progress import MaskRecorder, read_history
from adavipro.settings import SettingError, from_mapping

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")


@pytest.fixture(scope="module", autouse=True)
def _small_splits():
    with small_splits():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, the root of its folder, and its result."""
    run, root = tiny(), tmp_path_factory.mktemp("runs")
    return run, root, experiment.run(run, root, progress_bar=False)


def no_work(*args, **kwargs):
    raise AssertionError("work was done")


# --- Settings ----------------------------------------------------------------------------------------------------


def other(field, value):
    """A valid value of an experiment's field that is not `value`."""
    if field.name in ("region_px", "edge_channels", "model"):
        return {"region_px": 14, "edge_channels": 1, "model": "ViT-B-32"}[field.name]
    if field.name in ("pretrained", "dataset"):
        return {"pretrained": "openai", "dataset": "textures"}[field.name]
    if choices := field.metadata["choices"]:
        return next(c for c in choices if c != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "."
    return 0.75 if value is None or isinstance(value, float) else value + 1


def test_every_setting_is_part_of_the_key():
    base = tiny()
    keys = {base.key()}
    for field in fields(Experiment):
        changes = {field.name: other(field, getattr(base, field.name))}
        if field.name == "label_mapping":
            keys.add(replace(base, model="timm:resnet18", label_mapping="frequency").key())
            changes["model"] = "timm:resnet18"
        keys.add(replace(base, **changes).key())
    assert len(keys) == 2 + len(fields(Experiment))


def test_settings_that_came_later_leave_the_keys_of_shipped_results_as_they_were():
    for row in tables.read_results()[::40]:
        if row["study"] == "main":
            px = {"prompt_px": int(row["prompt_px"])} if row["prompt_px"] else {}
            run = presets.preset(
                "embedded", row["method"], dataset=row["dataset"], seed=int(row["seed"]), **px
            )
            assert run.key() == row["key"]


def test_key_is_that_of_the_values_and_not_of_their_spelling():
    assert tiny(prompt_lr=4).key() == tiny(prompt_lr=4.0).key()
    assert from_mapping(Experiment, json.loads(json.dumps(asdict(tiny())))).key() == tiny().key()


def test_weights_are_part_of_the_key(tmp_path):
    run = tiny(model=f"local-dir:{tmp_path}")
    keys = set()
    for weights in (b"some", b"other"):
        (tmp_path / "open_clip_model.safetensors").write_bytes(weights)
        keys.add(run.key())
    assert len(keys) == 2


def test_paper_preset_is_the_papers_recipe():
    run = presets.preset("paper", "adavipro")
    assert (run.model, run.pretrained) == ("ViT-B-32-quickgelu", "openai")
    assert (run.prompt_px, run.region_px, run.generator_width) == (30, 32, 64)
    assert (run.prompt_lr, run.generator_lr, run.batch_size, run.momentum) == (40, 1, 256, 0.9)
    assert (run.epochs, run.warmup_steps, run.warmup_share) == (1000, 1000, None)
    assert (run.temperature_start, run.temperature_gamma, run.temperature_end) == (5, 0.98, None)
    assert run.template == "This is a photo of a {}"
    with pytest.raises(SettingError, match=r"world is 'papers'.*embedded, paper"):
        presets.preset("papers", "vp")


def test_every_choice_of_ours_is_in_the_docs():
    text = (Path(__file__).parent.parent / "docs" / "choices.md").read_text()
    for field in fields(OpenChoices):
        assert f"| `{field.name}` | {str(field.default).lower()} |" in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompt_px": 29}, "prompt_px is 29, .* from 1 to 28"),
        ({"prompt_kind": "fixed-patch", "prompt_px": 57}, "prompt_px is 57, .* from 1 to 56"),
        ({"region_px": 5}, "region_px is 5, .* 4, 7, 8, 14"),
        ({"edge_channels": 2}, "edge_channels is 2"),
        ({"on_bias": 1.0, "bias": False}, "on_bias is 1.0"),
        ({"template": "a photo"}, "template is 'a photo'"),
        ({"model": "local-dir:nowhere"}, "model is 'local-dir:nowhere', but .* does not exist"),
        ({"warmup_share": None}, "warm-up takes 1000 steps, but the run has 9"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence_and_no_folder(tmp_path, monkeypatch, changes, told):
    monkeypatch.setattr(training, "train_step", no_work)
    with pytest.raises(ValueError, match=told) as caught:
        experiment.run(tiny(**changes), tmp_path, progress_bar=False)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_model_for_images_of_another_size_is_an_error(clip, monkeypatch):
    monkeypatch.setattr(clip, "image_px", 224)
    with pytest.raises(SettingError, match=r"takes images of 224 px, but data set 'letters' .* of 56 px"):
        experiment.check_image_size(tiny(), clip)


# --- Runs ----------------------------------------------------------------------------------------------------------


def test_training_reads_train_and_val_and_the_report_reads_test(tmp_path, monkeypatch):
    asked, load_split, run = set(), datasets.load_split, tiny(epochs=1)

    def load(name, split, image_px):
        asked.add(split)
        return load_split(name, split, image_px)

    monkeypatch.setattr(datasets, "load_split", load)
    classifier, method, _ = experiment.train_or_resume(run, tmp_path, progress_bar=False)
    assert asked == {"train", "val"}
    asked.clear()
    experiment.report_test(run, classifier, method)
    assert asked == {"test"}


def test_run_folder_holds_settings_metrics_checkpoints_and_result(finished):
    run, root, result = finished
    folder = run.folder(root)
    assert [p.name for p in root.iterdir()] == [f"letters-adavipro-8px-seed0-{run.key()}"]
    names = {p.name for p in folder.iterdir()}
    assert names == {"config.json", "checkpoints", "lock", "metrics.csv", "timing.json", "result.json"}
    assert from_mapping(Experiment, json.loads((folder / "config.json").read_text())) == run
    assert json.loads((folder / "result.json").read_text()) == result
    assert checkpoints.steps_saved(folder / "checkpoints") == [9, 6]

    written = [p for p in folder.rglob("*") if p.is_file()]
    assert max(written, key=lambda p: p.stat().st_mtime_ns).name == "result.json"


def test_metrics_have_a_line_an_epoch_and_agree_with_the_result(finished):
    run, root, result = finished
    with (run.folder(root) / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == (
        "epoch step loss train_accuracy val_accuracy temperature share_on mask_diversity".split()
    )
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "3"), ("1", "6"), ("2", "9")]
    best = max(rows, key=lambda row: float(row["val_accuracy"]))
    assert (int(best["epoch"]), float(best["val_accuracy"])) == (result["best_epoch"], result["val_accuracy"])


def test_result_is_that_of_the_restored_method(finished):
    run, root, result = finished
    classifier, method = experiment.restore(run, root)
    test = datasets.load_split("letters", "test")
    with torch.no_grad():
        prompted = method(classifier.normalise(test.images))
        right = (classifier(prompted.images).argmax(1) == test.labels).sum().item()
    assert result["test_accuracy"] == right / SMALL["test"]
    assert result["parameters"] == 3 * (56**2 - 40**2) + (3 * 9 + 1) * 8 + (8 * 64 + 1) * 2
    assert (result["key"], result["settings"], result["steps"]) == (run.key(), asdict(run), 9)
    saved, _ = checkpoints.load_newest(run.folder(root) / "checkpoints")
    for name, p in method.named_parameters():
        assert torch.equal(p, saved[f"best.{name}"])


def test_only_a_finished_and_undamaged_run_is_restored(finished, tmp_path):
    run, root, _ = finished
    with pytest.raises(SettingError, match=r"no finished run in .*run it first"):
        experiment.restore(run, tmp_path)
    copy = shutil.copytree(root, tmp_path / "copy")
    newest = run.folder(copy) / "checkpoints" / "step-00000009.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(checkpoints.CheckpointError, match=newest.name):
        experiment.restore(run, copy)


def test_finished_run_is_not_repeated(finished, monkeypatch):
    run, root, result = finished
    for owner, name in ((training, "fit"), (FrozenClip, "load"), (datasets, "load_split")):
        monkeypatch.setattr(owner, name, no_work)
    assert experiment.run(run, root) == result
    assert experiment.run(run, root, resume=True) == result
    with pytest.raises(AssertionError, match="work was done"):
        experiment.run(replace(run, seed=1), root)


@pytest.mark.parametrize("content", [b"", b'{"key": ', b"[]", b"null", b'{"key": "0123"}', b"{}", b"\xff"])
def test_damaged_result_is_none(finished, tmp_path, content):
    run, _, _ = finished
    run.folder(tmp_path).mkdir()
    (run.folder(tmp_path) / "result.json").write_bytes(content)
    assert experiment.read_result(run, tmp_path) is None


def test_run_without_its_result_is_unfinished(finished, tmp_path, monkeypatch):
    run, _, _ = finished
    monkeypatch.setattr(experiment, "evaluate", no_work)
    with pytest.raises(AssertionError, match="work was done"):
        experiment.run(run, tmp_path, progress_bar=False)
    assert (run.folder(tmp_path) / "metrics.csv").exists()
    assert not (run.folder(tmp_path) / "result.json").exists()
    assert experiment.read_result(run, tmp_path) is None


def test_zero_shot_run_reports_the_frozen_model(tmp_path):
    run = tiny("zero-shot")
    result = experiment.run(run, tmp_path)
    classifier, test = experiment.load_classifier(run), datasets.load_split("letters", "test")
    right = (classifier(classifier.normalise(test.images)).argmax(1) == test.labels).sum().item()
    assert result["test_accuracy"] == right / SMALL["test"]
    assert (result["steps"], result["parameters"]) == (0, 0)
    assert result["share_on"] is result["val_accuracy"] is None
    assert [p.name for p in tmp_path.iterdir()] == [f"letters-zero-shot-seed0-{run.key()}"]
    assert {p.name for p in run.folder(tmp_path).iterdir()} == {"config.json", "lock", "result.json"}
    with pytest.raises(SettingError, match="zero-shot"):
        experiment.restore(run, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "vp", "prompt_kind": "random-patch"},
        {"dataset": "textures", "edges": False},
        {"edge_input": "raw", "edge_channels": 1, "bias": False, "relu": False, "hard": False},
    ],
)
def test_every_part_can_be_switched(tmp_path, changes):
    changes = {"method": "adavipro", "epochs": 1, **changes}
    run = tiny(changes.pop("method"), **changes)
    result = experiment.run(run, tmp_path, progress_bar=False)
    assert result["steps"] == 3
    _, method = experiment.restore(run, tmp_path)
    assert sum(p.numel() for p in method.parameters()) == result["parameters"]
    assert (result["object_cover"] is None) == (run.dataset == "textures")
    parts = {"masks.convergence.bias", "masks.policy.bias"} & set(dict(method.named_parameters()))
    assert bool(parts) == (run.method == "adavipro" and run.bias)


def test_a_watch_sees_every_epoch_and_a_recorder_keeps_its_masks_over_a_resume(tmp_path):
    seen: list[int] = []

    def stop_in_the_second(method, history):
        recorder(method, history)
        if len(history) == 2:  # of which the masks are recorded, and no checkpoint is written
            raise KeyboardInterrupt

    def watch(method, history):
        seen.append(history[-1]["epoch"])
        recorder(method, history)

    with small_splits():
        run = tiny()
        classifier = experiment.load_classifier(run)
        shown = classifier.normalise(datasets.load_split(run.dataset, "val").images[:3])
        path = run.folder(tmp_path) / "watched.safetensors"
        recorder = MaskRecorder(shown, path)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(run, tmp_path, progress_bar=False, watch=stop_in_the_second)
        recorder = MaskRecorder(shown, path)  # as a new process would
        experiment.run(run, tmp_path, progress_bar=False, watch=watch)
        assert seen == [1, 2]
        masks = MaskRecorder(shown, path).by_epoch()
        assert [tuple(m.shape) for m in masks] == [(3, 1, 7, 7)] * 3
        history = read_history(run.folder(tmp_path))
        assert [row["epoch"] for row in history] == [0, 1, 2]
        assert all(isinstance(row["loss"], float) for row in history)
        experiment.run(run, tmp_path, progress_bar=False, watch=watch)
        assert seen == [1, 2]  # a finished run is not watched
