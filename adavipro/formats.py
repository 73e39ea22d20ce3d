"""The formats of the paper's nine data sets: where each lies, and its lists as rows of (picture, label, class name).

A reader takes the folder of a data set and the folder of its pictures. What does not fit is a ValueError.
"""

import functools
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from adavipro.folders import SPLITS
from adavipro.midframes import class_folder
from adavipro.settings import SettingError


class Picture(NamedTuple):
    """An image file, or 3,072 bytes (3, 32, 32) in a file of records.

    path: relative to the folder of the pictures. offset: where the bytes begin; None of an image file.
    """

    path: str
    offset: int | None = None


EUROSAT = {
    "AnnualCrop": "annual crop land", "Forest": "forest", "HerbaceousVegetation": "herbaceous vegetation land",
    "Highway": "highway or road", "Industrial": "industrial buildings", "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land", "Residential": "residential buildings", "River": "river",
    "SeaLake": "sea or lake",
}  # fmt: skip
# Left out of our split: one decoder cannot read them, another reads other pixels each time (`_SUN397_IGNORE_IMAGES` in
# tensorflow/datasets, image_classification/sun.py).
SUN397_UNSOUND = {"c/church/outdoor/sun_bhenjvsvrtumjuri.jpg", "t/track/outdoor/sun_aophkoiosslinihb.jpg"}
Rows = dict[str, list[tuple[Picture, int, str]]]  # by split, as far as the lists tell it: else all is train


def coop(file: Path) -> Rows:
    """Read a split file of CoOp's."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error})") from None
    rows: Rows = {}
    for split in SPLITS:
        if not isinstance(content, dict) or not isinstance(content.get(split), list):
            raise ValueError(f"{file} has no list {split!r}")
        rows[split] = []
        for row in content[split]:
            match row:
                case [str(path), int(label), str(name)]:
                    rows[split].append((Picture(PurePosixPath(path).as_posix()), label, name))
                case _:
                    raise ValueError(f"{file} has {row!r} in {split!r}, expected [path, label, class name]")
    return rows


def cifar(train: list[str], test: str, names: str, label_bytes: int, folder: Path, images: Path) -> Rows:
    """Records of label bytes, the last of them the class, and 3,072 bytes of pixels."""
    classes, size = [line[0] for line in _lines(images / names, ".+")], label_bytes + 3072
    rows: Rows = {"train": [], "test": []}
    for file in [*train, test]:
        content = np.fromfile(images / file, np.uint8)
        if len(content) == 0 or len(content) % size:
            raise ValueError(f"{images / file} has {len(content):,} bytes, no whole number of {size:,}")
        labels = content.reshape(-1, size)[:, label_bytes - 1].tolist()
        if max(labels) >= len(classes):
            raise ValueError(f"{images / file} has the label {max(labels)} of {len(classes)} classes")
        rows["test" if file == test else "train"] += [
            (Picture(file, i * size + label_bytes), label, classes[label]) for i, label in enumerate(labels)
        ]
    return rows


def _by_class(found: dict[str, list[tuple[str, str]]], name: Callable[[str], str] = str) -> Rows:
    """Rows of paths and class folders; labels are in plain order of the folders."""
    order = {c: i for i, c in enumerate(sorted({c for own in found.values() for _, c in own}))}
    return {split: [(Picture(path), order[c], name(c)) for path, c in own] for split, own in found.items()}


def dtd(folder: Path, images: Path) -> Rows:
    """labels/train1.txt and so on, the first of ten partitions."""
    lists = {split: _lines(folder / "labels" / f"{split}1.txt", r"(.+)/.+\.jpg") for split in SPLITS}
    return _by_class({split: [(m[0], m[1]) for m in own] for split, own in lists.items()})


def eurosat(folder: Path, images: Path) -> Rows:
    """Class folders; there are no lists."""
    return _by_class({"train": _below(images)})


def food101(folder: Path, images: Path) -> Rows:
    """meta/train.txt and test.txt."""
    lists = {split: _lines(folder / "meta" / f"{split}.txt", r"(.+)/\d+") for split in ("train", "test")}
    return _by_class({split: [(f"{m[0]}.jpg", m[1]) for m in own] for split, own in lists.items()})


def sun397(folder: Path, images: Path) -> Rows:
    """Class folders; the class of a/apartment_building/outdoor is "outdoor apartment building"."""
    sound = [pair for pair in _below(images) if pair[0] not in SUN397_UNSOUND]
    return _by_class({"train": sound}, lambda name: " ".join(reversed(name.split("/")[1:])))


def flowers102(folder: Path, images: Path) -> Rows:
    """imagelabels.mat and setid.mat. Their labels have no names: those are torchvision's."""
    from torchvision.datasets import Flowers102

    labels = dict(enumerate(_matlab(folder / "imagelabels.mat", "labels"), 1))
    names, rows = dict(enumerate(Flowers102.classes, 1)), {}
    for split, key in zip(SPLITS, ("trnid", "valid", "tstid"), strict=True):
        own = [(i, labels.get(i, 0)) for i in _matlab(folder / "setid.mat", key)]
        rows[split] = [(Picture(f"image_{i:05d}.jpg"), label - 1, names.get(label, "")) for i, label in own]
    return rows


