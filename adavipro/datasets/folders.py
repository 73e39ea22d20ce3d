"""A folder of image files as a data set: classes are its sub-folders; every fault is named before any work starts.

PATH/class/image.jpg is split 60/20/20 within each class: files in plain order of their names are dealt out by
`SPLIT_SEED`. PATH/{train,val,test}/class/image.jpg is taken as it is; without val, a fifth of each class of train is
held out. Class folders are in plain order of their names ("10" before "9"). PATH/classes.json may give each class
folder another name: {"n01443537": "goldfish"}. Names that begin with a dot, and files beside the class folders, are
not read.
"""

import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from adavipro.data import Split
from adavipro.datasets.images import ImageError, to_tensor
from adavipro.io import file_sha256, generator
from adavipro.models import clean_class_names
from adavipro.recipe import SettingError

PREFIX = "folder:"
SPLITS = ("train", "val", "test")
SPLIT_SEED = 2403  # who is in which split is the same for everyone
LAYOUTS = "PATH/class/image.jpg or PATH/{train,val,test}/class/image.jpg"
T = TypeVar("T")
# What is dealt out within each class, and what that is called.
_DEALT: dict[str, tuple[dict[str, float], str]] = {
    "all": ({"train": 0.6, "val": 0.2, "test": 0.2}, "dealt 60/20/20"),
    "train and val": ({"train": 0.8, "val": 0.2}, "its own folders, val held out of train"),
    "train": ({"train": 1.0}, "its own folders"),
}


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    class_names: cleaned, in the order of the labels. files: each split's files with their labels. split: where the
    splits come from.
    """

    class_names: list[str]
    files: dict[str, list[tuple[Path, int]]]
    split: str

    @property
    def held_out(self) -> bool:
        """Whether val is a part of the folder's train."""
        return self.split == _DEALT["train and val"][1]


class ImageFolder:
    """A folder as a data set, as every `datasets.Source`: listed once, hashed once.

    Args:
        name: "folder:PATH".

    Raises:
        SettingError: if there is no such folder, or its layout or classes are wrong.
    """

    def __init__(self, name: str) -> None:
        self.name, self.path = name, Path(name.removeprefix(PREFIX)).expanduser()
        if name == PREFIX or not self.path.is_dir():
            raise SettingError(f"dataset is {name!r}, but {PREFIX}PATH needs the path of a folder that is there")
        self.listing = list_folder(self.path)
        self.class_names, self.split = tuple(self.listing.class_names), self.listing.split
        self.slug = "folder-" + re.sub(r"[^\w.-]+", "-", self.path.resolve().name)
        self.counts = {split: len(files) for split, files in self.listing.files.items()}

    @functools.cached_property
    def version(self) -> str:
        """sha256 of all that the data set depends on: relative paths, files' bytes, and class names."""
        return fingerprint(self.path, self.listing)

    def load(self, split: str, image_px: int) -> Split:
        """Decode the images of all splits, once for each content.

        Raises:
            SettingError: if a file cannot be used, naming every one, or the same picture is in two splits.
        """
        images, labels = _load(self.path, image_px, self.version, self.listing)[split]
        return Split(images.clone(), None, labels.clone())


def _visible(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)


def _classes_in(folder: Path) -> dict[str, list[Path]]:
    classes = {p.name: _visible(p) for p in _visible(folder) if p.is_dir()}
    if not classes:
        raise SettingError(f"{folder} holds no class folders, expected {LAYOUTS}")
    deeper = [str(file.relative_to(folder)) for files in classes.values() for file in files if file.is_dir()]
    if deeper:
        raise SettingError(
            f"{folder} holds folders in class folders ({', '.join(deeper)}), expected {LAYOUTS}"
        )
    return classes


def deal(items: Sequence[T], stream: str, shares: Mapping[str, float]) -> dict[str, list[T]]:
    """Deal items out by `SPLIT_SEED`: its share, at least one, to each part but the first, the rest to the first.

    Who gets what hangs on the items' order, the stream's name and the shares alone; each part keeps that order.
    """
    order = torch.randperm(len(items), generator=generator(SPLIT_SEED, stream))
    sizes = [max(1, round(len(items) * share)) for share in list(shares.values())[1:]]
    dealt = order.split([len(items) - sum(sizes), *sizes])
    return {part: [items[i] for i in sorted(own.tolist())] for part, own in zip(shares, dealt, strict=True)}


