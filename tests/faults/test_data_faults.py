"""Faults D1, D2, D4, R5, S1, S2 and S3: data that is damaged, half there, ambiguous, or not what it seems."""

import contextlib
import errno
import functools
import gc
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import tarfile
import threading
import unicodedata
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import nine_samples
import pytest
import torch
from helpers import draw_image, draw_splits, tiny
from PIL import Image
from torchvision.datasets import CIFAR10, DTD

from adavipro import datasets, experiment, training
from adavipro.datasets import nine
from adavipro.datasets.nine import SPECS, fetch, find
from adavipro.recipe import SettingError

pytestmark = [
    pytest.mark.filterwarnings("ignore::adavipro.datasets.nine.PartialDataWarning"),
    pytest.mark.filterwarnings(
        "ignore:Python 3.14 will, by default, filter:DeprecationWarning"
    ),  # torchvision's tar
]

# --- Folders of your own images ---------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Two classes of four images that are not split yet."""
    for i, name in enumerate(("Annual_Crop", "forest")):
        for k in range(4):
            draw_image(tmp_path / "pictures" / name / f"{k}.png", 10 * i + k)
    return tmp_path / "pictures"


@pytest.fixture
def arranged(tmp_path):
    return draw_splits(tmp_path / "arranged", ("moon", "star"))


@pytest.mark.fault("a damaged image")
def test_d1_all_bad_files_are_named_at_once_before_training(arranged, tmp_path, monkeypatch):
    chosen = [arranged / f"{split}/star/3.png" for split in ("train", "val", "test")]
    for file, content in zip(chosen, (b"", b"<html>", chosen[2].read_bytes()[:-500]), strict=True):
        file.write_bytes(content)
    (arranged / "val/moon/9.png").symlink_to("nowhere.png")
    monkeypatch.setattr(training, "train", None)
    with pytest.raises(SettingError) as caught:
        experiment.run(tiny("vp", dataset=f"folder:{arranged}"), tmp_path / "runs")
    assert str(caught.value).startswith(f"4 of 31 files in {arranged} cannot be used: ")
    reasons = ("the file is empty", "the file is HTML", "image file is truncated")
    for file, reason in zip(chosen, reasons, strict=True):
        assert f"{file.relative_to(arranged)}: {reason}" in str(caught.value)
    assert "val/moon/9.png: it cannot be read (No such file" in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.fault("the same picture in two splits")
@pytest.mark.parametrize("place", ["train", "val"])
def test_d4_test_image_in_another_split_is_refused_with_both_names(arranged, place):
    image = Image.open(arranged / "test" / "star" / "3.png")
    image.save(arranged / place / "moon" / "copy.bmp")  # the same picture in other bytes
    told = rf"{place}/moon/copy\.bmp \({place}\) and test/star/3\.png \(test\)"
    with pytest.raises(SettingError, match=told):
        datasets.load_split(f"folder:{arranged}", "train")


def both_lists(*lists):
    return ".*".join(str(names).replace("[", r"\[") for names in lists)


def json_of(text):
    return lambda path: (path / "classes.json").write_text(text)


ARRANGED = [
    (lambda p: shutil.rmtree(p / "test" / "moon"), both_lists(["moon", "star"], ["star"])),
    (lambda p: draw_image(p / "val/sun/1.png", 1), both_lists(["moon", "star"], ["moon", "star", "sun"])),
    (lambda p: (p / "test/star").rename(p / "test/Star"), both_lists(["moon", "star"], ["Star", "moon"])),
    (lambda p: [f.unlink() for f in (p / "test" / "moon").iterdir()], "test/moon has 0, needs 1"),
    (lambda p: shutil.rmtree(p / "test"), r"\['train', 'val'\], expected train, test"),
    (lambda p: (p / "val").rename(p / "valid"), r"\['test', 'train', 'valid'\], expected train, test"),
    (lambda p: draw_image(p / "train/moon/more/1.png", 1), r"no file, in class folders \(moon/more\)"),
    (lambda p: os.mkfifo(p / "train/moon/1.png.pipe"), r"no file, in class folders \(moon/1.png.pipe\)"),
    (lambda p: (p / "train/moon/zero").symlink_to("/dev/zero"), r"no file, in class folders \(moon/zero\)"),
    (json_of('{"moon": "a", "sun": "b"}'), both_lists(["moon", "sun"], ["moon", "star"])),
    (json_of('{"moon": "Fox_", "star": "fox"}'), r"\['fox'\] occur more than once"),
    (json_of('{"moon": 1, "star": "fox"}'), "must map each class folder"),
    (json_of("moon"), "is no JSON"),
]
PLAIN = [
    (lambda p: [(p / "Annual_Crop" / f"{i}.png").unlink() for i in (0, 3)], "Annual_Crop has 2, needs 3"),
    (lambda p: draw_image(p / "annual-crop/1.png", 1), "annual-crop has 1, needs 3"),
    (lambda p: draw_splits(p, ("x", "annual-crop")), "expected train, test"),
    (lambda p: shutil.copytree(p / "forest", p / "annual-crop"), r"\['annual crop'\] occur more"),
    (lambda p: [shutil.rmtree(f) for f in p.iterdir()], r"no class folders, expected PATH/class/image\.jpg"),
]


