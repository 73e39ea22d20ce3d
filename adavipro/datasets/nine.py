"""The paper's nine data sets: fetched by torchvision, found in its folders or in CoOp's, split, and decoded once.

CoOp's file `split_zhou_<Name>.json` decides where you have put it. Otherwise the split is ours, version 1: the official
test and validation; what no list tells is dealt out within each class from sorted names, so that no order of files on a
disk matters. `split` says which of the two it is, for results on one cannot be compared with results on the other.
"""

import contextlib
import errno
import glob
import hashlib
import importlib
import itertools
import json
import os
import posixpath
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from adavipro.data import Split
from adavipro.datasets.folders import SPLITS, deal
from adavipro.datasets.images import PLAIN_VERSION, decode_all, kept
from adavipro.io import PARTIAL, datasets_folder
from adavipro.models import clean_class_names
from adavipro.recipe import SettingError

OURS = "ours, version 1"
LEAST = 4  # images of a class that can be dealt out to three splits


class PartialDataWarning(UserWarning):
    """A data set does not have the published number of images."""


class Picture(NamedTuple):
    """A picture with its class, by number and name, and its file's size and time in nanoseconds.

    path: in the data set's folder of pictures; of CIFAR its place among the pictures of train and then test.
    """

    path: Any
    label: int
    own: str
    size: int = 0
    time: int = 0


Rows = dict[str, list[Picture]]  # by split; what no list tells is train


@dataclass(frozen=True)
class Spec:
    """What a data set is, where it lies, and how our split is made.

    kind: torchvision's class, which fetches it; blank where you must bring it. places: its folder, in CoOp's layout or
    torchvision's; the last is where it is put. images: folder of its pictures in there. total: images of all splits.
    lists: its official lists, by split. layout: a picture's path, where no list names them. shares: how what the lists
    call train is dealt out, with at most so many images of a class. coop: the name in CoOp's file. names: of classes,
    where the folders' would not do.
    """

    kind: str
    places: tuple[str, ...]
    images: str
    classes: int
    total: int
    source: str
    licence: str
    coop: str = ""
    lists: Mapping[str, str] = field(default_factory=dict)
    layout: str = ""
    shares: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.2})
    most: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)


EUROSAT = {
    "AnnualCrop": "annual crop land", "Forest": "forest", "HerbaceousVegetation": "herbaceous vegetation land",
    "Highway": "highway or road", "Industrial": "industrial buildings", "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land", "Residential": "residential buildings", "River": "river",
    "SeaLake": "sea or lake",
}  # fmt: skip
# Left out of our split: one decoder cannot read them, another reads other pixels each time (`_SUN397_IGNORE_IMAGES` in
# tensorflow/datasets, image_classification/sun.py).
SUN397_UNSOUND = {"c/church/outdoor/sun_bhenjvsvrtumjuri.jpg", "t/track/outdoor/sun_aophkoiosslinihb.jpg"}
_KRIZHEVSKY = ("www.cs.toronto.edu/~kriz/cifar.html", "see its page; cite Krizhevsky 2009")
SPECS = {
    "cifar10": Spec(
        "CIFAR10", ("cifar10", ""), "cifar-10-batches-py", 10, 60000, *_KRIZHEVSKY, shares={"train": 0.9, "val": 0.1}),
    "cifar100": Spec(
        "CIFAR100", ("cifar100", ""), "cifar-100-python", 100, 60000, *_KRIZHEVSKY, shares={"train": 0.9, "val": 0.1}),
    "dtd": Spec(
        "DTD", ("dtd", "dtd/dtd"), "images", 47, 5640, "www.robots.ox.ac.uk/~vgg/data/dtd", "for research purposes",
        "DescribableTextures", {s: f"labels/{s}1.txt" for s in SPLITS}, shares={"train": 1.0}),
    "eurosat": Spec(
        "EuroSAT", ("eurosat",), "2750", 10, 27000, "github.com/phelber/EuroSAT", "MIT", "EuroSAT",
        layout="Forest/Forest_1.jpg", shares={"train": 0.5, "val": 0.2, "test": 0.3}, names=EUROSAT),
    "food101": Spec(
        "Food101", ("food-101",), "images", 101, 101000, "data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        "scientific fair use; beyond it, ask the owners of the pictures (Foodspotting)",
        "Food101", {s: f"meta/{s}.txt" for s in ("train", "test")}),
    "sun397": Spec(
        "", ("", "sun397"), "SUN397", 397, 39700, "your own copy of SUN397.tar.gz: its address is dead",
        "see its page; cite Xiao et al. 2010", "SUN397", layout="a/abbey/sun_aaalbzqrimafwbiv.jpg",
        shares={"train": 0.4, "val": 0.1, "test": 0.5}, most=100),
    "flowers102": Spec(
        "Flowers102", ("oxford_flowers", "flowers-102"), "jpg", 102, 8189, "www.robots.ox.ac.uk/~vgg/data/flowers/102",
        "see its page; cite Nilsback and Zisserman 2008", "OxfordFlowers",
        {"labels": "imagelabels.mat", "splits": "setid.mat"}, shares={"train": 1.0}),
    "ucf101": Spec(
        "", ("ucf101",), "UCF-101-midframes", 101, 13320, "CoOp's UCF-101-midframes.zip, see its DATASETS.md",
        "see its page; cite Soomro et al. 2012",
        "UCF101", {s: f"ucfTrainTestlist/{s}list01.txt" for s in ("train", "test")}),
    "oxfordpets": Spec(
        "OxfordIIITPet", ("oxford_pets", "oxford-iiit-pet"), "images", 37, 7349, "www.robots.ox.ac.uk/~vgg/data/pets",
        "CC BY-SA 4.0; the images' owners keep their copyright",
        "OxfordPets", {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}),
}  # fmt: skip


