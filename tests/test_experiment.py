"""Settings and their key, a run and its folder, and a classifier from that folder alone."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from helpers import SMALL, draw_image, draw_splits, small_splits, tiny

from adavipro import checkpoints, datasets, experiment, models, training
from adavipro.checkpoints import CheckpointError
from adavipro.datasets import folders
from adavipro.experiment import GROUPS, METHODS, VARIANTS, Experiment, preset
from adavipro.prompted import Masks
from adavipro.recipe import SettingError

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


@pytest.fixture
def calls(monkeypatch):
    """How often an experiment's key was computed and a folder was listed."""
    counted: Counter[str] = Counter()

    def count(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            counted[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    count(Experiment, "key")
    count(folders, "list_folder")
    return counted


def no_work(*args, **kwargs):
    raise AssertionError("work was done")


# --- Settings -----------------------------------------------------------------------------------------------------


def test_experiment_by_itself_is_valid_and_is_adavipro_in_the_small_world():
    assert Experiment() == preset("embedded", "adavipro") == Experiment().changed()
    assert (Experiment().dataset, Experiment().method, Experiment().network.model) == (
        "digits",
        "adavipro",
        "small-clip",
    )
    assert (Experiment().masks.hard, Experiment().masks.standardise) == (False, True)


def test_settings_are_found_by_name_whatever_their_group():
    run = Experiment().changed(
        dataset="letters", prompt_px=15, region_px=14, epochs=7, learning_rate=1, precision="bfloat16"
    )
    assert (run.dataset, run.prompt.prompt_px, run.masks.region_px, run.recipe.epochs) == (
        "letters",
        15,
        14,
        7,
    )
    assert (run.fine_tuning.learning_rate, run.network.precision) == (1.0, "bfloat16")
    assert Experiment().changed(**run.flat()) == run
    assert run.changed(epochs=8).flat() == {**run.flat(), "epochs": 8}
    names = [f.name for group in GROUPS.values() for f in fields(group)] + [
        "dataset",
        "method",
        "seed",
        "shots",
    ]
    assert sorted(names) == sorted(run.flat())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"method": "vp", "where": "sigmoid"},
            r"where is 'sigmoid' and method is 'vp', but only adavipro decides",
        ),
        ({"method": "vp", "random_share": 0.5}, r"random_share is 0.5 and where is 'gumbel'"),
        ({"method": "zero-shot", "where": "sigmoid"}, r"where is 'sigmoid' and method is 'zero-shot'"),
        ({"where": "sigmoid", "random_share": 0.5}, r"random_share is 0.5 and where is 'sigmoid'"),
        ({"where": "random"}, r"random_share is None and where is 'random'"),
        ({"where": "random", "random_share": 0}, r"random_share is 0, but it must be between 0 and 1"),
        ({"where": "random", "random_share": 1.0}, r"random_share is 1, but it must be between 0 and 1"),
        ({"where": "sigmoid", "hard": True}, r"hard is True and where is 'sigmoid', but only gumbel"),
        ({"where": "random", "random_share": 0.5, "hard": True}, r"hard is True and where is 'random'"),
        ({"where": "learned"}, r"where is 'learned', but it must be one of: gumbel, sigmoid, random"),
        ({"temperature_end": 6.0}, r"temperature_end is 6.0, but a temperature falls"),
        ({"temperature_gamma": 1.1}, r"temperature_gamma is 1.1, but it must be at most 1"),
        ({"label_mapping": "frequency"}, r"label_mapping is 'frequency' and model is 'small-clip'"),
        ({"model": "timm:resnet18"}, r"label_mapping is None and model is 'timm:resnet18'"),
        ({"template": "a photo"}, r"template is 'a photo', but it needs exactly one \{\}"),
        ({"dataset": "cifar"}, r"dataset is 'cifar', but the data sets are: digits, .*eurosat.*folder:PATH"),
        ({"method": "adaviper"}, r"method is 'adaviper', but it must be one of: zero-shot, vp"),
        ({"seed": -1}, r"seed is -1, but it must be at least 0"),
        ({"promt_px": 8}, r"no setting 'promt_px': did you mean 'prompt_px'\?"),
        ({"generator_rate": 1}, r"did you mean 'generator_lr'\?"),
        (
            {"xyz": 8},
            r"no setting 'xyz': the settings are: dataset, method, seed, shots, model, .*learning_rate",
        ),
        ({"network": {"model": "small-clip"}}, r"no setting 'network'"),
        ({"warmup_share": None}, r"warmup_share and warmup_steps are both none"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, told):
    with pytest.raises(SettingError, match=told) as caught:
        preset("embedded", **{"method": "adavipro", **changes})
    assert "\n" not in str(caught.value)


