"""Data sets by name: those that are drawn, the paper's nine, and folders of images. One file a kind."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from adavipro.data import Split, from_dataset
from adavipro.datasets import embedded, folders, nine
from adavipro.datasets.images import read_image
from adavipro.io import expanded, generator
from adavipro.recipe import SettingError


class Source(Protocol):
    """A data set that was found: listed once, decoded split by split.

    name: as in settings. class_names: in the order of the labels.
    counts: images of each split. split: where the splits come from, for results on others cannot be compared; None of
    a drawn one.
    """

    name: str
    class_names: tuple[str, ...]
    counts: Mapping[str, int]
    split: str | None

    @property
    def version(self) -> int | str:
        """What changes when the content does."""

    def load(self, split: str, image_px: int) -> Split:
        """Images of "train", "val" or "test" at the size that a model takes."""


def check_name(name: str) -> None:
    """Raise a SettingError where `name` is no data set's; whether its files are there is not asked."""
    if not name.startswith(folders.PREFIX) and name not in embedded.CLASS_NAMES and name not in nine.SPECS:
        known = ", ".join([*embedded.CLASS_NAMES, *nine.SPECS])
        raise SettingError(f"dataset is {name!r}, but the data sets are: {known}, folder:PATH")


def slug(name: str) -> str:
    """A data set's name as a part of a file name."""
    if not name.startswith(folders.PREFIX):
        return name
    return "folder-" + re.sub(r"[^\w.-]+", "-", expanded(name.removeprefix(folders.PREFIX)).resolve().name)


def find(name: str) -> Source:
    """Find a data set: "digits" and the other drawn ones, one of the paper's nine, or "folder:PATH".

    Raises:
        SettingError: if there is none of that name, or its files are missing or wrong.
    """
    check_name(name)
    if name.startswith(folders.PREFIX):
        return folders.ImageFolder(name)
    return nine.find(name) if name in nine.SPECS else embedded.Drawn(name)


def load_split(name: str, split: str, image_px: int = embedded.IMAGE_PX) -> Split:
    """Find a data set and load one of its splits, "train", "val" or "test"."""
    if split not in folders.SPLITS:
        raise SettingError(f"split is {split!r}, but the splits are: {', '.join(folders.SPLITS)}")
    return find(name).load(split, image_px)


# --- Data that is no data set by name -----------------------------------------------------------------------------


def as_split(data: Any, image_px: int | None = None) -> Split:
    """Read what people have into a split: a Split, a `torch.utils.data.Dataset` of (image, label), or a folder.

    Args:
        image_px: side of the images; None: that of the first image, which must be a square tensor.

    Raises:
        SettingError: if the images have other sizes, or a size is needed and not given.
    """
    if isinstance(data, str | Path):
        if image_px is None:
            raise SettingError(
                f"images in {data} are of any size: say which to make of them, as image_px=224"
            )
        data = folders.all_images(expanded(data), image_px)
    if not isinstance(data, Split):
        data = from_dataset(data, None if image_px is None else lambda image: read_image(image, image_px))
    height, width = data.images.shape[-2:]
    if height != width or height != (image_px or height):
        wanted = f"{image_px} x {image_px} px" if image_px else "square ones"
        raise SettingError(f"images are {height} x {width} px, expected {wanted}: resize them")
    return data


def folder_class_names(data: Any) -> list[str] | None:
    """Class names of a folder of images, or those that a Dataset of torchvision tells; None of other data."""
    if isinstance(data, str | Path):
        return folders.class_names(expanded(data))
    return list(data.classes) if hasattr(data, "classes") else None


def held_out(split: Split, share: float = 0.2) -> tuple[Split, Split]:
    """Hold out a share of a split, at least one image, the same for everyone. Returns what is left, and that."""
    if len(split) < 2:
        raise SettingError("train has one image, and a fifth is held out for validation: give val as well")
    order = torch.randperm(len(split), generator=generator(folders.SPLIT_SEED, "held-out"))
    count = max(1, round(share * len(split)))
    parts = (order[count:].sort().values, order[:count].sort().values)
    left, out = (Split(split.images[part], None, split.labels[part]) for part in parts)
    return left, out
