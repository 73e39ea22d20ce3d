"""A split: images, labels, and the true objects where they are known; in memory or mapped into it."""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adavipro.recipe import SettingError


@dataclass(frozen=True)
class Split:
    """Images of one split.

    images: (n, 3, h, w), uint8 or floats in [0, 1]. objects: uint8 (n, 1, h, w), how much of each pixel is object (255
    is all of it); None where that is not known. labels: int64 (n,).
    """

    images: Tensor
    objects: Tensor | None
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def batches(split: Split, size: int) -> Iterator[slice]:
    """Cut a split into slices of at most `size` images, in order."""
    return (slice(i, i + size) for i in range(0, len(split), size))


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