def test_group_of_another_kind_is_refused():
    with pytest.raises(SettingError, match=r"masks is .*Prompt, but it must be Masks"):
        Experiment(masks=Experiment().prompt)


def other(field, value):
    """A valid value of a setting that is not `value`."""
    chosen = {
        "region_px": 14,
        "model": "ViT-B-32",
        "pretrained": "openai",
        "dataset": "textures",
    }
    chosen |= {
        "temperature_end": 0.5,
        "temperature_gamma": 0.9,
        "temperature_floor": 0.2,
        "warmup_steps": 7,
        "warmup_share": 0.75,
    }
    chosen |= {"template": "{}", "shots": 2}
    if field.name in chosen:
        return chosen[field.name]
    if choices := field.metadata.get("choices"):
        return next(c for c in choices if c != value)
    if isinstance(value, bool):
        return not value
    return value * 0.75 + 0.2 if isinstance(value, float) else value + 1


def differing(base: Experiment) -> set[str]:
    """Names of the settings that make another key."""
    settings = {
        f.name: f for kind in (Experiment, *GROUPS.values()) for f in fields(kind) if "doc" in f.metadata
    }
    for name in ("method", "label_mapping", "where", "random_share"):  # go with others: below
        del settings[name]
    if base.masks.where != "gumbel":  # the others refuse it
        del settings["hard"]
    return {
        name
        for name, f in settings.items()
        if base.changed(**{name: other(f, base.flat()[name])}).key() != base.key()
    }


NETWORK = {"dataset", "shots", "model", "pretrained", "template", "precision"}
PROMPT = {"seed", "prompt_px", "prompt_start_std"}
STEPS = {"epochs", "batch_size", "prompt_lr", "momentum", "warmup_share", "warmup_steps"}
GENERATOR = {"generator_lr", "generator_momentum"}
FALL = {"temperature_start", "temperature_gamma", "temperature_end", "temperature_floor"}
LEARNED_MASKS = {f.name for f in fields(Masks)} - {"where", "random_share", "hard"}


@pytest.mark.parametrize(
    ("method", "changes", "names"),
    [
        ("zero-shot", {}, NETWORK),
        ("linear-probe", {}, NETWORK),
        (
            "fine-tune",
            {},
            NETWORK
            | {
                "seed",
                "epochs",
                "batch_size",
                "warmup_share",
                "warmup_steps",
                "learning_rate",
                "weight_decay",
            },
        ),
        ("vp", {}, NETWORK | PROMPT | STEPS),
        ("adavipro", {}, NETWORK | PROMPT | STEPS | GENERATOR | FALL | LEARNED_MASKS | {"hard"}),
        (
            "adavipro",
            {"temperature_gamma": 0.5},
            NETWORK | PROMPT | STEPS | GENERATOR | FALL | LEARNED_MASKS | {"hard"},
        ),
        ("soft-masks", {}, NETWORK | PROMPT | STEPS | GENERATOR | LEARNED_MASKS),
        ("random-masks", {"random_share": 0.5}, NETWORK | PROMPT | STEPS | {"region_px"}),
    ],
)
def test_what_matters_to_a_method_and_nothing_else_is_part_of_its_key(method, changes, names):
    assert differing(tiny(method, **changes)) == names


def test_every_method_and_variant_has_a_key_of_its_own():
    runs = [
        tiny(name, **({"random_share": 0.5} if name == "random-masks" else {}))
        for name in (*METHODS, *VARIANTS)
    ]
    assert len({run.key() for run in runs}) == len(METHODS) + len(VARIANTS)
    assert tiny("random-masks", random_share=0.5).key() != tiny("random-masks", random_share=0.25).key()
    mapped = [tiny(model="timm:resnet18", label_mapping=mapping) for mapping in models.MAPPINGS]
    assert len({run.key() for run in mapped}) == 3