def list_folder(path: Path) -> Listing:
    """List a folder's classes and the files of each split. No file's content is read.

    Raises:
        SettingError: if the layout is neither of the two, splits differ in their classes, or a class has too few files.
    """
    top = [p.name for p in _visible(path) if p.is_dir()]
    if "train" in top and any(p.is_dir() for p in _visible(path / "train")):
        if "test" not in top or not set(top) <= set(SPLITS):
            raise SettingError(f"{path} holds the folders {top}, expected train, test and, if wanted, val")
        found = {split: _classes_in(path / split) for split in SPLITS if split in top}
    else:
        found = {"": _classes_in(path)}
    (first, classes), *others = found.items()
    differ = [f"{split} has the classes {list(own)}" for split, own in others if list(own) != list(classes)]
    if differ:
        raise SettingError(f"{path}: train has the classes {list(classes)}, but {', and '.join(differ)}")
    dealt, source = _DEALT["all"] if not first else _DEALT["train" if "val" in found else "train and val"]
    least = {split: len(dealt) if split == first else 1 for split in found}
    few = [
        f"{split}/{name} has {len(own)}, needs {least[split]}".removeprefix("/")
        for split, of_split in found.items()
        for name, own in of_split.items()
        if len(own) < least[split]
    ]
    if few:
        raise SettingError(f"{path} has too few images: {'; '.join(few)}")
    files: dict[str, list[tuple[Path, int]]] = {split: [] for split in SPLITS}
    for label, name in enumerate(classes):
        parts = deal(classes[name], f"folder-{name}", dealt) | {split: own[name] for split, own in others}
        for split, chosen in parts.items():
            files[split] += [(file, label) for file in chosen]
    return Listing(_class_names(path, list(classes)), files, source)


def _class_names(path: Path, folders: list[str]) -> list[str]:
    chosen = path / "classes.json"
    if not chosen.exists():
        return clean_class_names(folders)
    try:
        names = json.loads(chosen.read_bytes())
    except ValueError as error:
        raise SettingError(f"{chosen} is no JSON: {error}") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise SettingError(f'{chosen} must map each class folder to its name: {{"folder": "name"}}')
    if sorted(names) != folders:
        raise SettingError(f"{chosen} names the classes {sorted(names)}, but the class folders are {folders}")
    return clean_class_names([names[folder] for folder in folders])


# --- What the files hold ---------------------------------------------------------------------------------------


def fingerprint(path: Path, listing: Listing) -> str:
    """sha256 of all that a folder's data set depends on: relative paths, files' bytes, and class names."""
    files = sorted(file for split in listing.files.values() for file, _ in split)
    lines, unreadable = [], []
    for file in files:
        try:
            lines.append(f"{file_sha256(file)} {file.relative_to(path)}")
        except OSError as error:
            unreadable.append(f"{file.relative_to(path)} ({error.strerror})")
    if unreadable:
        raise SettingError(
            f"{path} has files that cannot be read: {', '.join(unreadable)}; mend or remove them"
        )
    content = "\n".join([*lines, *listing.class_names])
    return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()


_kept: dict[tuple[Path, int, str], dict[str, tuple[Tensor, Tensor]]] = {}  # the folder that was decoded last


def _load(path: Path, image_px: int, version: str, listing: Listing) -> dict[str, tuple[Tensor, Tensor]]:
    if (path, image_px, version) not in _kept:
        decoded = _decode(path, image_px, listing)
        if fingerprint(path, listing) != version:
            raise SettingError(f"files in {path} changed while they were read: start again")
        _kept.clear()
        _kept[path, image_px, version] = decoded
    return _kept[path, image_px, version]


def _decode(path: Path, image_px: int, listing: Listing) -> dict[str, tuple[Tensor, Tensor]]:
    loaded: dict[str, tuple[Tensor, Tensor]] = {}
    bad: list[str] = []
    twice: list[str] = []
    places: dict[bytes, tuple[str, str]] = {}

    def decode(file: Path) -> Tensor | str:
        try:
            return to_tensor(file.read_bytes(), image_px)
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for split, files in listing.files.items():
            images = torch.empty(len(files), 3, image_px, image_px, dtype=torch.uint8)
            for i, picture in enumerate(pool.map(decode, [file for file, _ in files])):
                name = str(files[i][0].relative_to(path))
                if isinstance(picture, str):
                    bad.append(f"{name}: {picture}")
                    continue
                images[i] = picture
                digest = hashlib.sha256(picture.numpy().tobytes()).digest()
                place, other = places.setdefault(digest, (split, name))
                if place != split:
                    twice.append(f"{other} ({place}) and {name} ({split})")
            loaded[split] = images, torch.tensor([label for _, label in files])
    if bad:
        total = sum(map(len, listing.files.values()))
        raise SettingError(f"{len(bad)} of {total} files in {path} cannot be used: {'; '.join(bad)}")
    if twice:
        raise SettingError(f"{path} shows the same picture in two splits: {'; '.join(twice)}")
    if listing.held_out:
        warnings.warn(f"{path} has no val: a fifth of train is held out as val", stacklevel=4)
    return loaded


# --- A folder of one split ----------------------------------------------------------------------------------------


def all_images(path: Path, image_px: int) -> Split:
    """Every image of PATH/class/image.jpg as one split, labels in plain order of the class folders."""
    if not path.is_dir():
        raise SettingError(f"there is no folder {path}: give one that holds PATH/class/image.jpg")
    classes = _classes_in(path)
    files = [(file, label) for label, own in enumerate(classes.values()) for file in own]
    listing = Listing(_class_names(path, list(classes)), {"all": files}, "")
    return Split(*_swap(_decode(path, image_px, listing)["all"]))


def _swap(decoded: tuple[Tensor, Tensor]) -> tuple[Tensor, None, Tensor]:
    images, labels = decoded
    return images, None, labels


def class_names(path: Path) -> list[str]:
    """Class names of PATH/class/image.jpg, in the order of the labels."""
    return _class_names(path, list(_classes_in(path)))
