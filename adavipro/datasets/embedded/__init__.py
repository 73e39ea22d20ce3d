"""The small world: four data sets that are drawn, with their true objects, for the small CLIP of 56 px."""

import contextlib
import copy
import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from adavipro.data import Split, sha256
from adavipro.datasets.embedded import drawing, scenes
from adavipro.datasets.embedded.vocabulary import DIGITS, LETTERS, SYMBOLS, TEXTURES
from adavipro.io import cache_folder, data_folder, generator, write_atomically
from adavipro.recipe import SettingError

SIZES = {"train": 2000, "val": 600, "test": 1000}
DIGITS_SIZES = SIZES | {"val": 594}  # whatever the others have: each scan is used
IMAGE_PX = drawing.IMAGE_PX
VERSION = 1  # of what is drawn: raise it when a picture changes, so that no old run passes for a new one
SEED = 2403  # the data sets are the same for everyone
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


class OtherPicturesWarning(UserWarning):
    """A drawn data set is not the one that the shipped results are on: other fonts, or another Pillow or torch."""


class Drawn:
    """A drawn data set, as every `datasets.Source`."""

    split: str | None = None
    version = VERSION

    def __init__(self, name: str) -> None:
        self.name = name
        self.class_names = CLASS_NAMES[name]
        self.counts: Mapping[str, int] = DIGITS_SIZES if name == "digits" else SIZES

    def load(self, split: str, image_px: int = IMAGE_PX) -> Split:
        """Draw one split, or copy it from memory."""
        if image_px != IMAGE_PX:
            told = f"but data set {self.name!r} has images of {IMAGE_PX} px"
            raise SettingError(f"the model takes images of {image_px} px, {told}")
        return copy.deepcopy(draw_split(self.name, split))


@functools.lru_cache(maxsize=16)
def draw_split(name: str, split: str) -> Split:
    """Draw one split, "train", "val" or "test", or read what was drawn. Do not write into it.

    digits: scans of real handwriting set into scenes, 1,000 / 297 / 500 scans in two scenes each, no scan in two
    splits. letters, sketches, textures: drawn, 2,000 / 600 / 1,000 pictures.
    """
    expected = drawn_sha256().get(f"{name}-{split}")
    if (kept := _kept(name, split, expected)) is not None:
        return kept
    g = generator(SEED, f"{name}-{split}")
    if name == "digits":
        stored = load_file(data_folder() / "handwritten_digits.safetensors")
        order = torch.randperm(len(stored["labels"]), generator=generator(SEED, "digits-scans"))
        parts = dict(zip(SIZES, order.split([1000, 297, 500]), strict=True))
        scans = parts[split].repeat(2)
        labels = stored["labels"][scans].long()
        drawn = Split(*scenes.handwritten_digits(stored["images"][scans], g), labels)
    else:
        labels = torch.randint(len(CLASS_NAMES[name]), (SIZES[split],), generator=g)
        drawn = Split(*_DRAW[name](labels, g), labels)
    if sha256(drawn) == expected:
        with contextlib.suppress(OSError):  # without a folder for it it is drawn each time
            (file := _file(name, split)).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, save({k: v for k, v in vars(drawn).items() if v is not None}))
    elif expected is not None:
        told = f"{name}, {split}, is drawn here with other pictures than the shipped results are on"
        why = "fonts, Pillow or torch differ, and so may results, a little"
        warnings.warn(f"{told}: {why}", OtherPicturesWarning, stacklevel=2)
    return drawn


def _file(name: str, split: str) -> Path:
    return cache_folder() / "drawn" / f"{name}-{split}.safetensors"


def _kept(name: str, split: str, expected: str | None) -> Split | None:
    """A split from its file; None where that is not there, of another size, or not what was expected."""
    with contextlib.suppress(OSError, SafetensorError, TypeError, ValueError):
        parts: dict[str, Any] = {"objects": None} | load_file(_file(name, split))
        kept = Split(**parts)
        return kept if len(kept) == Drawn(name).counts[split] and sha256(kept) == expected else None
    return None


@functools.cache
def drawn_sha256() -> dict[str, str]:
    """The hash of each split as it was drawn for the shipped results, by <data set>-<split>."""
    lines = (data_folder() / "drawn_splits.csv").read_text().splitlines()[1:]
    return dict(line.split(",") for line in lines)