def test_key_is_that_of_the_values_and_not_of_their_spelling():
    assert tiny(prompt_lr=4).key() == tiny(prompt_lr=4.0).key()
    assert Experiment().changed(**json.loads(json.dumps(tiny().flat()))).key() == tiny().key()
    assert Experiment().changed(**tiny().content()).key() == tiny().key()


def test_weights_are_part_of_the_key(tmp_path):
    run, keys = tiny(model=f"local-dir:{tmp_path}"), set()
    for weights in (b"some", b"other"):
        (tmp_path / "open_clip_model.safetensors").write_bytes(weights)
        keys.add(run.key())
    assert len(keys) == 2


def test_paper_preset_is_the_papers_recipe():
    run = preset("paper", "adavipro")
    assert (run.network.model, run.network.pretrained) == ("ViT-B-32-quickgelu", "openai")
    assert (run.prompt.prompt_px, run.masks.region_px, run.masks.generator_width) == (30, 32, 64)
    r = run.recipe
    assert (r.prompt_lr, r.generator_lr, r.batch_size, r.momentum) == (40, 1, 256, 0.9)
    assert (r.epochs, r.warmup_steps, r.warmup_share) == (1000, 1000, None)
    assert (r.temperature_start, r.temperature_gamma, r.temperature_end) == (5, 0.98, None)
    assert run.network.template == "This is a photo of a {}"
    ours = preset("paper", "adavipro", "ours").recipe
    assert (ours.temperature_gamma, ours.temperature_end) == (None, 0.1)
    assert run.changed(temperature_end=0.2).recipe.temperature_gamma is None
    assert preset("paper", "vp", "ours").recipe.warmup_share == 0.05
    assert preset("paper", "vp", warmup_share=0.1).recipe.warmup_steps is None
    for name in METHODS:
        assert preset("paper", name).method == name


def test_variants_are_methods_with_single_settings_changed():
    soft = preset("embedded", "soft-masks")
    assert (soft.method, soft.masks.where) == ("adavipro", "sigmoid")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("papers", "vp"), r"world is 'papers'.*embedded, photographs, paper"),
        (("paper", "vp", "best"), r"recipe is 'best', .* paper, ours"),
        (("embedded", "vp", "ours"), r"recipe is 'ours', but the embedded world has one recipe only"),
    ],
)
def test_preset_that_there_is_not_is_refused(call, told):
    with pytest.raises(SettingError, match=told):
        preset(*call)


def test_every_choice_of_ours_is_in_the_docs():
    text = (Path(__file__).parent.parent / "docs" / "choices.md").read_text()
    for field in fields(Masks):
        if field.name not in ("region_px", "generator_width", "random_share"):  # the paper's, and where's own
            assert f"| `{field.name}` | {str(field.default).lower()} |" in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompt_px": 29}, "prompt_px is 29, .* from 1 to 28"),
        ({"region_px": 5}, "region_px is 5, .* 4, 7, 8, 14"),
        ({"model": "local-dir:nowhere"}, "model is 'local-dir:nowhere', but .* does not exist"),
        ({"warmup_steps": 1000}, "warm-up takes 1000 steps, but the run has 9"),
        (
            {"method": "fine-tune", "warmup_steps": 1000, "warmup_share": None},
            "warm-up takes 1000 steps, but the run",
        ),
        ({"dataset": "folder:nowhere"}, "dataset is 'folder:nowhere', but"),
    ],
)
def test_settings_that_do_not_fit_model_or_data_are_one_sentence_and_no_folder(
    tmp_path, monkeypatch, changes, told
):
    monkeypatch.setattr(training, "train_step", no_work)
    with pytest.raises(ValueError, match=told) as caught:
        experiment.run(tiny(changes.pop("method", "adavipro"), **changes), tmp_path, progress_bar=False)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# --- A run --------------------------------------------------------------------------------------------------------