class Nine:
    """One of the nine, as every `datasets.Source`.

    version: sha256 of split, class names, and the pictures' labels, paths and sizes. stamp: of their times, which are
    others on other machines: no run's key holds it.
    """

    def __init__(self, name: str, images: Path, class_names: list[str], split: str, rows: Rows) -> None:
        self.name = name
        self.images, self.class_names, self.rows = images, tuple(class_names), rows
        self.split: str | None = split
        self.counts: Mapping[str, int] = {part: len(own) for part, own in rows.items()}
        lines = [f"{part} {p.label} {p.size} {p.path}" for part, own in rows.items() for p in own]
        self.version = _sha256([split, str(PLAIN_VERSION), *class_names, *lines])
        self.stamp = _sha256([str(p.time) for own in rows.values() for p in own])

    def load(self, split: str, image_px: int) -> Split:
        """Map a split's images into memory, privately: what is written into them nobody else sees.

        They are decoded once: the shorter side resized (bicubic), then the centre, as CLIP does. Of several processes
        that ask for images, one decodes and the others wait.

        Raises:
            SettingError: if images cannot be used, naming every one; then nothing is kept.
            OSError: if the disk has no room, with the bytes needed and free.
        """
        # Each version has files of its own, so that CoOp's split and ours can take turns; old ones may be removed.
        stem = f"{split}-{image_px}px-{self.version[:12]}"
        shape = (self.counts[split], 3, image_px, image_px)
        images = kept(self.name, stem, shape, lambda: self._decode(split, image_px), f"-{self.stamp[:12]}")
        return Split(images, None, torch.tensor([p.label for p in self.rows[split]]))

    def _decode(self, split: str, image_px: int) -> Iterator[Any]:
        pixels = _cifar(self.name, self.images.parent)[0] if self.name.startswith("cifar") else None
        own = [p.path for p in self.rows[split]]
        sources = {path: self.images / path if pixels is None else pixels[path] for path in own}
        decoded = decode_all(sources, image_px, f"images in {self.images}", plain=True)
        for image in tqdm(decoded, f"{self.name} {split} {image_px} px", len(sources)):
            yield image.numpy()


# --- What lies on the disk --------------------------------------------------------------------------------------


