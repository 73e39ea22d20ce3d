"""Faults D2 and S1 on the paper's nine data sets: half there, with lists that do not fit, or in pickles."""

import json
import os
import pickle
import re
import shutil

import nine_samples
import pytest

from adavipro.nine import list_dataset
from adavipro.settings import SettingError

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.nine.PartialDataWarning")
BY_FETCH = r"`adavipro fetch {}`.*, or set \$ADAVIPRO_DATA to the folder that holds it$"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def refused(name, told):
    with pytest.raises(SettingError, match=told) as caught:
        list_dataset(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"dataset is {name!r}, but ")
    assert re.search("get it with|; remove /|, or remove /", str(caught.value))


# --- Half there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nine_samples.CLASSES)
def test_missing_data_set_is_one_sentence_with_the_way_out(name, data):
    refused(name, "there is no folder .*" + BY_FETCH.format(name))


PARTS = [
    ("dtd", "dtd/labels/val1.txt"),
    ("food101", "food-101/meta/train.txt"),
    ("flowers102", "oxford_flowers/setid.mat"),
    ("flowers102", "oxford_flowers/imagelabels.mat"),
    ("ucf101", "ucf101/ucfTrainTestlist/classInd.txt"),
    ("oxfordpets", "oxford_pets/annotations/test.txt"),
    ("cifar10", "cifar10/cifar-10-batches-bin/data_batch_3.bin"),
    ("cifar100", "cifar100/cifar-100-binary/fine_label_names.txt"),
]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_missing_list_is_named(name, part, data):
    nine_samples.write(name, data)
    (data / part).unlink()
    refused(name, f"{re.escape(part)}: No such file or directory; .*" + BY_FETCH.format(name))


@pytest.mark.parametrize("coop", [False, True])
@pytest.mark.parametrize("name", ["dtd", "food101", "ucf101", "oxfordpets"])
def test_missing_pictures_are_counted_and_the_first_named(name, coop, data):
    base = nine_samples.write(name, data, coop=coop)
    gone = sorted(base.glob(f"{nine_samples.PLACES[name][2]}/**/*.jpg"))[:5]
    for file in gone:
        file.unlink()
    end = f"remove {base}/split_.* to have our split" if coop else "`"
    first = ", ".join(str(file.relative_to(base / nine_samples.PLACES[name][2])) for file in gone[:3])
    refused(
        name,
        rf"5 of \d+ files are missing in .*: {re.escape(first)} and so on; remove .*adavipro fetch.*{end}$",
    )


@pytest.mark.parametrize("name", ["eurosat", "sun397"])
def test_d2_missing_class_of_a_data_set_without_lists_is_an_error(name, data):
    base = nine_samples.write(name, data)
    shutil.rmtree(base / nine_samples.PLACES[name][2] / nine_samples.class_list(name)[3])
    k = nine_samples.CLASSES[name] - 1
    refused(name, rf"needs labels from 0 to {k}, and these are missing or too many: \[{k}\]")


def test_class_with_too_few_pictures_is_an_error(data):
    base = nine_samples.write("eurosat", data)
    for i in range(3):
        (base / f"2750/River/River_{i + 1}.jpg").unlink()
    refused("eurosat", "class eurosat-river has 3 images in train, fewer than 4")


# --- Wrong lists ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part", "content", "told"),
    [
        ("dtd", "dtd/labels/test1.txt", b"<html>", "has the line '<html>', which is not of the form"),
        ("oxfordpets", "oxford_pets/annotations/test.txt", b"\xff\xfe 1 1 1", "which is not of the form"),
        ("ucf101", "ucf101/ucfTrainTestlist/testlist01.txt", b"YoYoYo/v_YoYo_g01_c01.avi", r"too many: \[-1\]"),
        ("ucf101", "ucf101/ucfTrainTestlist/testlist01.txt", b"\n", "test has no pictures"),
        ("dtd", "dtd/labels/test1.txt", b"banded/banded_0003.jpg", "3.jpg is there twice, in val and in test"),
        ("food101", "food-101/meta/test.txt", b"../food-101/1", "leads out of the data set's folder"),
        ("flowers102", "oxford_flowers/setid.mat", b"MATLAB 5.0", "holds no list 'trnid' of MATLAB's"),
        ("flowers102", "oxford_flowers/imagelabels.mat", b"", "holds no list 'labels' of MATLAB's"),
        ("cifar10", "cifar10/cifar-10-batches-bin/test_batch.bin", b"\0" * 4000, "has 4,000 bytes, no whole"),
        ("cifar10", "cifar10/cifar-10-batches-bin/test_batch.bin", b"", "has 0 bytes, no whole number of 3,073"),
        ("cifar10", "cifar10/cifar-10-batches-bin/test_batch.bin", b"\xff" * 3073, "the label 255 of 10 classes"),
    ],
)  # fmt: skip
def test_d2_list_that_does_not_fit_is_one_sentence(name, part, content, told, data):
    nine_samples.write(name, data)
    (data / part).write_bytes(content)
    refused(name, told)