def test_training_does_not_reach_the_test_split(tmp_path, monkeypatch):
    asked, load = [], datasets.embedded.Drawn.load

    def counted(self, split, *args):
        asked.append(split)
        return load(self, split, *args)

    monkeypatch.setattr(datasets.embedded.Drawn, "load", counted)
    progress = experiment.validate(tiny(epochs=1), tmp_path)
    assert asked == ["train", "val"]
    assert progress.epochs == 1
    result = experiment.run(tiny(epochs=1), tmp_path, progress_bar=False)  # goes on from there
    assert asked == ["train", "val"] * 2 + ["test"]
    assert result["val_accuracy"] == progress.best_accuracy


def test_key_is_computed_once_a_run(tmp_path, calls):
    experiment.run(tiny(epochs=1), tmp_path, progress_bar=False)
    assert calls["key"] == 1


def test_run_folder_holds_settings_metrics_checkpoints_prompt_and_result(finished):
    run, root, result = finished
    folder = run.folder(root)
    assert [p.name for p in root.iterdir()] == [f"letters-adavipro-8px-seed0-{run.key()}"]
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "config.json", "checkpoints", "lock", "metrics.csv", "prompt.safetensors", "timing.json", "result.json",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config == run.content() == result["settings"]
    assert Experiment().changed(**config).key() == run.key() == result["key"]
    assert json.loads((folder / "result.json").read_text()) == result == experiment.read_result(run, root)
    assert checkpoints.steps_saved(folder / "checkpoints") == [9, 6]

    written = [p for p in folder.rglob("*") if p.is_file()]
    assert max(written, key=lambda p: p.stat().st_mtime_ns).name == "result.json"


def test_metrics_have_a_line_an_epoch_and_agree_with_the_result(finished):
    run, root, result = finished
    with (run.folder(root) / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == training.METRICS
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "3"), ("1", "6"), ("2", "9")]
    best = max(rows, key=lambda row: float(row["val_accuracy"]))
    assert (int(best["epoch"]), float(best["val_accuracy"])) == (result["best_epoch"], result["val_accuracy"])


def test_finished_run_is_not_repeated(finished, monkeypatch):
    run, root, result = finished
    for owner, name in ((training, "train"), (models, "load"), (datasets.embedded.Drawn, "load")):
        monkeypatch.setattr(owner, name, no_work)
    assert experiment.run(run, root) == result
    assert experiment.run(run, root, resume=True) == result
    with pytest.raises(AssertionError, match="work was done"):
        experiment.run(run.changed(seed=1), root)


def test_run_without_its_result_is_unfinished(finished, tmp_path, monkeypatch):
    run, _, _ = finished
    monkeypatch.setattr(experiment, "evaluate", no_work)
    with pytest.raises(AssertionError, match="work was done"):
        experiment.run(run, tmp_path, progress_bar=False)
    assert (run.folder(tmp_path) / "metrics.csv").exists()
    assert experiment.read_result(run, tmp_path) is None
    with pytest.raises(SettingError, match=r"no finished run in .*run it first"):
        experiment.restore(run.folder(tmp_path))


def test_zero_shot_run_reports_the_frozen_model(tmp_path):
    run = tiny("zero-shot")
    result = experiment.run(run, tmp_path)
    source = datasets.find("letters")
    classifier, test = models.load(run.network, source.class_names), source.load("test", 56)
    right = (classifier(classifier.normalise(test.images)).argmax(1) == test.labels).sum().item()
    assert result["test_accuracy"] == right / SMALL["test"]
    assert (result["steps"], result["parameters"]) == (0, 0)
    assert result["share_on"] is result["val_accuracy"] is None
    assert [p.name for p in tmp_path.iterdir()] == [f"letters-zero-shot-{run.key()}"]
    assert {p.name for p in run.folder(tmp_path).iterdir()} == {"config.json", "lock", "result.json"}
    assert experiment.run(run.changed(seed=1, prompt_px=9), tmp_path) == result
    with pytest.raises(SettingError, match="zero-shot"):
        experiment.restore(run.folder(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "textures", "edges": False},
        {"relu": False, "hard": True},
        {"method": "soft-masks"},
        {"method": "random-masks", "random_share": 0.5},
    ],
    ids=str,
)
def test_every_part_can_be_switched(tmp_path, changes):
    changes = {"method": "adavipro", "epochs": 1, **changes}
    run = tiny(changes.pop("method"), **changes)
    result = experiment.run(run, tmp_path, progress_bar=False)
    assert result["steps"] == 3
    restored = experiment.restore(run.folder(tmp_path))
    assert sum(p.numel() for p in restored.method.parameters()) == result["parameters"]
    assert (result["object_cover"] is None) == (run.dataset == "textures")
    test = datasets.load_split(run.dataset, "test")
    right = (restored(test.images).argmax(1) == test.labels).sum().item()
    assert result["test_accuracy"] == right / SMALL["test"]