def ucf101(folder: Path, images: Path) -> Rows:
    """ucfTrainTestlist, the first of three partitions, with a frame for each video."""
    lists, rows = folder / "ucfTrainTestlist", {}
    labels = {m[2]: int(m[1]) - 1 for m in _lines(lists / "classInd.txt", r"(\d+) (\w+)")}
    for split in ("train", "test"):
        found = _lines(lists / f"{split}list01.txt", r"(\w+)/(\w+)\.avi( \d+)?")
        own = [(class_folder(m[1]), m[2], labels.get(m[1], -1)) for m in found]
        rows[split] = [(Picture(f"{name}/{video}.jpg"), label, name) for name, video, label in own]
    return rows


def oxfordpets(folder: Path, images: Path) -> Rows:
    """annotations/trainval.txt and test.txt; a class is named by its files."""
    lists, form = {"train": "trainval.txt", "test": "test.txt"}, r"((.+)_\d+) (\d+) \d+ \d+"
    found = {split: _lines(folder / "annotations" / file, form) for split, file in lists.items()}
    return {
        split: [(Picture(f"{m[1]}.jpg"), int(m[3]) - 1, m[2]) for m in own] for split, own in found.items()
    }


def _lines(file: Path, form: str) -> list[re.Match[str]]:
    """Lines of a text file that all have one form; blank ones and comments are left out."""
    matches = []
    for line in map(str.strip, file.read_text("utf-8", "replace").splitlines()):
        if line and not line.startswith("#"):
            if not (match := re.fullmatch(form, line)):
                raise ValueError(f"{file} has the line {line[:80]!r}, which is not of the form {form}")
            matches.append(match)
    return matches


def _matlab(file: Path, key: str) -> list[int]:
    """A list of whole numbers in a file of MATLAB's."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise SettingError("the labels of flowers102 need SciPy: pip install 'adavipro[paper]'") from None
    content = io.BytesIO(file.read_bytes())
    try:
        return [int(value) for value in loadmat(content)[key].ravel()]
    except Exception as error:  # SciPy raises whatever it stumbles over
        raise ValueError(f"{file} holds no list {key!r} of MATLAB's ({error})") from None


def _below(images: Path) -> list[tuple[str, str]]:
    """Paths of the JPEGs in the folders below a folder, each with its own folder, in plain order."""
    return sorted((f"{c}/{file}", c) for c, file in files_below(images) if c != "." and file.endswith(".jpg"))


def files_below(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file below a folder: its own folder's path, and its name. Hidden ones are left out.

    Links are followed, but none to a folder that was there already, or that holds this one: no link leads in a circle.
    """
    seen = {folder.resolve(), *folder.resolve().parents}
    for place, inner, files in os.walk(folder, followlinks=True):
        own, found = Path(place).relative_to(folder).as_posix(), sorted(inner)
        inner.clear()
        for name in found:
            real = Path(place, name).resolve()
            if not name.startswith(".") and real not in seen:
                inner.append(name)
                seen.add(real)
        yield from ((own, file) for file in files if not file.startswith("."))