def every_name(split, change):
    return {part: [change(list(row)) for row in rows] for part, rows in split.items()}


def with_row(part, *row):
    return lambda split: split | {part: [*split[part], list(row)]}


RIVER = "River/River_1.jpg"  # in train


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: {k: s[k] for k in ("train", "test")}, "has no list 'val'"),
        (lambda s: [1, 2], "has no list 'train'"),
        (lambda s: s | {"test": []}, "test has no pictures"),
        (lambda s: s | {"val": [["a.jpg", 1]]}, r"has \['a.jpg', 1\] in 'val', expected \[path, label"),
        (with_row("val", "a.jpg", "1", "River"), r"\['a.jpg', '1', 'River'\] in 'val'"),
        (with_row("val", "Forest/Forest_1.jpg", 1, "Wood"), "label 1 is the class 'Forest' and the class 'Wood'"),
        (with_row("val", RIVER, 8, "River"), f"{RIVER} is there twice, in train and in val"),
        (with_row("train", f"./{RIVER}", 8, "River"), f"{RIVER} is there twice, in train and in train"),
        (with_row("val", "../../secret.jpg", 8, "River"), "secret.jpg in val leads out of"),
        (with_row("val", "/etc/secret.jpg", 8, "River"), "/etc/secret.jpg in val leads out of"),
        (with_row("val", "River/River_99.jpg", 10, "Lake"), r"missing or too many: \[10\]"),
        (with_row("val", "River/River_99.jpg", -1, "Lake"), r"missing or too many: \[-1\]"),
        (
            lambda s: {part: [row for row in rows if row[1] != 4] for part, rows in s.items()},
            r"missing or too many: \[4\]",
        ),
        (
            lambda s: every_name(s, lambda row: [*row[:2], "forest_" if row[1] == 8 else row[2]]),
            r"\['forest'\] occur more than once",
        ),
    ],
)  # fmt: skip
def test_d2_split_file_that_does_not_fit_is_one_sentence(change, told, data):
    file = nine_samples.write("eurosat", data, coop=True) / "split_zhou_EuroSAT.json"
    file.write_text(json.dumps(change(json.loads(file.read_bytes()))))
    refused("eurosat", f"{told}.*; put another copy in its place, or remove {file} to have our split$")


def test_split_file_that_is_no_json_is_one_sentence(data):
    file = nine_samples.write("eurosat", data, coop=True) / "split_zhou_EuroSAT.json"
    for content in (b"", b"<html>", b"\xff\xff", b'{"train": ['):
        file.write_bytes(content)
        refused("eurosat", "split_zhou_EuroSAT.json is no JSON")


class Payload:
    """A pickle that makes a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [
        ("cifar10", "cifar-10-batches-py", "data_batch_1"),
        ("cifar100", "cifar-100-python", "train"),
        ("cifar10", "cifar10/cifar-10-batches-py", "data_batch_1"),
    ],
)
def test_s1_torchvisions_pickles_are_not_read(name, folder, file, data, tmp_path):
    (data / folder).mkdir(parents=True)
    (data / folder / file).write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    told = rf"dataset is '{name}', but .* the kit reads no pickles: `adavipro fetch {name}` brings the binary"
    with pytest.raises(SettingError, match=told):
        list_dataset(name)
    assert not (tmp_path / "executed").exists()