@pytest.mark.fault("class folders that do not fit")
@pytest.mark.parametrize("change", ARRANGED, ids=lambda case: case[1][:24])
def test_d2_classes_that_do_not_fit_are_one_sentence(arranged, change):
    change[0](arranged)
    with pytest.raises(ValueError, match=change[1]) as caught:
        datasets.find(f"folder:{arranged}")
    assert "\n" not in str(caught.value)


@pytest.mark.fault("class folders that do not fit")
@pytest.mark.parametrize("change", PLAIN, ids=lambda case: case[1][:24])
def test_d2_classes_of_a_plain_folder(pictures, change):
    change[0](pictures)
    with pytest.raises(ValueError, match=change[1]):
        datasets.find(f"folder:{pictures}")


def test_folder_that_is_none_is_one_sentence(tmp_path, monkeypatch):
    for name in ("folder:", f"folder:{tmp_path}/none"):
        with pytest.raises(SettingError, match="needs the path of a folder that is there"):
            datasets.find(name)
    with pytest.raises(
        OSError, match="'~nobodyhere/x' needs a home folder, and there is none: give the whole path"
    ):
        datasets.find("folder:~nobodyhere/x")
    draw_splits(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.find("folder:~/mine").counts["train"] == 10


@pytest.mark.fault("class folders that do not fit")
def test_names_are_compared_as_they_are_shown(arranged, tmp_path):
    """Macs write an accent as a letter of its own."""
    here, there = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for split, name in (("train", there), ("val", here), ("test", here)):
        (arranged / split / "moon").rename(arranged / split / name)
    assert datasets.find(f"folder:{arranged}").class_names == (here, "star")
    (arranged / "classes.json").write_text(json.dumps({there: f"a {there}", "star": "star"}))
    assert datasets.find(f"folder:{arranged}").class_names == (f"a {here}", "star")
    shutil.copytree(arranged / "train" / there, arranged / "train" / here)
    with pytest.raises(SettingError, match="train has two folders that look the same, 'café': rename one"):
        datasets.find(f"folder:{arranged}")


@pytest.mark.fault("class folders that do not fit")
@pytest.mark.parametrize("place", [b"caf\xe9/train/star", b"mine/train/caf\xe9"])
def test_folder_whose_name_is_not_utf8_is_named_before_any_work(place, tmp_path):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), place.split(b"/")[0]))
    draw_splits(tmp_path / "other", ("star", "moon")).rename(path)
    if place.startswith(b"mine"):
        os.rename(os.path.join(path, "train", "star"), os.path.join(path, "train", os.fsdecode(b"caf\xe9")))
    with pytest.raises(SettingError, match=r"the folder b'.*caf\\xe9.*' is not named in UTF-8: rename it"):
        datasets.find(f"folder:{path}")


# --- The paper's nine: half there -------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ADAVIPRO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def refused(name, told):
    """What is said in place of a listing; what cannot be had again is never to be deleted."""
    with pytest.raises(SettingError, match=told) as caught:
        find(name)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"dataset is {name!r}, but ")
    assert not re.search("remove|delete", sentence)
    assert len(sentence) < 600
    return sentence.rpartition("; ")[2]


