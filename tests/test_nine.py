"""The paper's nine data sets: what lies on disk, in the true formats, and which split it makes."""

import dataclasses
import hashlib
import json
import shutil
import warnings
from collections import Counter

import nine_samples
import numpy as np
import pytest
from scipy.io import loadmat
from torchvision.datasets import Flowers102

from adavipro import nine
from adavipro.nine import PartialDataWarning, list_dataset

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.nine.PartialDataWarning")
NAMES = list(nine_samples.CLASSES)
WITH_COOP = list(nine_samples.PLACES)
SPLITS = ("train", "val", "test")
SIZES = {  # of a class of six: official test and val are two each, what is left is dealt out
    "dtd": (2, 2, 2), "flowers102": (2, 2, 2), "sun397": (2, 1, 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """All nine with official lists, and those that CoOp has with its files as well."""
    folders = {split: tmp_path_factory.mktemp(split) for split in ("ours", "coop")}
    for name in NAMES:
        nine_samples.write(name, folders["ours"])
    for name in WITH_COOP:
        nine_samples.write(name, folders["coop"], coop=True)
    return folders


@pytest.fixture
def ours(both, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(both["ours"]))
    return both["ours"]


@pytest.fixture
def coops(both, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(both["coop"]))
    return both["coop"]


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path))
    return tmp_path


def paths(listing, split):
    return {picture.path for picture, _ in listing.pictures[split]}


def is_sound(name, listing):
    """Whether every picture is there once, in one split, and every split has every class."""
    pictures = [picture for split in SPLITS for picture, _ in listing.pictures[split]]
    assert len(set(pictures)) == len(pictures)
    assert all((listing.folder / picture.path).is_file() for picture in pictures)
    classes = set(range(nine_samples.CLASSES[name]))
    return all({label for _, label in listing.pictures[split]} == classes for split in SPLITS)


@pytest.mark.parametrize("name", NAMES)
def test_our_split_has_every_class_in_every_split_and_no_picture_twice(name, ours):
    listing = list_dataset(name)
    assert listing.split == "ours, version 1"
    assert len(listing.class_names) == nine_samples.CLASSES[name]
    assert is_sound(name, listing)
    counts = [Counter(label for _, label in listing.pictures[split]) for split in SPLITS]
    assert tuple(counts[i][0] for i in range(3)) == SIZES.get(name, (3, 1, 2))
    assert all(len(set(count.values())) == 1 for count in counts)


@pytest.mark.parametrize("name", WITH_COOP)
def test_coops_file_decides_where_it_is_there_and_both_say_which_they_are(name, coops, monkeypatch, both):
    listing = list_dataset(name)
    title = nine_samples.PLACES[name][3]
    assert listing.split == f"CoOp's split_zhou_{title}.json"
    assert is_sound(name, listing)
    content = json.loads(next(coops.glob(f"*/split_zhou_{title}.json")).read_bytes())
    for split in SPLITS:
        assert [[p.path, label] for p, label in listing.pictures[split]] == [r[:2] for r in content[split]]
    monkeypatch.setenv("ADAVIPRO_DATA", str(both["ours"]))
    other = list_dataset(name)
    assert other.class_names == listing.class_names  # whatever the spelling
    assert paths(other, "test") != paths(listing, "test")
    assert other.version != listing.version


def lines(file):
    return [line.split()[0] for line in file.read_text().splitlines()]


def test_official_test_and_validation_are_kept(ours):
    food, dtd, pets = (list_dataset(name) for name in ("food101", "dtd", "oxfordpets"))
    assert paths(food, "test") == {f"{line}.jpg" for line in lines(ours / "food-101/meta/test.txt")}
    for split in SPLITS:
        assert paths(dtd, split) == set(lines(ours / f"dtd/labels/{split}1.txt"))
    assert paths(pets, "test") == {f"{own}.jpg" for own in lines(ours / "oxford_pets/annotations/test.txt")}
    ids = loadmat(ours / "oxford_flowers/setid.mat")
    for split, key in zip(SPLITS, ("trnid", "valid", "tstid"), strict=True):
        expected = {f"image_{i:05d}.jpg" for i in ids[key].ravel()}
        assert paths(list_dataset("flowers102"), split) == expected
    videos = lines(ours / "ucf101/ucfTrainTestlist/testlist01.txt")
    stems = {path.split("/")[1] for path in paths(list_dataset("ucf101"), "test")}
    assert stems == {video.split("/")[1].replace(".avi", ".jpg") for video in videos}
    for name, file in (("cifar10", "test_batch.bin"), ("cifar100", "test.bin")):
        listing = list_dataset(name)
        assert paths(listing, "test") == {file}
        assert file not in paths(listing, "train") | paths(listing, "val")


@pytest.mark.parametrize(("name", "before"), [("cifar10", 1), ("cifar100", 2)])
def test_record_is_found_with_its_label(name, before, ours):
    listing = list_dataset(name)
    for split in SPLITS:
        for picture, label in listing.pictures[split]:
            content = np.fromfile(listing.folder / picture.path, np.uint8)
            assert (picture.offset - before) % (3072 + before) == 0
            assert content[picture.offset - 1] == label


