"""Data sets and their splits: decoded images in memory, labels, and the true objects where they are known."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from adavipro import decoded, folders, nine
from adavipro.classifiers import data_folder
from adavipro.embedded import scenes
from adavipro.embedded.vocabulary import DIGITS, LETTERS, SYMBOLS, TEXTURES
from adavipro.seeds import generator
from adavipro.settings import SettingError

SIZES = {"train": 2000, "val": 600, "test": 1000}
IMAGE_PX = 56  # of the embedded data sets; all others take the model's size
VERSION = 1  # of what is drawn: raise it when a picture changes, so that no old run passes for a new one
DRAWING_SEED = 2403  # of the embedded data sets: they are the same for everyone


@dataclass(frozen=True)
class Split:
    """Images of one split, in memory or mapped into it.

    images: uint8 (n, 3, h, w). objects: uint8 (n, 1, h, w), how much of each pixel is object (255 is all of it);
    None where the data set knows no object. labels: int64 (n,).
    """

    images: Tensor
    objects: Tensor | None
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "digits": DIGITS,
    "letters": LETTERS,
    "sketches": tuple(SYMBOLS),
    "textures": TEXTURES,
}
_DRAW: dict[str, Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor | None]]] = {
    "letters": scenes.unseen_letters,
    "sketches": scenes.sketches,
    "textures": scenes.worn_textures,
}


def check_name(name: str) -> None:
    """Raise a SettingError where `name` is no data set: not embedded, none of the nine, and no "folder:PATH"."""
    if folders.is_folder(name):
        folders.path_of(name)
    elif name not in CLASS_NAMES and name not in nine.SPECS:
        known = ", ".join([*CLASS_NAMES, *nine.SPECS])
        raise SettingError(f"dataset is {name!r}, but the data sets are: {known}, folder:PATH")


def class_names(name: str) -> tuple[str, ...]:
    """Class names in the order of the labels."""
    check_name(name)
    if folders.is_folder(name):
        return tuple(folders.list_folder(folders.path_of(name)).class_names)
    return nine.list_dataset(name).class_names if name in nine.SPECS else CLASS_NAMES[name]


def version(name: str) -> int | str:
    """What changes when a data set's content does: a hash of what is in a folder, or of a listing of the nine."""
    if folders.is_folder(name):
        return folders.fingerprint(folders.path_of(name))
    return nine.list_dataset(name).version if name in nine.SPECS else VERSION


def split_source(name: str) -> str | None:
    """Where a data set's splits come from, for results on others cannot be compared; None of an embedded one."""
    check_name(name)
    if folders.is_folder(name):
        return folders.list_folder(folders.path_of(name)).split
    return nine.list_dataset(name).split if name in nine.SPECS else None


def slug(name: str) -> str:
    """A data set's name as a part of a file name."""
    if not folders.is_folder(name):
        return name
    return "folder-" + re.sub(r"[^\w.-]+", "-", folders.path_of(name).resolve().name)


def check_image_px(name: str, image_px: int) -> None:
    """Raise a SettingError where a data set has no images of a model's size."""
    if name in CLASS_NAMES and image_px != IMAGE_PX:
        raise SettingError(
            f"the model takes images of {image_px} px, but data set {name!r} has images of {IMAGE_PX} px"
        )


def count(name: str, split: str) -> int:
    """Number of images of one split ("train", "val", "test"); none is decoded."""
    _check_split(name, split)
    if folders.is_folder(name):
        return len(folders.list_folder(folders.path_of(name)).files[split])
    return len(nine.list_dataset(name).pictures[split] if name in nine.SPECS else draw_split(name, split))


def _check_split(name: str, split: str) -> None:
    check_name(name)
    if split not in SIZES:
        raise ValueError(f"split is {split!r}, but the splits are: {', '.join(SIZES)}")


def load_split(name: str, split: str, image_px: int = IMAGE_PX) -> Split:
    """Load one split ("train", "val", "test") of a data set, from memory or a mapped file where it has not changed.

    Args:
        name: an embedded data set, one of the nine (see `adavipro.nine`), or "folder:PATH" (see `adavipro.folders`).
        image_px: side of the images that the model takes.
    """
    _check_split(name, split)
    check_image_px(name, image_px)
    if folders.is_folder(name):
        images, labels = folders.load(folders.path_of(name), image_px)[split]
        return Split(images, None, labels)
    if name in nine.SPECS:
        listing = nine.list_dataset(name)
        labels = torch.tensor([label for _, label in listing.pictures[split]])
        return Split(decoded.open_split(listing, name, split, image_px), None, labels)
    return draw_split(name, split)


@functools.lru_cache(maxsize=16)
def draw_split(name: str, split: str) -> Split:
    """Draw one split of an embedded data set.

    digits: scans of real handwriting set into scenes, 1,000 / 297 / 500 scans in two scenes each, no scan in two
    splits. letters, sketches, textures: drawn, 2,000 / 600 / 1,000 pictures.
    """
    g = generator(DRAWING_SEED, f"{name}-{split}")
    if name == "digits":
        stored = load_file(data_folder() / "handwritten_digits.safetensors")
        order = torch.randperm(len(stored["labels"]), generator=generator(DRAWING_SEED, "digits-scans"))
        parts = dict(zip(SIZES, order.split([1000, 297, 500]), strict=True))
        scans = parts[split].repeat(2)
        labels = stored["labels"][scans].long()
        return Split(*scenes.handwritten_digits(stored["images"][scans], g), labels)
    labels = torch.randint(len(CLASS_NAMES[name]), (SIZES[split],), generator=g)
    return Split(*_DRAW[name](labels, g), labels)