# --- Data sets --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """Where a data set lies, how much it holds, and how our split is made.

    places: its folder in CoOp's layout, and in torchvision's. images: folder of its pictures in there. read: reader of
    its official lists. lists: the files that it reads. sizes: train with val, and test, in ours. shares: how what the
    lists call train is dealt out. coop: the name in CoOp's file. coop_sizes: train, val and test there. most: images of
    a class that ours takes. names: of classes, where they are not those of the lists.
    """

    classes: int
    places: tuple[str, ...]
    images: str
    read: Callable[[Path, Path], Rows]
    lists: tuple[str, ...]
    sizes: tuple[int, ...]
    shares: dict[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.2})
    coop: str = ""
    coop_sizes: tuple[int, ...] = ()
    most: int | None = None
    names: dict[str, str] = field(default_factory=dict)


_TENTH, _NONE = {"train": 0.9, "val": 0.1}, {"train": 1.0}
_BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)]
_OF_10 = tuple(f"cifar-10-batches-bin/{file}" for file in (*_BATCHES, "test_batch.bin", "batches.meta.txt"))
_OF_100 = tuple(f"cifar-100-binary/{file}" for file in ("train.bin", "test.bin", "fine_label_names.txt"))
_OF_UCF = tuple(f"ucfTrainTestlist/{file}.txt" for file in ("classInd", "trainlist01", "testlist01"))
_OF_FLOWERS = "imagelabels.mat", "setid.mat"
_OF_PETS = "annotations/trainval.txt", "annotations/test.txt"
_CIFAR10 = functools.partial(cifar, _BATCHES, "test_batch.bin", "batches.meta.txt", 1)
_CIFAR100 = functools.partial(cifar, ["train.bin"], "test.bin", "fine_label_names.txt", 2)
SPECS = {
    "cifar10": Spec(10, ("cifar10", ""), "cifar-10-batches-bin", _CIFAR10, _OF_10, (50000, 10000), _TENTH),
    "cifar100": Spec(100, ("cifar100", ""), "cifar-100-binary", _CIFAR100, _OF_100, (50000, 10000), _TENTH),
    "dtd": Spec(
        47, ("dtd", "dtd/dtd"), "images", dtd, tuple(f"labels/{s}1.txt" for s in SPLITS), (3760, 1880), _NONE,
        coop="DescribableTextures", coop_sizes=(2820, 1128, 1692)),
    "eurosat": Spec(
        10, ("eurosat",), "2750", eurosat, (), (18900, 8100), {"train": 0.5, "val": 0.2, "test": 0.3},
        coop="EuroSAT", coop_sizes=(13500, 5400, 8100), names=EUROSAT),
    "food101": Spec(
        101, ("food-101",), "images", food101, ("meta/train.txt", "meta/test.txt"), (75750, 25250),
        coop="Food101", coop_sizes=(50500, 20200, 30300)),
    "sun397": Spec(
        397, ("sun397", ""), "SUN397", sun397, (), (19850, 19850), {"train": 0.4, "val": 0.1, "test": 0.5},
        coop="SUN397", coop_sizes=(15880, 3970, 19850), most=100),
    "flowers102": Spec(
        102, ("oxford_flowers", "flowers-102"), "jpg", flowers102, _OF_FLOWERS, (2040, 6149), _NONE,
        coop="OxfordFlowers", coop_sizes=(4093, 1633, 2463)),
    "ucf101": Spec(
        101, ("ucf101",), "UCF-101-midframes", ucf101, _OF_UCF, (9537, 3783),
        coop="UCF101", coop_sizes=(7639, 1898, 3783)),
    "oxfordpets": Spec(
        37, ("oxford_pets", "oxford-iiit-pet"), "images", oxfordpets, _OF_PETS, (3680, 3669),
        coop="OxfordPets", coop_sizes=(2944, 736, 3669)),
}  # fmt: skip