def test_missing_data_set_is_one_sentence_with_the_way_out(data):
    for name, spec in SPECS.items():
        way_out = refused(name, "there is no such folder")
        told = f"get it with `adavipro fetch {name}`" if spec.kind else f"bring it ({spec.source})"
        assert way_out == f"{told}, or set $ADAVIPRO_DATA to the folder that holds it"


PARTS = [
    ("dtd", "dtd/labels/val1.txt"), ("food101", "food-101/meta/train.txt"), ("flowers102", "oxford_flowers/setid.mat"),
    ("ucf101", "ucf101/ucfTrainTestlist/testlist01.txt"), ("oxfordpets", "oxford_pets/annotations/test.txt"),
]  # fmt: skip


@pytest.mark.fault("a public data set that is half there, or has wrong lists")
@pytest.mark.parametrize(("name", "part"), PARTS)
def test_missing_list_is_named(name, part, data):
    nine_samples.write(name, data)
    (data / part).unlink()
    assert re.match(
        "get it with `adavipro fetch|bring it ", refused(name, f"{part}: No such file or directory")
    )


@pytest.mark.fault("a public data set that is half there, or has wrong lists")
@pytest.mark.parametrize(("name", "coop"), [("food101", False), ("dtd", True), ("ucf101", True)])
def test_missing_pictures_are_counted_and_the_first_named(name, coop, data):
    base = nine_samples.write(name, data, coop=coop)
    images = base / SPECS[name].images
    gone = sorted(images.glob("**/*.jpg"))[:5]
    for file in gone:
        file.unlink()
    first = ", ".join(str(file.relative_to(images)) for file in gone[:3])
    way_out = refused(name, rf"5 of \d+ files are missing in {images}: {re.escape(first)} and 2 more")
    own_split = f", or move {base}/split_zhou_{SPECS[name].coop}.json away to have our split"
    assert way_out.endswith(own_split if coop else f"away, then get it with `adavipro fetch {name}`")
    assert ("away, then" in way_out) is bool(SPECS[name].kind)


@pytest.mark.fault("a public data set that is half there, or has wrong lists")
def test_d2_class_folders_that_are_missing_or_too_many_are_named_with_the_layout(data):
    base = nine_samples.write("eurosat", data)
    shutil.copytree(base / "2750/Forest", base / "2750/Forest - Copy")
    refused(
        "eurosat",
        "2750 holds 11 classes, not 10, with Forest - Copy, where pictures lie as .*/2750/Forest/Forest_1.jpg",
    )
    shutil.rmtree(base / "2750/Forest")
    shutil.rmtree(base / "2750/River")
    told = "2750 holds 9 classes, not 10, without Forest, River, with Forest - Copy, where"
    way_out = refused("eurosat", told)
    assert way_out == f"move {base}/2750 away, then get it with `adavipro fetch eurosat`"
    base = nine_samples.write("sun397", data, per_class=4)
    shutil.rmtree(base / "SUN397/a/abbey")
    layout = r"where pictures lie as .*/SUN397/a/abbey/sun_\w+.jpg"
    way_out = refused("sun397", f"SUN397 holds 396 classes, not 397, without a/abbey, {layout}")
    assert way_out == f"bring it ({SPECS['sun397'].source})"
    for folder in [*base.glob("SUN397/?/*/")]:  # as the copies go round: flat class folders
        if folder.is_dir():
            folder.rename(base / "SUN397" / f"{folder.parent.name}_{folder.name}")
    refused("sun397", f"SUN397 holds 0 classes, not 397, without a/aaka, .* and 394 more, {layout}")


def test_class_with_too_few_pictures_is_an_error(data):
    base = nine_samples.write("eurosat", data)
    for i in range(3):
        (base / f"2750/River/River_{i + 1}.jpg").unlink()
    refused("eurosat", "class eurosat-river has 3 images in train, fewer than 4")


# --- The paper's nine: wrong lists ------------------------------------------------------------------------------


