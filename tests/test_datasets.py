import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import nine_samples
import pytest
import torch
from helpers import draw_splits, tiny
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from adavipro import datasets, decoded, experiment, folders, nine, tables
from adavipro.classifiers import data_folder
from adavipro.decoding import to_tensor
from adavipro.embedded import scenes
from adavipro.settings import SettingError

SPLITS = ("train", "val", "test")
SIZES = dict.fromkeys(("letters", "sketches", "textures"), (2000, 600, 1000)) | {"digits": (2000, 594, 1000)}
CLASSES = {"digits": 10, "letters": 24, "sketches": 30, "textures": 12}
each_data_set = pytest.mark.parametrize("name", list(SIZES))
ignore_size = pytest.mark.filterwarnings("ignore::adavipro.nine.PartialDataWarning")
draw = datasets.draw_split.__wrapped__  # past the cache


def digest(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


@each_data_set
def test_splits_have_their_sizes_types_and_every_class(name):
    assert list(datasets.CLASS_NAMES) == list(CLASSES)
    for split, size in zip(SPLITS, SIZES[name], strict=True):
        found = datasets.load_split(name, split)
        assert (found.images.shape, found.images.dtype) == ((size, 3, 56, 56), torch.uint8)
        assert (found.labels.shape, found.labels.dtype) == ((size,), torch.int64)
        assert found.labels.unique().tolist() == list(range(CLASSES[name])), "a class is missing"
        assert len(datasets.CLASS_NAMES[name]) == CLASSES[name]


@each_data_set
def test_objects_lie_where_the_picture_shows_them(name):
    """An object has one colour (with noise): where `objects` were beside it, the background would show."""
    for split in SPLITS:
        found = datasets.load_split(name, split)
        if name == "textures":
            assert found.objects is None
            continue
        assert (found.objects.shape, found.objects.dtype) == ((len(found), 1, 56, 56), torch.uint8)
        covered = found.objects.float().mean((1, 2, 3)) / 255
        assert covered.min() > 0.03
        assert covered.max() < 0.6
        inside, n = found.objects == 255, (found.objects == 255).sum((2, 3))
        mean = (found.images * inside).sum((2, 3)) / n
        deviation = (found.images - mean[:, :, None, None]).square().mul(inside).sum((2, 3)).div(n).sqrt()
        assert n.min() > 0
        assert deviation.max() < 0.08 * 255


@each_data_set
def test_no_picture_is_in_the_data_twice(name):
    pictures = [p for split in SPLITS for p in digest(datasets.load_split(name, split).images)]
    assert len(set(pictures)) == sum(SIZES[name])


def test_stored_digits_are_scikit_learns():
    stored, source = load_file(data_folder() / "handwritten_digits.safetensors"), load_digits()
    assert (stored["images"].numpy() == source.images).all()
    assert (stored["labels"].numpy() == source.target).all()


def test_no_scan_is_in_two_splits_and_each_keeps_its_label(monkeypatch):
    source = load_digits()
    truth = {image.tobytes(): label for image, label in zip(source.images, source.target, strict=True)}
    shown = {}

    def record(scans, g):
        shown[split] = [scan.double().numpy().tobytes() for scan in scans]
        return torch.zeros(1), torch.zeros(1)

    monkeypatch.setattr(scenes, "handwritten_digits", record)
    for split in SPLITS:
        found = draw("digits", split)
        assert [truth[scan] for scan in shown[split]] == found.labels.tolist()
    parts = [set(shown[split]) for split in SPLITS]
    assert [len(part) for part in parts] == [1000, 297, 500]
    assert len(set.union(*parts)) == len(truth)


def sha256_of(split: datasets.Split) -> str:
    return hashlib.sha256(split.images.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()


def test_data_are_the_same_in_every_draw_and_every_process():
    code = "from test_datasets import *\nfor n in CLASSES: print(sha256_of(datasets.load_split(n, 'val')))"
    fresh = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    ours = [sha256_of(draw(name, "val")) for name in CLASSES]
    assert fresh.stdout.split() == ours
    assert len(set(ours)) == 4


@pytest.mark.parametrize(
    ("name", "split", "told"),
    [
        (
            "cifar",
            "train",
            "dataset is 'cifar', but .*: digits, letters, sketches, textures, cifar10, .*, folder:PATH",
        ),
        ("digits", "dev", "split is 'dev', but .*: train, val, test"),
        ("letters", "Test", "split is 'Test', but .*: train, val, test"),
    ],
)
def test_unknown_name_lists_those_there_are(name, split, told):
    with pytest.raises(ValueError, match=told):
        datasets.load_split(name, split)


# --- The paper's nine -------------------------------------------------------------------------------------------


@pytest.fixture
def eurosat(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ADAVIPRO_CACHE", str(tmp_path / "cache"))
    return nine_samples.write("eurosat", tmp_path / "data")


@ignore_size
def test_one_of_the_nine_is_loaded_at_any_size_with_its_labels(eurosat):
    listing = nine.list_dataset("eurosat")
    assert datasets.class_names("eurosat") == listing.class_names
    assert datasets.slug("eurosat") == "eurosat"
    for split, size in zip(SPLITS, (30, 10, 20), strict=True):
        for px in (24, 56):
            found = datasets.load_split("eurosat", split, px)
            assert (found.images.shape, found.images.dtype) == ((size, 3, px, px), torch.uint8)
            assert found.objects is None
            assert found.labels.dtype == torch.int64
            assert found.labels.tolist() == [label for _, label in listing.pictures[split]]
    file, _ = listing.pictures["val"][3]
    expected = to_tensor((listing.folder / file.path).read_bytes(), 56, plain=True)
    assert torch.equal(datasets.load_split("eurosat", "val").images[3], expected)


@ignore_size
def test_source_of_the_splits_is_said(eurosat, tmp_path):
    assert datasets.split_source("eurosat") == "ours, version 1"
    nine_samples.write("dtd", tmp_path / "data", coop=True)
    assert datasets.split_source("dtd") == "CoOp's split_zhou_DescribableTextures.json"
    assert datasets.split_source("digits") is None
    pictures = draw_splits(tmp_path / "own")
    assert datasets.split_source(f"folder:{pictures}") == "its own folders"
    shutil.rmtree(pictures / "val")
    assert datasets.split_source(f"folder:{pictures}") == "its own folders, val held out of train"
    assert datasets.split_source(f"folder:{pictures / 'test'}") == "dealt 60/20/20"


@ignore_size
def test_version_of_one_of_the_nine_is_its_listings(eurosat):
    listing = nine.list_dataset("eurosat")
    assert datasets.version("eurosat") == listing.version
    assert len(listing.version) == 64
    assert datasets.version("digits") == datasets.VERSION


def test_name_of_one_of_the_nine_is_known_before_its_data_are_there(monkeypatch, tmp_path):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path))
    for name in nine_samples.CLASSES:
        datasets.check_name(name)
        datasets.check_image_px(name, 224)
        with pytest.raises(SettingError, match=rf"there is no folder .*`adavipro fetch {name}`"):
            datasets.version(name)


def test_embedded_data_read_nothing_of_the_nine(monkeypatch):
    monkeypatch.setattr(nine, "_list", None)
    monkeypatch.setattr(nine, "datasets_folder", None)
    datasets.check_name("digits")
    assert datasets.split_source("digits") is None
    assert datasets.class_names("digits")
    assert datasets.version("digits") == 1
    assert len(datasets.load_split("digits", "val")) == 594


@ignore_size
def test_images_are_counted_without_decoding_any(eurosat, tmp_path, monkeypatch):
    pictures = draw_splits(tmp_path / "own")
    for name in ("letters", "eurosat", f"folder:{pictures}"):
        sizes = [len(datasets.load_split(name, split)) for split in SPLITS]
        with monkeypatch.context() as patch:
            for module in (folders, decoded):
                patch.setattr(module, "to_tensor", None)
            patch.setattr(datasets.decoded, "open_split", None)
            patch.setattr(folders, "_load", None)
            assert [datasets.count(name, split) for split in SPLITS] == sizes
    with pytest.raises(ValueError, match="split is 'dev'"):
        datasets.count("letters", "dev")
    with pytest.raises(SettingError, match="dataset is 'imagenet'"):
        datasets.count("imagenet", "val")


@ignore_size
@pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")
def test_run_whose_data_set_changes_meanwhile_is_no_result(eurosat, tmp_path):
    run = tiny("vp", dataset="eurosat")

    def change(*_):
        (eurosat / "2750/Forest/new.jpg").write_bytes(nine_samples.jpeg(1))

    with pytest.raises(SettingError, match="data set 'eurosat' changed while the run went on"):
        experiment.run(run, tmp_path / "runs", progress_bar=False, watch=change)


def test_zero_shot_leaves_room_both_ways():
    """In the results that ship: a data set at chance or at the ceiling shows nothing."""
    rows = [row for row in tables.read_results("embedded") if row["method"] == "zero-shot"]
    accuracy = {row["dataset"]: float(row["test_accuracy"]) for row in rows}
    assert accuracy.keys() == CLASSES.keys()
    assert all(0.3 < value < 0.85 for value in accuracy.values()), accuracy
