"""Data sets at 224 px that need no connection: photographs of solar cells, and scanned digits, enlarged.

solar-cells: the package elpv-dataset (Deitsch et al., Solar Energy 185, 2019; CC BY-NC-SA 4.0), 2,624 photographs of
300 x 300 px in electroluminescence, each with the probability that its cell is defective. It is 0 or 1; the two grades
between, 401 cells, are left out.
handwritten-digits: the 1,797 scans of 8 x 8 px behind `digits` of the small world.

Both are dealt out by `folders.SPLIT_SEED`, 36 % of each class (and kind of cell) to train, 14 % to val, 50 % to test.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from adavipro.data import Split
from adavipro.datasets.embedded.vocabulary import DIGITS
from adavipro.datasets.folders import deal
from adavipro.datasets.images import PLAIN_VERSION, decode_all, kept
from adavipro.io import data_folder, file_sha256
from adavipro.models.lite0 import packaged

PACKAGE = "elpv-dataset"
SHARES = {"train": 0.36, "val": 0.14, "test": 0.5}  # so that a training of three epochs takes a minute


class Picture(NamedTuple):
    """A grey picture: a file's path or a scan, its label, the sha256 of its content, and the group it is dealt with."""

    source: Any
    label: int
    sha256: str
    group: str


class Dealt:
    """Grey pictures, dealt out within each group, as every `datasets.Source`."""

    split: str | None = "dealt 36/14/50"

    def __init__(self, name: str, class_names: Sequence[str], pictures: Sequence[Picture]) -> None:
        self.name, self.class_names = name, tuple(class_names)
        self.rows: dict[str, list[Picture]] = {part: [] for part in SHARES}
        for group in dict.fromkeys(picture.group for picture in pictures):
            own = [picture for picture in pictures if picture.group == group]
            for part, dealt in deal(own, f"{name}-{group}", SHARES).items():
                self.rows[part] += dealt
        self.counts: Mapping[str, int] = {part: len(own) for part, own in self.rows.items()}

    @functools.cached_property
    def version(self) -> str:
        """sha256 of names, labels, and pictures' content, split by split."""
        lines = [f"{part} {p.label} {p.sha256}" for part, own in self.rows.items() for p in own]
        return hashlib.sha256("\n".join([str(PLAIN_VERSION), *self.class_names, *lines]).encode()).hexdigest()

    def load(self, split: str, image_px: int) -> Split:
        """Map a split's images, decoded once, into memory; the three colours of a pixel are one byte."""
        rows, stem = self.rows[split], f"{split}-{image_px}px-{self.version[:12]}"
        sources = {p.source if isinstance(p.source, Path) else i: p.source for i, p in enumerate(rows)}

        def decoded() -> Iterator[Any]:
            for image in decode_all(sources, image_px, f"images of {self.name!r}", plain=True):
                yield image[:1].numpy()

        images = kept(self.name, stem, (len(rows), 1, image_px, image_px), decoded)
        return Split(images.expand(-1, 3, -1, -1), None, torch.tensor([p.label for p in rows]))


def solar_cells() -> Dealt:
    """Find the photographs of solar cells; a SettingError where their package is not installed."""
    folder = packaged(PACKAGE, "data set 'solar-cells'") / "data"
    pictures = []
    for line in (folder / "labels.csv").read_text().splitlines():
        path, probability, kind = line.split()
        if float(probability) in (0, 1):
            label = int(float(probability))
            pictures.append(Picture(folder / path, label, file_sha256(folder / path), f"{label}-{kind}"))
    return Dealt("solar-cells", ("intact", "defective"), pictures)


def handwritten_digits() -> Dealt:
    """Find the scans of handwritten digits, which ship with the project."""
    stored = load_file(data_folder() / "handwritten_digits.safetensors")
    scans = (stored["images"].float() * (255 / 16)).round().to(torch.uint8).numpy()
    pictures = [
        Picture(scan, label, hashlib.sha256(scan.tobytes()).hexdigest(), DIGITS[label])
        for scan, label in zip(scans, stored["labels"].tolist(), strict=True)
    ]
    return Dealt("handwritten-digits", DIGITS, pictures)


FIND: dict[str, Callable[[], Dealt]] = {"solar-cells": solar_cells, "handwritten-digits": handwritten_digits}