@pytest.mark.fault("a public data set that is half there, or has wrong lists")
@pytest.mark.parametrize(
    ("name", "part", "content", "told"),
    [
        ("dtd", "dtd/labels/test1.txt", b"<html>", "the lists in .*/dtd name 48 classes, not 47"),
        (
            "dtd",
            "dtd/labels/test1.txt",
            b"banded/banded_0003.jpg",
            "3.jpg is there twice, in val and in test",
        ),
        ("oxfordpets", "oxford_pets/annotations/test.txt", b"\xff\xfe 1 1 1", "name 38 classes, not 37"),
        ("ucf101", "ucf101/ucfTrainTestlist/testlist01.txt", b"\n", "test has no pictures"),
        ("food101", "food-101/meta/test.txt", b"apple_pie/../../1", "name 102 classes, not 101"),
        (
            "flowers102",
            "oxford_flowers/setid.mat",
            b"MATLAB 5.0",
            "setid.mat in .* hold no lists of MATLAB's",
        ),
        (
            "flowers102",
            "oxford_flowers/imagelabels.mat",
            b"",
            "imagelabels.mat and .* hold no lists of MATLAB's",
        ),
    ],
)
def test_d2_list_that_does_not_fit_is_one_sentence(name, part, content, told, data):
    nine_samples.write(name, data)
    (data / part).write_bytes(content)
    assert re.match("move .* away, then get it with|bring it ", refused(name, told))


def without(label):
    return lambda s: {part: [row for row in rows if row[1] != label] for part, rows in s.items()}


def with_row(part, *row):
    return lambda split: split | {part: [*split[part], list(row)]}


RIVER = "River/River_1.jpg"  # in train
SPLIT_FILES = [
    (lambda s: {k: s[k] for k in ("train", "test")}, "does not hold the lists train, val and test"),
    (lambda s: [1, 2], "does not hold the lists train, val and test"),
    (lambda s: s | {"test": []}, "test has no pictures"),
    (lambda s: s | {"val": [["a.jpg", 1]]}, r"does not hold the lists .* of \[path, label, class name\]"),
    (with_row("val", "a.jpg", "1", "River"), "does not hold the lists"),
    (with_row("val", 5, 1, "River"), "does not hold the lists"),
    (with_row("val", "Forest/Forest_1.jpg", 1, "Wood"), "label 1 is the class 'Forest' and the class 'Wood'"),
    (with_row("val", RIVER, 8, "River"), f"{RIVER} is there twice, in train and in val"),
    (with_row("train", f"./{RIVER}", 8, "River"), f"{RIVER} is there twice, in train and in train"),
    (with_row("val", "../../secret.jpg", 8, "River"), "secret.jpg in val leads out of"),
    (with_row("val", "..\\secret.jpg", 8, "River"), "secret.jpg in val leads out of"),
    (with_row("val", "/etc/secret.jpg", 8, "River"), "/etc/secret.jpg in val leads out of"),
    (with_row("val", "River/River_99.jpg", 10, "Lake"), r"labels must be 0 to 9, .*: 10 \(Lake\)"),
    (with_row("val", "River/River_99.jpg", -1, "Lake"), r"labels must be 0 to 9, .*: -1 \(Lake\)"),
    (without(4), r"labels must be 0 to 9, .*: 4 \(no picture\)"),
    (lambda s: {p: [[*r[:2], "forest_" if r[1] == 8 else r[2]] for r in o] for p, o in s.items()}, "'forest'. occur"),
]  # fmt: skip


@pytest.mark.fault("a public data set that is half there, or has wrong lists")
def test_d2_split_file_that_does_not_fit_is_one_sentence(data):
    file = nine_samples.write("eurosat", data, coop=True) / "split_zhou_EuroSAT.json"
    sound = file.read_text()
    for change, told in SPLIT_FILES:
        file.write_text(json.dumps(change(json.loads(sound))))
        way_out = refused("eurosat", told)
        assert way_out == f"put another copy in its place, or move {file} away to have our split"
    for content in (b"", b"<html>", b"\xff\xff", b'{"train": ['):
        file.write_bytes(content)
        refused("eurosat", "split_zhou_EuroSAT.json does not hold the lists")


