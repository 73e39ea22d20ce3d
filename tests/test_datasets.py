import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from adavipro import datasets, tables
from adavipro.classifiers import data_folder
from adavipro.embedded import scenes

SPLITS = ("train", "val", "test")
SIZES = dict.fromkeys(("letters", "sketches", "textures"), (2000, 600, 1000)) | {"digits": (2000, 594, 1000)}
CLASSES = {"digits": 10, "letters": 24, "sketches": 30, "textures": 12}
each_data_set = pytest.mark.parametrize("name", list(SIZES))
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
        ("cifar10", "train", "dataset is 'cifar10', but .*: digits, letters, sketches, textures"),
        ("digits", "dev", "split is 'dev', but .*: train, val, test"),
        ("letters", "Test", "split is 'Test', but .*: train, val, test"),
    ],
)
def test_unknown_name_lists_those_there_are(name, split, told):
    with pytest.raises(ValueError, match=told):
        datasets.load_split(name, split)


def test_zero_shot_leaves_room_both_ways():
    """In the results that ship: a data set at chance or at the ceiling shows nothing."""
    rows = [row for row in tables.read_results("embedded") if row["method"] == "zero-shot"]
    accuracy = {row["dataset"]: float(row["test_accuracy"]) for row in rows}
    assert accuracy.keys() == CLASSES.keys()
    assert all(0.3 < value < 0.85 for value in accuracy.values()), accuracy
