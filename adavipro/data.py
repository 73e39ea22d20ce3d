"""A split: images, labels, and the true objects where they are known; in memory or mapped into it, batch by batch."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from adavipro.classifier import FrozenClassifier

# Where the order does not matter: images at a time, and on a CPU no more bytes of them.
EVALUATION_BATCH, CPU_BYTES = 250, 20_000_000


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


def sha256(split: Split) -> str:
    """Hash of a split's images, labels and objects."""
    content = hashlib.sha256()
    for tensor in (split.images, split.labels, split.objects):
        content.update(b"" if tensor is None else tensor.contiguous().numpy().data)
    return content.hexdigest()


class Batch(NamedTuple):
    """A part of a split on a classifier's device: which images, normalised images (b, 3, h, w), labels, objects."""

    part: Any
    images: Tensor
    labels: Tensor
    objects: Tensor | None


def batches(
    split: Split,
    classifier: "FrozenClassifier",
    parts: Sequence[Any] | None = None,
    ahead: bool | None = None,
) -> Iterator[Batch]:
    """Give a split batch by batch, normalised. A GPU gets bytes from pinned memory, and nothing waits for them.

    Args:
        parts: the images of each batch, as indices (b,) or a slice; None: all images in order.
        ahead: whether a thread reads the next batch while the caller works on this one; None: where a GPU works, for a
            CPU has its cores in use.

    Raises:
        ValueError: if a pixel lies outside [0, 1].
    """
    device = classifier.mean.device
    if parts is None:
        room = CPU_BYTES // (4 * split.images[0].numel()) if device.type == "cpu" else EVALUATION_BATCH
        size = min(EVALUATION_BATCH, max(1, room))
        parts = [slice(i, i + size) for i in range(0, len(split), size)]

    def read(part: Any) -> list[Any]:
        given: list[Any] = [
            None if t is None else t[part] for t in (split.images, split.labels, split.objects)
        ]
        check_pixels(given[0])
        return [None if t is None else sent(t, device) for t in given]

    with ThreadPoolExecutor(1) as reader:
        early = device.type != "cpu" if ahead is None else ahead
        coming = [reader.submit(read, part) for part in parts[:1] if early]
        for i, part in enumerate(parts):
            images, labels, objects = coming.pop().result() if early else read(part)
            coming = [reader.submit(read, following) for following in parts[i + 1 : i + 2] if early]
            yield Batch(part, classifier.normalise(images, checked=True), labels, objects)


def check_pixels(images: Tensor) -> None:
    """Raise a ValueError where images are neither bytes nor floats in [0, 1]."""
    if images.dtype != torch.uint8 and not (images.amin() >= 0 and images.amax() <= 1):  # NaN included
        low, high = images.amin().item(), images.amax().item()
        raise ValueError(f"pixels lie from {low} to {high}, expected floats in [0, 1] or uint8")


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device. What goes from the CPU to a GPU goes from pinned memory, and nothing waits for it."""
    if device.type == "cuda" and not values.is_cuda:
        return values.contiguous().pin_memory().to(device, non_blocking=True)
    return values.to(device)