class Payload:
    """A pickle that makes a folder where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.fault("a pickle that runs code, in the place of a file that is read")
@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_s1_pickle_that_is_not_the_published_one_is_not_read(file, data, tmp_path, monkeypatch):
    base = nine_samples.write_cifar("cifar10", data, monkeypatch)
    assert find("cifar10").counts["train"] == 30
    (base / file).write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    way_out = refused("cifar10", "cifar-10-batches-py does not hold the files that were published")
    assert way_out == f"move {base} away, then get it with `adavipro fetch cifar10`"
    assert not (tmp_path / "executed").exists()


# --- The paper's nine: decoding ---------------------------------------------------------------------------------


@pytest.fixture
def pets(data):
    nine_samples.write("oxfordpets", data)
    return find("oxfordpets")


def kept(data):
    return sorted(
        path.name for path in (data.parent / "cache/decoded/oxfordpets").iterdir() if path.name != "lock"
    )


@pytest.mark.fault("a damaged image")
def test_d1_all_bad_pictures_are_named_at_once_and_nothing_is_kept(pets, data):
    chosen = [pets.images / pets.rows["val"][i].path for i in (0, 5, 36)]
    for file, content in zip(chosen, (b"", b"<html>", chosen[2].read_bytes()[:-200]), strict=True):
        file.write_bytes(content)
    with pytest.raises(SettingError, match=r"^3 of 37 images in .* cannot be used: ") as caught:
        pets.load("val", 24)
    reasons = ("the file is empty", "the file is HTML", "image file is truncated")
    for file, reason in zip(chosen, reasons, strict=True):
        assert f"{file.name}: {reason}" in str(caught.value)
    assert kept(data) == []


def test_r5_disk_without_room_is_named_before_any_work_and_one_that_fills_up_leaves_nothing(
    pets, data, monkeypatch
):
    told = r"val-24px-.*\.bytes: No space left on device; it needs 63,936 bytes, [\d,]+ are free"
    usage, sync = shutil.disk_usage(data), os.fsync
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=63_935))
        patch.setattr(nine, "decode_all", None)
        with pytest.raises(OSError, match=told) as caught:
            pets.load("val", 24)
    assert caught.value.errno == errno.ENOSPC

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=told):
        pets.load("val", 24)
    assert kept(data) == []
    monkeypatch.setattr(os, "fsync", sync)
    assert len(pets.load("val", 24)) == 37


def test_r6_file_of_another_length_is_decoded_again(pets, data):
    right = pets.load("val", 24).images.clone()
    (name,) = kept(data)
    file = data.parent / "cache/decoded/oxfordpets" / name
    for content in (b"", file.read_bytes()[:-1], file.read_bytes() + b"\0"):
        file.write_bytes(content)
        assert torch.equal(pets.load("val", 24).images, right)


def die_before_it_is_in_place(source):
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    source.load("val", 24)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_r2_builder_that_was_killed_leaves_nothing_that_counts_and_two_do_the_work_once(pets, data):
    fork = multiprocessing.get_context("fork")
    builder = fork.Process(target=die_before_it_is_in_place, args=(pets,))
    builder.start()
    builder.join(60)
    assert builder.exitcode == -signal.SIGKILL
    assert [name.endswith(".partial") for name in kept(data)] == [True]
    both = [fork.Process(target=pets.load, args=("val", 24)) for _ in range(2)]
    for builder in both:
        builder.start()
    for builder in both:
        builder.join(60)
    assert [builder.exitcode for builder in both] == [0, 0]
    assert [name.endswith(".bytes") for name in kept(data)] == [True]
    assert pets.load("val", 24).images.shape == (37, 3, 24, 24)


# --- Downloads --------------------------------------------------------------------------------------------------


class Shop(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def copyfile(self, *files):
        with contextlib.suppress(
            ConnectionError
        ):  # torchvision asks for the address first, and reads nothing
            super().copyfile(*files)


@pytest.fixture
def shop(tmp_path):
    """A web server of a folder; yields the folder and its address."""
    (tmp_path / "shop").mkdir()
    handler = functools.partial(Shop, directory=str(tmp_path / "shop"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield tmp_path / "shop", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def packed(folder, name, extra=""):
    """Content of a .tar.gz of a folder, with a member that leads out if wanted."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=1) as archive:
        archive.add(folder, name)
        if extra:
            archive.addfile(tarfile.TarInfo(extra), io.BytesIO())
    return content.getvalue()