def test_data_set_that_changes_while_a_run_goes_on_is_told(tmp_path):
    pictures = draw_splits(tmp_path / "pictures", ("star", "moon"))
    run = tiny(dataset=f"folder:{pictures}", epochs=1, batch_size=4)

    def watch(method, history):
        draw_image(pictures / "train" / "star" / "new.png", 999)

    with pytest.raises(SettingError, match=r"changed while the run went on: run it again"):
        experiment.run(run, tmp_path / "runs", progress_bar=False, watch=watch)
    assert not list((tmp_path / "runs").glob("*/result.json"))


def test_what_is_written_into_a_split_reaches_no_other_load(tmp_path):
    for name in ("letters", f"folder:{draw_splits(tmp_path, ('star', 'moon'))}"):
        source = datasets.find(name)
        first = source.load("val", 56)
        expected = first.images.clone(), first.labels.clone()
        first.images.zero_()
        first.labels.zero_()
        again = source.load("val", 56)
        assert torch.equal(again.images, expected[0])
        assert torch.equal(again.labels, expected[1])


def test_watch_of_an_interrupted_run_sees_every_epoch_once_and_none_of_a_finished_one(tmp_path):
    run, seen = tiny(), []

    def stop_in_the_second(method, history):
        if len(history) == 2:  # which is not saved then
            raise KeyboardInterrupt
        seen.append(history[-1]["epoch"])

    def watch(method, history):
        seen.append(history[-1]["epoch"])

    with pytest.raises(KeyboardInterrupt):
        experiment.run(run, tmp_path, progress_bar=False, watch=stop_in_the_second)
    for _ in range(2):
        experiment.run(run, tmp_path, progress_bar=False, watch=watch)
        assert seen == [0, 1, 2]