def find(name: str) -> Nine:
    """List one of the nine, with the split that is decided; no picture is decoded.

    Raises:
        SettingError: one sentence with the way out, if a part of it is missing or does not fit the others.
    """
    spec = SPECS[name]
    home, coop, _ = _parts(name, datasets_folder())
    images = home / spec.images
    get = f"get it with `adavipro fetch {name}`" if spec.kind else f"bring it ({spec.source})"
    tops = dict.fromkeys(str(home / part.split("/")[0]) for part in (spec.images, *spec.lists.values()))
    wrong = f"move {' and '.join(tops)} away, then {get}" if spec.kind else get
    own_split = f", or move {coop} away to have our split" if coop else ""
    way_out = f"put another copy in its place{own_split}" if coop else wrong
    try:
        if not images.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(images))
        rows = _of_coop(coop) if coop else _official(name, home)
        names = clean_class_names([spec.names.get(own, own) for own in _check(rows, spec.classes)])
        if not coop:
            rows = _deal(rows, [f"{name}-{own}" for own in names], spec)
        way_out = wrong + own_split
        rows = rows if name.startswith("cifar") else _on_disk(images, rows)
    except (OSError, ValueError) as error:
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        if isinstance(error, FileNotFoundError):
            way_out = f"{get}, or set $ADAVIPRO_DATA to the folder that holds it"
        raise SettingError(f"dataset is {name!r}, but {told}; {way_out}") from None
    if (count := sum(map(len, rows.values()))) != spec.total:
        told = f"has {count:,} images, where {spec.total:,} were published: is it whole?"
        warnings.warn(f"data set {name!r} in {home} {told}", PartialDataWarning, stacklevel=3)
    return Nine(name, images, names, f"CoOp's {coop.name}" if coop else OURS, rows)


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _parts(name: str, root: Path) -> tuple[Path, Path | None, dict[Path, bool]]:
    """A data set's folder, CoOp's split file where it is there, and of each part that is needed whether it is there."""
    spec = SPECS[name]
    places = [root / place for place in spec.places]
    home = next((place for place in places if (place / spec.images).is_dir()), places[-1])
    files = [place / f"split_zhou_{spec.coop}.json" for place in places]
    coop = next((file for file in files if file.exists()), None)
    parts = [home / part for part in (spec.images, *([] if coop else spec.lists.values()))]
    return home, coop, {part: any(part.iterdir()) if part.is_dir() else part.exists() for part in parts}


def _of_coop(file: Path) -> Rows:
    """Read a split file of CoOp's; its paths may be Windows'."""
    rows: Rows = {}
    try:
        content = json.loads(file.read_bytes())
        for part in SPLITS:
            told = [
                (posixpath.normpath(path.replace("\\", "/")), label + 0, str(own))
                for path, label, own in content[part]
            ]
            rows[part] = [Picture(*row) for row in told]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        told_why = "the lists train, val and test of [path, label, class name]"
        raise ValueError(f"{file} does not hold {told_why} ({type(error).__name__}: {error})") from None
    return rows


def _official(name: str, home: Path) -> Rows:
    """Read what a data set itself tells. Labels are in alphabetical order of the classes, but for Flowers102's."""
    spec, images = SPECS[name], home / SPECS[name].images
    known, order = set(spec.names), None
    if name.startswith("cifar"):
        found = _cifar(name, home)[1]
    elif name == "flowers102":
        found, order = _flowers(home), _torchvision(name).classes
    elif spec.lists:
        found = {split: _listed(name, home / file) for split, file in spec.lists.items()}
    else:
        depths = ["*/*"] if name == "eurosat" else ["?/*/*", "?/*/*/*"]
        paths = {path for depth in depths for path in glob.glob(depth, root_dir=images)} - SUN397_UNSOUND
        found = {"train": [(path, os.path.dirname(path)) for path in paths if path.lower().endswith(".jpg")]}
        if (images / "ClassName.txt").exists():  # SUN397's list of its classes
            known = {line.strip("/") for line in (images / "ClassName.txt").read_text().split()}
    classes = {own for pairs in found.values() for _, own in pairs}
    if len(classes) != spec.classes or classes != (known or classes):
        told = f"{images} holds" if spec.layout else f"the lists in {home} name"
        told += f" {len(classes)} classes, not {spec.classes}"
        told += f", without {_few(known - classes)}" if known - classes else ""
        told += f", with {_few(classes - known)}" if known and classes - known else ""
        raise ValueError(told + (f", where pictures lie as {images / spec.layout}" if spec.layout else ""))
    labels = {own: label for label, own in enumerate(order or sorted(classes, key=str.lower))}
    rows: Rows = {}
    for split, pairs in found.items():
        rows[split] = [Picture(path, labels[own], _called(name, own)) for path, own in pairs]
    return rows