@pytest.fixture
def cifar(shop, tmp_path, monkeypatch):
    """Offer a small CIFAR-10 in place of the published one; yields the file that is offered, and its content."""
    base = nine_samples.write_cifar("cifar10", tmp_path / "whole", monkeypatch)
    content, file = packed(base, base.name), shop[0] / "cifar.tar.gz"
    file.write_bytes(content)
    monkeypatch.setattr(CIFAR10, "url", f"{shop[1]}/cifar.tar.gz")
    monkeypatch.setattr(CIFAR10, "filename", "cifar.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
    return file, content


def test_data_set_is_fetched_once(cifar, data):
    assert fetch("cifar10") == fetch("cifar10", data) == data
    assert find("cifar10").counts == {"train": 30, "val": 10, "test": 20}
    assert sorted(path.name for path in data.iterdir()) == [".cifar10.lock", "cifar-10-batches-py"]
    cifar[0].unlink()
    assert fetch("cifar10") == data


@pytest.mark.fault("a download that is broken off, or not the published file")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # torchvision leaves the answer 404 open
@pytest.mark.parametrize(
    "fault", ["not there", "another file", "broken off", "web page", "leads out", "damaged"]
)
def test_s2_s3_what_is_not_the_published_file_is_one_sentence_and_leaves_nothing(
    fault, cifar, data, tmp_path, monkeypatch
):
    file, content = cifar
    wrong = {
        "another file": content[:-9] + bytes(9),
        "broken off": content[: len(content) // 2],
        "web page": b"<!DOCTYPE html><html>sign in</html>",
        "leads out": packed(tmp_path / "whole", "x", "../../escaped"),
        "damaged": content[: len(content) // 2],
    }
    with monkeypatch.context() as patch:
        if fault == "not there":
            file.unlink()
        else:
            file.write_bytes(wrong[fault])
        if fault == "damaged":  # its checksum is right, and half of it is unpacked
            patch.setattr(CIFAR10, "tgz_md5", hashlib.md5(wrong[fault]).hexdigest())
        with pytest.raises(
            SettingError,
            match=r"data set 'cifar10' cannot be fetched: .*; try again, give another folder .*, or bring",
        ) as caught:
            fetch("cifar10")
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()
    assert [path.name for path in data.iterdir()] == [".cifar10.lock"]
    assert not list(tmp_path.glob("**/escaped"))
    file.write_bytes(content)
    fetch("cifar10")
    assert find("cifar10").counts["train"] == 30


def test_what_is_there_stays_and_what_is_missing_comes(shop, data, tmp_path, monkeypatch):
    """Pictures in CoOp's layout, a split file, lists that are gone or damaged: what the sentence says mends it."""
    whole = nine_samples.write("dtd", tmp_path / "whole")
    content = packed(whole, "dtd")
    (shop[0] / "dtd.tar.gz").write_bytes(content)
    monkeypatch.setattr(DTD, "_URL", f"{shop[1]}/dtd.tar.gz")
    monkeypatch.setattr(DTD, "_MD5", hashlib.md5(content).hexdigest())
    base = nine_samples.write("dtd", data)
    before = find("dtd").version
    (base / "split_zhou_Mine.json").write_text("{}")
    (base / "images/banded/mine.jpg").write_bytes(nine_samples.jpeg(1))
    (base / "labels/val1.txt").unlink()
    refused("dtd", "val1.txt: No such file")
    assert fetch("dtd") == base
    assert find("dtd").version == before
    (base / "labels/val1.txt").write_bytes(b"<html>")
    way_out = refused("dtd", "name 48 classes")
    for path in re.match("move (.*) and (.*) away, then", way_out).groups():
        shutil.move(path, tmp_path / "aside" / path[1:])
    fetch("dtd")
    assert find("dtd").version == before
    assert (base / "split_zhou_Mine.json").read_text() == "{}"
    assert not (base / "dtd.tar.gz").exists()


@pytest.mark.parametrize("name", ["sun397", "ucf101"])
def test_what_has_no_address_says_what_to_bring_and_where(name, data):
    spec = SPECS[name]
    place = data / spec.places[-1] / spec.images
    with pytest.raises(
        SettingError, match=rf"data set '{name}' cannot be fetched: bring {place}.*{re.escape(spec.source)}"
    ):
        fetch(name)
    nine_samples.write(name, data, per_class=4)
    assert fetch(name) == data / spec.places[0]
    with pytest.raises(
        SettingError, match="data set is 'mnist', but those that can be fetched are: cifar10, "
    ):
        fetch("mnist")