# --- Damaged files of a finished run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (b"", "Expecting value"),
        (b'{"key": ', "Expecting value"),
        (b"[]", "it holds no names with values"),
        (b"null", "it holds no names with values"),
        (b"\0\0", "Expecting value"),
        (b"\xff", "decode"),
        (b"[" * 100_000, "recursion"),
        (lambda r: r.pop("key"), "'key' is missing"),
        (lambda r: r.update(key="0123"), "key is not what it must be"),
        (lambda r: r.pop("test_accuracy"), "'test_accuracy' is missing"),
        (lambda r: r.pop("settings"), "'settings' is missing"),
        (lambda r: r.update(test_accuracy="0.5"), "test_accuracy is not what it must be"),
        (lambda r: r.update(test_accuracy=None, steps=1.5), "test_accuracy, steps is not what it must be"),
        (lambda r: r.update(settings=[1]), "settings is not what it must be"),
        (lambda r: r.update(share_on={"a": 1}), "share_on is not what it must be"),
        (
            lambda r: r.update(test_accuracy=75.0, val_accuracy=-0.5),
            "val_accuracy, test_accuracy is not what",
        ),
        (lambda r: r.update(test_accuracy=float("nan"), steps=-1), "test_accuracy, steps is not what"),
        (lambda r: r.update(parameters=True, versions="1.0"), "versions, parameters is not what"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_damaged_result_is_named_counts_as_not_there_and_is_written_anew(
    finished, tmp_path, monkeypatch, change, told
):
    run, root, result = finished
    folder = shutil.copytree(run.folder(root), run.folder(tmp_path))
    if callable(change):
        damaged = json.loads((folder / "result.json").read_text())
        change(damaged)
        change = json.dumps(damaged).encode()
    (folder / "result.json").write_bytes(change)
    timing = (folder / "timing.json").read_bytes()
    with pytest.warns(UserWarning, match=rf"result\.json is damaged and counts as not there: .*{told}"):
        assert experiment.read_result(run, tmp_path) is None
    monkeypatch.setattr(training, "train_step", no_work)
    with pytest.warns(UserWarning, match=r"result\.json is damaged"):
        assert experiment.run(run, tmp_path, progress_bar=False) == result
    assert experiment.read_result(run, tmp_path) == result
    assert (folder / "timing.json").read_bytes() == timing


@pytest.mark.parametrize("name", ["timing.json", "config.json", "metrics.csv"])
@pytest.mark.parametrize(
    "content", [None, b"", b"null", b"[" * 100_000], ids=["none", "empty", "null", "deep"]
)
def test_damaged_side_file_of_a_finished_run_changes_nothing(finished, tmp_path, name, content):
    run, root, result = finished
    folder = shutil.copytree(run.folder(root), run.folder(tmp_path))
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert experiment.run(run, tmp_path) == experiment.read_result(run, tmp_path) == result
    experiment.restore(folder)


# --- Back from a folder alone -------------------------------------------------------------------------------------


@torch.no_grad()
def test_result_is_that_of_the_restored_classifier(finished, tmp_path):
    run, root, result = finished
    folder = shutil.copytree(run.folder(root), tmp_path / "moved" / "under another name")
    restored = experiment.restore(str(folder))
    test = datasets.load_split("letters", "test")
    assert (
        result["test_accuracy"]
        == (restored(test.images).argmax(1) == test.labels).sum().item() / SMALL["test"]
    )
    assert result["parameters"] == 3 * (56**2 - 40**2) + (3 * 9 + 1) * 8 + (8 * 64 + 1) * 2
    assert restored.classifier.class_names == list(datasets.find("letters").class_names)
    saved, _ = checkpoints.load_newest(folder / "checkpoints")
    for name, p in restored.method.named_parameters():
        assert torch.equal(p, saved[f"best.{name}"])


def test_only_a_finished_and_undamaged_run_is_restored(finished, tmp_path):
    run, root, _ = finished
    with pytest.raises(SettingError, match=r"no finished run in .*run it first"):
        experiment.restore(tmp_path)
    folder = shutil.copytree(run.folder(root), tmp_path / "copy")
    prompt = folder / "prompt.safetensors"
    prompt.write_bytes(prompt.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=prompt.name):
        experiment.restore(folder)


@pytest.mark.parametrize("method", experiment.BASELINES)
def test_baseline_has_a_result_and_no_prompt_to_restore(tmp_path, method):
    run = tiny(method, epochs=1)
    result = experiment.run(run, tmp_path)
    assert result == experiment.read_result(run, tmp_path)
    assert result["picked"]
    assert result["share_on"] is result["steps"] is None
    with pytest.raises(SettingError, match="learned no prompt"):
        experiment.restore(run.folder(tmp_path))


def test_run_on_a_folder_lists_it_twice_and_is_restored_without_it(tmp_path, calls):
    pictures = draw_splits(tmp_path / "pictures", ("star", "moon"))
    run = tiny(dataset=f"folder:{pictures}", epochs=1, batch_size=4)
    experiment.run(run, tmp_path / "runs", progress_bar=False)
    assert calls["list_folder"] <= 2
    assert calls["key"] == 1
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("folder-pictures-adavipro-8px-seed0-")
    image = torch.rand(2, 3, 56, 56)
    expected = experiment.restore(folder)(image)
    draw_image(pictures / "train" / "star" / "new.png", 999)
    assert torch.equal(experiment.restore(folder)(image), expected)
    shutil.rmtree(pictures)
    moved = shutil.move(folder, tmp_path / "moved")
    restored = experiment.restore(moved)
    assert torch.equal(restored(image), expected)
    assert restored.classifier.class_names == ["moon", "star"]