def _called(name: str, own: str) -> str:
    """How users of CLIP name a class: "outdoor apartment building", or "Apply_Eye_Makeup" as its folder."""
    if name == "sun397":
        return " ".join(reversed(own.split("/")[1:]))
    return "_".join(re.findall("[A-Z][^A-Z]*", own)) if name == "ucf101" else own


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _listed(name: str, file: Path) -> list[tuple[Any, str]]:
    """Pictures of a text file, a line each, with their classes."""
    pairs: list[tuple[Any, str]] = []
    for line in file.read_text("utf-8-sig", "replace").replace("\\", "/").splitlines():
        if line.strip() and not line.startswith("#"):
            folder, picture = posixpath.split(posixpath.splitext(line.split()[0])[0])
            own = picture.rpartition("_")[0] if name == "oxfordpets" else folder
            pairs.append((posixpath.join(_called(name, folder), f"{picture}.jpg"), own))
    return pairs


def _flowers(home: Path) -> dict[str, list[tuple[Any, str]]]:
    """Pictures of Flowers102's lists, which are files of MATLAB's, with their classes."""
    names = _torchvision("flowers102").classes
    from scipy.io import loadmat

    try:
        labels = loadmat(str(home / "imagelabels.mat"))["labels"].ravel()
        ids = loadmat(str(home / "setid.mat"))
        own = {i: (f"image_{i:05d}.jpg", names[label - 1]) for i, label in enumerate(labels, 1)}
        keys = {"train": "trnid", "val": "valid", "test": "tstid"}
        return {split: [own[i] for i in ids[key].ravel()] for split, key in keys.items()}
    except OSError:
        raise
    except Exception as error:  # SciPy raises whatever it stumbles over
        told = f"imagelabels.mat and setid.mat in {home} hold no lists of MATLAB's"
        raise ValueError(f"{told} ({error})") from None


def _cifar(name: str, home: Path) -> tuple[Any, dict[str, list[tuple[Any, str]]]]:
    """Pixels (60000, 32, 32, 3) of train and then test, and their classes. The files' md5 are compared first."""
    try:
        parts = [_torchvision(name)(home, train=train) for train in (True, False)]
    except RuntimeError:
        raise ValueError(f"{home / SPECS[name].images} does not hold the files that were published") from None
    pairs = list(enumerate(parts[0].classes[target] for part in parts for target in part.targets))
    n = len(parts[0])
    return np.concatenate([part.data for part in parts]), {"train": pairs[:n], "test": pairs[n:]}


def _torchvision(name: str) -> Any:
    """The class of torchvision that fetches and reads a data set."""
    return getattr(importlib.import_module("torchvision.datasets"), SPECS[name].kind)


def _check(rows: Rows, classes: int) -> list[str]:
    """Raise a ValueError where labels, names or paths do not fit together. Returns the names in order of labels."""
    names: dict[int, str] = {}
    places: dict[Any, str] = {}
    for split, own in rows.items():
        if not own:
            raise ValueError(f"{split} has no pictures")
        for p in own:
            if names.setdefault(p.label, p.own) != p.own:
                raise ValueError(f"label {p.label} is the class {names[p.label]!r} and the class {p.own!r}")
            if p.path in places:
                raise ValueError(f"{p.path} is there twice, in {places[p.path]} and in {split}")
            places[p.path] = split
            if str(p.path).startswith(("/", "..")):
                raise ValueError(f"{p.path} in {split} leads out of the data set's folder")
    if wrong := sorted(set(names) ^ set(range(classes))):
        told = ", ".join(f"{label} ({names.get(label, 'no picture')})" for label in wrong)
        raise ValueError(f"its labels must be 0 to {classes - 1}, each with pictures, and are not: {told}")
    return [names[label] for label in range(classes)]


def _deal(rows: Rows, streams: list[str], spec: Spec) -> Rows:
    """Deal out what the lists call train, within each class, as the data set's shares say."""
    dealt: Rows = {split: sorted(rows.get(split, [])) for split in SPLITS} | {"train": []}
    classes: dict[int, list[Picture]] = {label: [] for label in range(len(streams))}
    for picture in sorted(rows["train"]):
        classes[picture.label].append(picture)
    for own, stream in zip(classes.values(), streams, strict=True):
        if len(own) < LEAST and len(spec.shares) > 1:
            raise ValueError(f"class {stream} has {len(own)} images in train, fewer than {LEAST}")
        if spec.most and len(own) > spec.most:
            own = deal(own, f"{stream}-chosen", {"left out": 0, "chosen": spec.most / len(own)})["chosen"]
        for split, part in deal(own, stream, spec.shares).items():
            dealt[split] += part
    return dealt


