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
import unicodedata
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from adavipro.data import Split
from adavipro.datasets.images import decode_all
from adavipro.io import expanded, file_sha256, generator
from adavipro.models import clean_class_names
from adavipro.recipe import SettingError

PREFIX = "folder:"
SPLITS = ("train", "val", "test")
SPLIT_SEED = 2403  # who is in which split is the same for everyone
LAYOUTS = "PATH/class/image.jpg or PATH/{train,val,test}/class/image.jpg"
HELD_OUT = "its own folders, val held out of train"
T = TypeVar("T")
_nfc = functools.partial(unicodedata.normalize, "NFC")  # as a name is shown, whichever system wrote it


class File(NamedTuple):
    """An image file, the split that it is in, and its label."""

    path: Path
    split: str
    label: int


class Listing(NamedTuple):
    """What a folder holds: class names, cleaned, in the order of the labels; files by split; who dealt them out."""

    class_names: tuple[str, ...]
    files: tuple[File, ...]
    split: str


class ImageFolder:
    """A folder as a data set, as every `datasets.Source`.

    Args:
        name: "folder:PATH".

    Raises:
        SettingError: if there is no such folder, or its layout or classes are wrong.
    """

    def __init__(self, name: str) -> None:
        self.name, self.path = name, expanded(name.removeprefix(PREFIX))
        if name == PREFIX or not self.path.is_dir():
            told = f"but {PREFIX}PATH needs the path of a folder that is there"
            raise SettingError(f"dataset is {name!r}, {told}")
        self.listing = list_folder(self.path)
        self.class_names = self.listing.class_names
        self.split: str | None = self.listing.split
        self.counts: Mapping[str, int] = Counter(file.split for file in self.listing.files)

    @functools.cached_property
    def version(self) -> str:
        """sha256 of all that the data set depends on: relative paths, files' bytes, and class names."""
        return fingerprint(self.path, self.listing)

    def load(self, split: str, image_px: int) -> Split:
        """Decode the images of all splits, once for each content.

        Raises:
            SettingError: if a file cannot be used, naming every one, or the same picture is in two splits.
        """
        decoded = _decode_once(self.path, self.listing, image_px, self.version)[split]
        return Split(decoded.images.clone(), None, decoded.labels.clone())


# --- What a folder holds ----------------------------------------------------------------------------------------


def _visible(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)


