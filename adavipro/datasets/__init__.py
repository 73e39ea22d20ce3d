"""Data sets by name: those that are drawn, photographs, the paper's nine, and folders of images. One file a kind."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from adavipro.data import Split
from adavipro.datasets import embedded, folders, nine, photographs
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
    known = [*embedded.CLASS_NAMES, *photographs.FIND, *nine.SPECS]
    if not name.startswith(folders.PREFIX) and name not in known:
        raise SettingError(f"dataset is {name!r}, but the data sets are: {', '.join(known)}, folder:PATH")


def slug(name: str) -> str:
    """A data set's name as a part of a file name."""
    if not name.startswith(folders.PREFIX):
        return name
    return "folder-" + re.sub(r"[^\w.-]+", "-", expanded(name.removeprefix(folders.PREFIX)).resolve().name)


def find(name: str) -> Source:
    """Find a data set: a drawn one as "digits", "solar-cells", one of the paper's nine, or "folder:PATH".

    Raises:
        SettingError: if there is none of that name, or its files are missing or wrong.
    """
    check_name(name)
    if name.startswith(folders.PREFIX):
        return folders.ImageFolder(name)
    if name in photographs.FIND:
        return photographs.FIND[name]()
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
    count, labels = len(data.images), data.labels
    if not count or labels.dtype != torch.int64 or labels.shape != (count,):
        told = f"{count} images have labels {labels.dtype} {tuple(labels.shape)}"
        raise SettingError(f"{told}: expected at least one image, and an int64 label for each")
    height, width = data.images.shape[-2:]
    if height != width or height != (image_px or height):
        wanted = f"{image_px} x {image_px} px" if image_px else "square ones"
        raise SettingError(f"images are {height} x {width} px, expected {wanted}: resize them")
    return data


def from_dataset(dataset: Any, decode: Callable[[Any], Tensor] | None = None) -> Split:
    """Read a `torch.utils.data.Dataset` of (image, label) into memory, once.

    Args:
        dataset: its images are tensors of one size, uint8 or floats in [0, 1], or what `decode` takes.
        decode: turns an image that is no tensor, as Pillow's, into one.

    Raises:
        SettingError: naming the first item that does not fit.
    """
    images: list[Tensor] = []
    labels: list[int] = []
    for i in range(len(dataset)):
        image, label = dataset[i]
        try:
            labels.append(operator.index(label))
            image = image if isinstance(image, Tensor) or decode is None else decode(image)
        except (TypeError, ValueError) as error:
            raise SettingError(f"item {i} of the data, label {label!r}, cannot be used: {error}") from error
        if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3:
            told = f"of type {type(image).__name__}: say which side the network takes, as image_px=224"
            told = f"{tuple(image.shape)}, expected (3, h, w)" if isinstance(image, Tensor) else told
            raise SettingError(f"image {i} of the data set is {told}")
        if images and (image.shape, image.dtype) != (images[0].shape, images[0].dtype):
            told = f"{image.dtype} {tuple(image.shape)}, but the first is {images[0].dtype} {tuple(images[0].shape)}"
            raise SettingError(f"image {i} of the data set is {told}: resize all of them to one size")
        images.append(image)
    if not images:
        raise SettingError("the data set is empty, but a split needs at least one image")
    return Split(torch.stack(images), None, torch.tensor(labels))


def folder_class_names(data: Any) -> list[str] | None:
    """Class names of a folder of images, or those that a Dataset of torchvision tells; None of other data."""
    if isinstance(data, str | Path):
        return folders.class_names(expanded(data))
    return list(data.classes) if hasattr(data, "classes") else None


def held_out(split: Split) -> tuple[Split, Split]:
    """Hold out a fifth of a split, at least one image, the same for everyone. Returns what is left, and that."""
    if len(split) < 2:
        raise SettingError("train has one image, and a fifth is held out for validation: give val as well")
    order = torch.randperm(len(split), generator=generator(folders.SPLIT_SEED, "held-out"))
    count = max(1, round(len(split) / 5))
    parts = (order[count:].sort().values, order[:count].sort().values)
    left, out = (Split(split.images[part], None, split.labels[part]) for part in parts)
    return left, out


def few(split: Split, class_names: Sequence[str], shots: int, seed: int, at_most: bool = False) -> Split:
    """So many images of each class, drawn by the seed: those of 4 shots are among those of 8.

    Args:
        at_most: take what there is of a class that has fewer; otherwise that is a SettingError.
    """
    chosen = []
    for label, name in enumerate(class_names):
        own = (split.labels == label).nonzero()[:, 0]
        if len(own) < shots and not at_most:
            told = f"shots is {shots}, but class {name!r} has {len(own)} images to train on"
            raise SettingError(f"{told}: lower it, or leave it out for all")
        chosen.append(own[torch.randperm(len(own), generator=generator(seed, "shots", label))[:shots]])
    part = torch.cat(chosen).sort().values
    objects = None if split.objects is None else split.objects[part]
    return Split(split.images[part], objects, split.labels[part])