def test_classes_are_named_as_users_of_clip_name_them(ours):
    names = {name: list_dataset(name).class_names for name in NAMES}
    assert names["cifar10"] == tuple(nine_samples.CIFAR10)
    assert {"banded", "polka dotted"} < set(names["dtd"])
    assert {"apple pie", "french onion soup"} < set(names["food101"])
    assert {"abbey", "outdoor apartment building", "indoor procenium theater"} < set(names["sun397"])
    assert names["flowers102"] == tuple(own.replace("-", " ") for own in Flowers102.classes)
    assert {"apply eye makeup", "handstand pushups", "yo yo"} < set(names["ucf101"])
    assert {"abyssinian", "american bulldog", "egyptian mau"} < set(names["oxfordpets"])
    assert names["eurosat"] == (
        "annual crop land", "forest", "herbaceous vegetation land", "highway or road", "industrial buildings",
        "pasture land", "permanent crop land", "residential buildings", "river", "sea or lake",
    )  # fmt: skip


def test_eurosats_raw_names_in_a_split_file_become_the_long_ones(fresh):
    base = nine_samples.write("eurosat", fresh, coop=True)
    file = base / "split_zhou_EuroSAT.json"
    content = json.loads(file.read_bytes())
    raw = {split: [[p, k, p.split("/")[0]] for p, k, _ in own] for split, own in content.items()}
    file.write_text(json.dumps(raw))
    assert list_dataset("eurosat").class_names == tuple(nine_samples.EUROSAT.values())


@pytest.mark.parametrize("name", WITH_COOP)
def test_order_of_files_on_the_disk_does_not_matter(name, ours, fresh):
    nine_samples.write(name, fresh, backwards=True)
    there = list_dataset(name)
    assert there.folder.is_relative_to(fresh)
    here = nine._list(name, ours)
    assert there.pictures == here.pictures
    assert there.version == here.version


def test_version_1_is_the_same_for_ever(ours):
    """If this fails, the split changed: it needs another number, and results on both cannot be compared."""
    pictures = repr([list_dataset(name).pictures for name in NAMES])
    assert hashlib.sha256(pictures.encode()).hexdigest()[:16] == "326244543cc0fd0a"


@pytest.mark.parametrize("name", ["dtd", "sun397", "flowers102", "oxfordpets", "eurosat", "food101"])
def test_layout_of_torchvision_holds_the_same(name, ours, fresh):
    nine_samples.write(name, fresh, torchvision_layout=True)
    listing = list_dataset(name)
    assert listing.folder == fresh / nine_samples.PLACES[name][1] / nine_samples.PLACES[name][2]
    assert listing.pictures == nine._list(name, ours).pictures


def test_split_file_may_lie_where_coop_has_it_while_images_lie_where_torchvision_has_them(fresh):
    base = nine_samples.write("oxfordpets", fresh, coop=True, torchvision_layout=True)
    (fresh / "oxford_pets").mkdir()
    shutil.move(base / "split_zhou_OxfordPets.json", fresh / "oxford_pets")
    assert list_dataset("oxfordpets").split == "CoOp's split_zhou_OxfordPets.json"


def test_sun397_takes_so_many_images_of_a_class(ours, monkeypatch):
    """A hundred of each, which here are five of six."""
    monkeypatch.setitem(nine.SPECS, "sun397", dataclasses.replace(nine.SPECS["sun397"], most=5))
    listing = nine._list("sun397", ours)
    assert [len(listing.pictures[split]) for split in SPLITS] == [2 * 397, 397, 2 * 397]


@pytest.mark.parametrize("spelling", ["HandStand", "Handstand"])
def test_both_spellings_of_a_class_of_ucf101_are_found(spelling, fresh):
    base = nine_samples.write("ucf101", fresh)
    other = {"HandStand": "Handstand", "Handstand": "HandStand"}[spelling]
    for file in base.glob("UCF-101-midframes/Handstand_Pushups/*"):
        file.rename(file.with_name(file.name.replace("HandStand", spelling)))
    for file in base.glob("ucfTrainTestlist/t*"):
        file.write_text(file.read_text().replace("v_HandStand", f"v_{other}"))
    listing = list_dataset("ucf101")
    label = listing.class_names.index("handstand pushups")
    found = [picture.path for split in SPLITS for picture, own in listing.pictures[split] if own == label]
    assert len(found) == 6
    assert all(path.startswith(f"Handstand_Pushups/v_{spelling}Pushups_g") for path in found)


def test_number_of_images_that_was_not_published_is_said(fresh, monkeypatch):
    nine_samples.write("eurosat", fresh, coop=True)
    told = r"has \(30, 10, 20\) images in train, val and test, where \(13500, 5400, 8100\) were published"
    with pytest.warns(PartialDataWarning, match=told):
        list_dataset("eurosat")
    (fresh / "eurosat" / "split_zhou_EuroSAT.json").unlink()
    told = r"has \(40, 20\) images in train with val, and test, where \(18900, 8100\) were"
    with pytest.warns(PartialDataWarning, match=told):
        nine._list("eurosat", fresh)
    spec = dataclasses.replace(nine.SPECS["eurosat"], sizes=(40, 20))
    monkeypatch.setitem(nine.SPECS, "eurosat", spec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nine._list("eurosat", fresh)


def test_published_numbers_are_those_of_the_data_sets():
    """What CoOp's splits hold; ours hold as many in all."""
    assert {n: s.coop_sizes for n, s in nine.SPECS.items() if s.coop} == {
        "dtd": (2820, 1128, 1692), "eurosat": (13500, 5400, 8100), "food101": (50500, 20200, 30300),
        "sun397": (15880, 3970, 19850), "flowers102": (4093, 1633, 2463), "ucf101": (7639, 1898, 3783),
        "oxfordpets": (2944, 736, 3669),
    }  # fmt: skip
    for name, spec in nine.SPECS.items():
        assert spec.classes == nine_samples.CLASSES[name]
        assert not spec.coop or sum(spec.coop_sizes) == sum(spec.sizes), name