def _classes_in(folder: Path) -> dict[str, list[Path]]:
    classes: dict[str, list[Path]] = {}
    for own in filter(Path.is_dir, _visible(folder)):
        try:
            str(own).encode()
        except UnicodeEncodeError:
            raise SettingError(f"the folder {os.fsencode(own)!r} is not named in UTF-8: rename it") from None
        if _nfc(own.name) in classes:
            raise SettingError(f"{folder} has two folders that look the same, {own.name!r}: rename one")
        classes[_nfc(own.name)] = _visible(own)
    entries = [file for own in classes.values() for file in own]
    odd = [str(file.relative_to(folder)) for file in entries if not file.is_file() and file.exists()]
    if odd or not classes:
        found = (
            f"folders, or what is no file, in class folders ({', '.join(odd)})" if odd else "no class folders"
        )
        raise SettingError(f"{folder} holds {found}, expected {LAYOUTS}")
    return dict(sorted(classes.items()))


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
        SettingError: if the layout is neither of the two, splits differ in their classes, a class has too few files,
            or a class folder is not named in UTF-8.
    """
    top = [p.name for p in _visible(path) if p.is_dir()]
    if "train" in top and any(p.is_dir() for p in _visible(path / "train")):
        if "test" not in top or not set(top) <= set(SPLITS):
            raise SettingError(f"{path} holds the folders {top}, expected train, test and, if wanted, val")
        found = {split: _classes_in(path / split) for split in SPLITS if split in top}
        shares, source = {"train": 0.8, "val": 0.2}, HELD_OUT
        if "val" in found:
            shares, source = {"train": 1.0}, "its own folders"
    else:
        found = {"": _classes_in(path)}
        shares, source = {"train": 0.6, "val": 0.2, "test": 0.2}, "dealt 60/20/20"
    (first, classes), *others = found.items()
    differ = [f"{split} has the classes {list(own)}" for split, own in others if list(own) != list(classes)]
    if differ:
        raise SettingError(f"{path}: train has the classes {list(classes)}, but {', and '.join(differ)}")
    few = [
        f"{split}/{name} has {len(files)}, needs {least}".removeprefix("/")
        for split, of_split in found.items()
        for name, files in of_split.items()
        if len(files) < (least := len(shares) if split == first else 1)
    ]
    if few:
        raise SettingError(f"{path} has too few images: {'; '.join(few)}")
    parts: dict[str, list[File]] = {split: [] for split in SPLITS}
    for label, (name, files) in enumerate(classes.items()):
        dealt = deal(files, f"folder-{name}", shares) | {split: own[name] for split, own in others}
        for split, chosen in dealt.items():
            parts[split] += [File(file, split, label) for file in chosen]
    files_of_all = tuple(file for part in parts.values() for file in part)
    return Listing(_class_names(path, list(classes)), files_of_all, source)


def _class_names(path: Path, folders: list[str]) -> tuple[str, ...]:
    chosen = path / "classes.json"
    if not chosen.exists():
        return tuple(clean_class_names(folders))
    try:
        names = json.loads(chosen.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{chosen} is no JSON: {error}") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise SettingError(f'{chosen} must map each class folder to its name: {{"folder": "name"}}')
    names = {_nfc(folder): _nfc(name) for folder, name in names.items()}
    if sorted(names) != folders:
        raise SettingError(f"{chosen} names the classes {sorted(names)}, but the class folders are {folders}")
    return tuple(clean_class_names([names[folder] for folder in folders]))


# --- What the files hold ----------------------------------------------------------------------------------------


def fingerprint(path: Path, listing: Listing) -> str:
    """sha256 of all that a folder's data set depends on: relative paths, files' bytes, and class names."""

    def content(file: Path) -> str:
        try:
            return file_sha256(file)
        except OSError:  # loading names all files that cannot be used
            return "unreadable"

    files = sorted(file.path for file in listing.files)
    lines = [*(f"{content(file)} {file.relative_to(path)}" for file in files), *listing.class_names]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


@functools.lru_cache(maxsize=1)  # the folder that was decoded last
def _decode_once(path: Path, listing: Listing, image_px: int, version: str) -> dict[str, Split]:
    decoded = _decode(path, listing.files, image_px)
    if fingerprint(path, listing) != version:
        raise SettingError(f"files in {path} changed while they were read: start again")
    if listing.split == HELD_OUT:
        warnings.warn(f"{path} has no val: a fifth of train is held out as val", stacklevel=3)
    return decoded


def _decode(path: Path, files: Sequence[File], image_px: int) -> dict[str, Split]:
    """Decode files that are in order of their splits; refuses bad ones, and a picture that is in two splits."""
    images = torch.empty(len(files), 3, image_px, image_px, dtype=torch.uint8)
    seen: dict[bytes, str] = {}
    twice, sources = [], {file.path.relative_to(path): file.path for file in files}
    found = zip(sources, files, decode_all(sources, image_px, f"files in {path}"), strict=True)
    for i, (name, file, picture) in enumerate(found):  # of bad files `found` ends with an error
        images[i], place = picture, f"{name} ({file.split})"
        other = seen.setdefault(hashlib.sha256(picture.numpy().tobytes()).digest(), place)
        if not other.endswith(f"({file.split})"):
            twice.append(f"{other} and {place}")
    if twice:
        raise SettingError(f"{path} shows the same picture in two splits: {'; '.join(twice)}")
    labels, sizes = torch.tensor([file.label for file in files]), Counter(file.split for file in files)
    parts = zip(sizes, images.split(list(sizes.values())), labels.split(list(sizes.values())), strict=True)
    return {split: Split(own, None, own_labels) for split, own, own_labels in parts}


def all_images(path: Path, image_px: int) -> Split:
    """Every image of PATH/class/image.jpg as one split, labels in plain order of the class folders."""
    if not path.is_dir():
        raise SettingError(f"there is no folder {path}: give one that holds PATH/class/image.jpg")
    classes = _classes_in(path)
    files = [File(file, "all", label) for label, own in enumerate(classes.values()) for file in own]
    return _decode(path, files, image_px)["all"]


def class_names(path: Path) -> list[str]:
    """Class names of PATH/class/image.jpg, in the order of the labels."""
    return list(_class_names(path, list(_classes_in(path))))