def _on_disk(images: Path, rows: Rows) -> Rows:
    """Add the files' sizes and times, with paths as they are spelled on the disk.

    Raises:
        ValueError: with how many files are missing, and the first of them.
    """

    def look(picture: Picture) -> Picture:
        for path in _spellings(picture.path):
            with contextlib.suppress(OSError, ValueError):
                stat = os.stat(f"{images}/{path}")
                return picture._replace(path=path, size=stat.st_size, time=stat.st_mtime_ns)
        missing.add(picture.path)
        return picture

    missing: set[str] = set()
    found: Rows = {}
    with ThreadPoolExecutor(16) as pool:  # a folder on a network answers slowly
        for split, own in rows.items():
            blocks = [own[i : i + 1000] for i in range(0, len(own), 1000)]
            found[split] = list(itertools.chain(*pool.map(lambda block: [look(p) for p in block], blocks)))
    if missing:
        told = f"{len(missing)} of {sum(map(len, rows.values()))} files are missing in {images}"
        raise ValueError(f"{told}: {_few(missing)}")
    return found


def _spellings(path: str) -> Iterator[str]:
    """A path as it is listed, with its ending in other case, and with UCF101's two spellings of one class."""
    stem, end = os.path.splitext(path)
    for own in (stem, stem.replace("v_HandStand", "v_Handstand"), stem.replace("v_Handstand", "v_HandStand")):
        yield from (own + end, own + end.lower(), own + end.upper())


# --- Fetching ---------------------------------------------------------------------------------------------------


def fetch(name: str, folder: Path | None = None) -> Path:
    """Have torchvision download a data set, and check and unpack it aside; what is there already stays as it is.

    Args:
        folder: of all data sets (default: `datasets_folder()`).

    Returns:
        The data set's folder.

    Raises:
        SettingError: if there is no such data set, you must bring it yourself, or it cannot be had whole.
    """
    if name not in SPECS:
        raise SettingError(f"data set is {name!r}, but those that can be fetched are: {', '.join(SPECS)}")
    spec, root = SPECS[name], folder or datasets_folder()
    home, aside = _parts(name, root)[0], root / f".{name}{PARTIAL}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            lacking = [part for part, there in _parts(name, root)[2].items() if not there]
            if lacking and not spec.kind:
                raise FileNotFoundError(f"bring {' and '.join(map(str, lacking))}")
            if lacking:
                shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
                _torchvision(name)(aside, download=True)
            for top in dict.fromkeys(part.relative_to(home).parts[0] for part in lacking):
                fresh, target = aside / spec.places[-1] / top, home / top
                home.mkdir(parents=True, exist_ok=True)
                if target.is_dir():
                    shutil.copytree(fresh, target, copy_function=shutil.move, dirs_exist_ok=True)
                else:
                    shutil.move(fresh, target)
            shutil.rmtree(aside, ignore_errors=True)
    except Exception as error:  # whatever the network, the archives and the disk do to torchvision
        shutil.rmtree(aside, ignore_errors=True)
        told = str(error) or type(error).__name__
        way_out = f"try again, give another folder ($ADAVIPRO_DATA), or bring your own copy to {home} ({spec.source})"
        raise SettingError(f"data set {name!r} cannot be fetched: {told}; {way_out}") from error
    return home


def listing(folder: Path | None = None) -> list[dict[str, str]]:
    """A line for each data set: whether it is there, whose split it has, its licence, and where it comes from."""
    lines = []
    for name, spec in SPECS.items():
        _, coop, parts = _parts(name, folder or datasets_folder())
        state = "there" if all(parts.values()) else "partly" if any(parts.values()) else "not there"
        line = (name, state, f"CoOp's {coop.name}" if coop else OURS, spec.licence, spec.source)
        lines.append(dict(zip(("data set", "state", "split", "licence", "source"), line, strict=True)))
    return lines
