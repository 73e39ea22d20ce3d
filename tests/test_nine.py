"""The paper's nine data sets: what lies on disk, in the true formats, which split it makes, and what is decoded."""

import dataclasses
import hashlib
import json
import shutil
import warnings
from collections import Counter

import nine_samples
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import loadmat
from torchvision.transforms import functional

from adavipro import datasets
from adavipro.datasets import nine
from adavipro.datasets.nine import SPECS, PartialDataWarning, find
from adavipro.recipe import SettingError

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.datasets.nine.PartialDataWarning")
WITH_COOP = [name for name, spec in SPECS.items() if spec.coop]
SPLITS = ("train", "val", "test")
OF_SIX = {"dtd": (2, 2, 2), "flowers102": (2, 2, 2), "sun397": (2, 1, 3)}  # the others: 3, 1, 2


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """All nine with official lists, and those that CoOp has with its files as well."""
    folders = {split: tmp_path_factory.mktemp(split) for split in ("ours", "coop")}
    for name in WITH_COOP:
        nine_samples.write(name, folders["ours"])
        nine_samples.write(name, folders["coop"], coop=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cifar10", "cifar100"):
            nine_samples.write_cifar(name, folders["ours"], patch)
        yield folders


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
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ADAVIPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def pairs(source):
    return {split: [[p.path, p.label] for p in source.rows[split]] for split in SPLITS}


def paths(source, split):
    return {p.path for p in source.rows[split]}


# --- Which picture is in which split ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_our_split_has_every_class_in_every_split_and_no_picture_twice(name, ours):
    source = find(name)
    assert (source.name, datasets.slug(name), source.split) == (name, name, "ours, version 1")
    assert len(source.class_names) == SPECS[name].classes
    assert len(set.union(*(paths(source, split) for split in SPLITS))) == sum(source.counts.values())
    for split, n in zip(SPLITS, OF_SIX.get(name, (3, 1, 2)), strict=True):
        assert Counter(p.label for p in source.rows[split]) == dict.fromkeys(range(SPECS[name].classes), n)


def test_version_1_is_the_same_for_ever(ours, monkeypatch):
    """If this fails, the split changed: it needs another number, and results on both cannot be compared."""

    def digest(content):
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    assert digest({name: pairs(find(name)) for name in SPECS}) == "75531a1d4f3051f0"
    # A hundred pictures of each class of SUN397, which here are five of six.
    monkeypatch.setitem(SPECS, "sun397", dataclasses.replace(SPECS["sun397"], most=5))
    assert digest(pairs(find("sun397"))) == "3b154778c86c01b0"


@pytest.mark.parametrize("name", WITH_COOP)
def test_coops_file_decides_where_it_is_and_both_say_which_they_are(name, coops, both, monkeypatch):
    source, file = find(name), f"split_zhou_{SPECS[name].coop}.json"
    assert source.split == f"CoOp's {file}"
    content = json.loads(next(coops.glob(f"**/{file}")).read_bytes())
    assert pairs(source) == {split: [row[:2] for row in content[split]] for split in SPLITS}
    monkeypatch.setenv("ADAVIPRO_DATA", str(both["ours"]))
    other = find(name)
    assert other.class_names == source.class_names  # whatever the spelling
    assert paths(other, "test") != paths(source, "test")
    assert other.version != source.version


def lines(file):
    return {line.split()[0] for line in file.read_text().splitlines() if not line.startswith("#")}


def test_official_test_and_validation_are_kept(ours):
    assert paths(find("food101"), "test") == {f"{own}.jpg" for own in lines(ours / "food-101/meta/test.txt")}
    pets = lines(ours / "oxford_pets/annotations/test.txt")
    assert paths(find("oxfordpets"), "test") == {f"{own}.jpg" for own in pets}
    ids = loadmat(ours / "oxford_flowers/setid.mat")
    for split, key in zip(SPLITS, ("trnid", "valid", "tstid"), strict=True):
        assert paths(find("dtd"), split) == lines(ours / f"dtd/labels/{split}1.txt")
        assert paths(find("flowers102"), split) == {f"image_{i:05d}.jpg" for i in ids[key].ravel()}
    videos = lines(ours / "ucf101/ucfTrainTestlist/testlist01.txt")
    frames = {path.split("/")[1] for path in paths(find("ucf101"), "test")}
    assert frames == {video.split("/")[1].replace(".avi", ".jpg") for video in videos}
    for name, n in (("cifar10", 40), ("cifar100", 400)):  # of CIFAR, those that come after train
        assert paths(find(name), "test") == set(range(n, n + n // 2))


def test_classes_are_named_as_users_of_clip_name_them(ours):
    names = {name: find(name).class_names for name in SPECS}
    assert names["cifar10"] == tuple(nine_samples.TRUE_NAMES["cifar10"])
    assert {"banded", "polka dotted"} < set(names["dtd"])
    assert {"apple pie", "french onion soup"} < set(names["food101"])
    assert {"abbey", "outdoor apartment building", "indoor procenium theater"} < set(names["sun397"])
    flowers = tuple(own.replace("-", " ") for own in nine_samples.TRUE_NAMES["flowers102"])
    assert names["flowers102"] == flowers
    assert {"apply eye makeup", "handstand pushups", "yo yo"} < set(names["ucf101"])
    assert {"abyssinian", "american bulldog", "egyptian mau"} < set(names["oxfordpets"])
    assert names["eurosat"] == tuple(nine_samples.EUROSAT.values())
    assert names["eurosat"][:2] == ("annual crop land", "forest")


# --- Where and how it lies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_COOP)
def test_layout_of_torchvision_and_order_on_the_disk_do_not_matter(name, ours, tmp_path, monkeypatch):
    here = find(name)
    nine_samples.write(name, tmp_path, place=-1, backwards=True)
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path))
    there = find(name)
    assert there.images == tmp_path / SPECS[name].places[-1] / SPECS[name].images
    assert (pairs(there), there.version) == (pairs(here), here.version)


def test_split_file_may_lie_where_coop_has_it_while_images_lie_where_torchvision_has_them(fresh):
    base = nine_samples.write("oxfordpets", fresh, coop=True, place=-1)
    (fresh / "oxford_pets").mkdir()
    shutil.move(base / "split_zhou_OxfordPets.json", fresh / "oxford_pets")
    assert find("oxfordpets").split == "CoOp's split_zhou_OxfordPets.json"


def test_split_file_of_windows_and_endings_in_any_case_are_read(fresh):
    base = nine_samples.write("dtd", fresh, coop=True)
    before = find("dtd")
    file = base / "split_zhou_DescribableTextures.json"
    file.write_text(file.read_text().replace("/", "\\\\"))
    assert find("dtd").version == before.version
    for picture in base.glob("images/banded/*"):
        picture.rename(picture.with_suffix(".JPG"))
    assert find("dtd").counts == before.counts
    file.write_text(file.read_text().replace("banded_0001", "banded\\u0000_0001"))
    with pytest.raises(SettingError, match=r"1 of .* files are missing in .*: banded/banded\x00_0001\.jpg"):
        find("dtd")
    base, before = nine_samples.write("eurosat", fresh), find("eurosat")
    for picture in base.glob("2750/Forest/*"):
        picture.rename(picture.with_suffix(".JPG"))
    assert {s: [p.lower() for p, _ in own] for s, own in pairs(find("eurosat")).items()} == {
        s: [p.lower() for p, _ in own] for s, own in pairs(before).items()
    }


@pytest.mark.parametrize("name", ["dtd", "food101", "oxfordpets", "ucf101"])
def test_lists_of_windows_are_read(name, fresh):
    base = nine_samples.write(name, fresh)
    before = find(name).version
    for part in SPECS[name].lists.values():
        text = (base / part).read_text().replace("/", "\\").replace("\n", "\r\n")
        (base / part).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert find(name).version == before


def test_eurosats_raw_names_in_a_split_file_become_the_long_ones(fresh):
    file = nine_samples.write("eurosat", fresh, coop=True) / "split_zhou_EuroSAT.json"
    content = json.loads(file.read_bytes())
    raw = {split: [[p, k, p.split("/")[0]] for p, k, _ in own] for split, own in content.items()}
    file.write_text(json.dumps(raw))
    assert find("eurosat").class_names == tuple(nine_samples.EUROSAT.values())


@pytest.mark.parametrize("spelling", ["HandStand", "Handstand"])
def test_both_spellings_of_a_class_of_ucf101_are_found(spelling, fresh):
    base = nine_samples.write("ucf101", fresh)
    other = {"HandStand": "Handstand", "Handstand": "HandStand"}[spelling]
    for file in base.glob("UCF-101-midframes/Handstand_Pushups/*"):
        file.rename(file.with_name(file.name.replace("HandStand", spelling)))
    for file in base.glob("ucfTrainTestlist/t*"):
        file.write_text(file.read_text().replace("v_HandStand", f"v_{other}"))
    source = find("ucf101")
    label = source.class_names.index("handstand pushups")
    found = [p.path for split in SPLITS for p in source.rows[split] if p.label == label]
    assert len(found) == 6
    assert all(path.startswith(f"Handstand_Pushups/v_{spelling}Pushups_g") for path in found)


def test_two_unsound_files_of_sun397_are_left_out(fresh):
    """Their class folders are none of the sample's: a class would be too many if one were read."""
    base, before = nine_samples.write("sun397", fresh, per_class=4), find("sun397")
    for path in nine.SUN397_UNSOUND:
        (base / "SUN397" / path).parent.mkdir(parents=True)
        (base / "SUN397" / path).write_bytes(nine_samples.jpeg(1))
    assert pairs(find("sun397")) == pairs(before)


def test_number_of_images_that_was_not_published_is_said(fresh, monkeypatch):
    nine_samples.write("eurosat", fresh)
    with pytest.warns(PartialDataWarning, match="has 60 images, where 27,000 were published: is it whole"):
        find("eurosat")
    monkeypatch.setitem(SPECS, "eurosat", dataclasses.replace(SPECS["eurosat"], total=60))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find("eurosat")


def test_version_changes_with_what_is_on_disk(fresh):
    file = nine_samples.write("eurosat", fresh) / "2750/Forest/Forest_1.jpg"
    versions = [find("eurosat").version]
    file.write_bytes(file.read_bytes() + b"\0")
    versions.append(find("eurosat").version)
    file.rename(file.with_name("Forest_7.jpg"))
    versions.append(find("eurosat").version)
    shutil.copy(file.with_name("Forest_2.jpg"), file.with_name("Forest_8.jpg"))
    versions.append(find("eurosat").version)
    assert len(set(versions)) == 4
    assert all(len(version) == 64 for version in versions)


# --- What is decoded --------------------------------------------------------------------------------------------


def explicit(file, px):
    """The transform that users of CLIP write, on the RGB image."""
    image = functional.resize(Image.open(file).convert("RGB"), px, functional.InterpolationMode.BICUBIC)
    return functional.pil_to_tensor(functional.center_crop(image, px))


@pytest.fixture
def pets(fresh):
    nine_samples.write("oxfordpets", fresh)
    return find("oxfordpets")


@pytest.mark.parametrize("px", [24, 48])
def test_split_holds_its_pictures_in_order_with_their_labels(pets, px):
    for split in SPLITS:
        found = pets.load(split, px)
        assert (found.images.shape, found.images.dtype) == ((pets.counts[split], 3, px, px), torch.uint8)
        assert found.objects is None
        assert found.labels.tolist() == [p.label for p in pets.rows[split]]
        for image, p in zip(found.images, pets.rows[split], strict=True):
            assert torch.equal(image, explicit(pets.images / p.path, px))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_pictures_of_cifar_are_torchvisions(name, ours):
    source = find(name)
    train = getattr(torchvision.datasets, SPECS[name].kind)(ours)
    found, chosen = source.load("val", 32), [p.path for p in source.rows["val"]]
    assert torch.equal(found.images, torch.from_numpy(train.data[chosen]).permute(0, 3, 1, 2))
    assert found.labels.tolist() == [train.targets[i] for i in chosen]


def test_split_is_decoded_once_and_written_to_by_nobody(pets, fresh, monkeypatch):
    first = pets.load("val", 24)
    (file,) = (fresh.parent / "cache/decoded/oxfordpets").glob("val-24px-*.bytes")
    before = file.read_bytes()
    assert before == first.images.numpy().tobytes()
    monkeypatch.setattr(nine, "decode_all", None)
    first.images.zero_()
    first.labels.zero_()
    for source in (pets, find("oxfordpets")):
        again = source.load("val", 24)
        assert again.images.numpy().tobytes() == before == file.read_bytes()
        assert again.labels.max() == 36


def test_picture_that_changed_but_for_its_size_is_decoded_again(pets, fresh):
    first = pets.load("val", 24).images.clone()
    file = pets.images / pets.rows["val"][0].path
    size = file.stat().st_size
    Image.new("RGB", (40, 30), "red").save(file, quality=10)
    file.write_bytes(file.read_bytes().ljust(size, b"\0"))
    again = find("oxfordpets")
    assert (file.stat().st_size, again.version) == (size, pets.version)
    images_now = again.load("val", 24).images
    assert not torch.equal(images_now[0], first[0])
    assert torch.equal(images_now[1:], first[1:])
    assert len(list((fresh.parent / "cache/decoded/oxfordpets").glob("*.bytes"))) == 1  # the old one is gone


def test_coops_split_and_ours_take_turns_without_decoding_again(pets, fresh, monkeypatch):
    nine_samples.write("oxfordpets", fresh.parent / "other", coop=True)
    expected = pets.load("train", 24).images.clone()
    shutil.copy(fresh.parent / "other/oxford_pets/split_zhou_OxfordPets.json", fresh / "oxford_pets")
    coops = find("oxfordpets")
    other = coops.load("train", 24).images.clone()
    assert not torch.equal(other, expected)
    monkeypatch.setattr(nine, "decode_all", None)
    assert torch.equal(pets.load("train", 24).images, expected)
    assert torch.equal(coops.load("train", 24).images, other)


def test_data_set_is_found_and_loaded_by_name(pets):
    assert datasets.find("oxfordpets").version == pets.version
    assert len(datasets.load_split("oxfordpets", "val", 24)) == 37


def test_list_of_data_sets_says_what_is_there_and_whose_split(fresh):
    nine_samples.write("dtd", fresh, coop=True)
    nine_samples.write("food101", fresh)
    (fresh / "food-101/meta/test.txt").unlink()
    lines = {line["data set"]: line for line in nine.listing()}
    assert list(lines) == list(SPECS)
    assert (lines["dtd"]["state"], lines["dtd"]["split"]) == (
        "there",
        "CoOp's split_zhou_DescribableTextures.json",
    )
    assert (lines["food101"]["state"], lines["food101"]["split"]) == ("partly", "ours, version 1")
    assert lines["cifar10"]["state"] == "not there"
    assert all(line["licence"] and line["source"] for line in lines.values())
