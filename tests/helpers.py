"""What several test files share, and what they run in processes of their own (a process imports it by name)."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import numpy as np
import torch
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from adavipro import experiment, training
from adavipro.data import Split
from adavipro.datasets import embedded
from adavipro.experiment import Experiment

SMALL = {"train": 48, "val": 24, "test": 24}


@contextmanager
def small_splits() -> Iterator[None]:
    """The drawn data sets with a few dozen pictures, while it lasts."""
    with mock.patch.dict(embedded.SIZES, SMALL), mock.patch.object(embedded, "drawn_sha256", dict):
        embedded.draw_split.cache_clear()
        yield
    embedded.draw_split.cache_clear()


def tiny(method: str = "adavipro", **changes: Any) -> Experiment:
    """An experiment of less than a second: three epochs of three steps."""
    size = {"dataset": "letters", "epochs": 3, "batch_size": 16, "generator_width": 8}
    return experiment.preset("embedded", method, **(size | changes))


def noisy_split(n: int, seed: int, classes: int = 5) -> Split:
    """Random pictures with random objects and labels."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, 3, 56, 56), generator=g, dtype=torch.uint8)
    objects = torch.randint(256, (n, 1, 56, 56), generator=g, dtype=torch.uint8)
    return Split(images, objects, torch.randint(classes, (n,), generator=g))


def draw_image(file: Path, number: int) -> None:
    """Write an image file of 70 x 60 px; each number has its own picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    Image.fromarray(values).save(file)


def draw_splits(path: Path, names: tuple[str, str] = ("cat", "dog")) -> Path:
    """Write five images of each of two classes in train, val and test; the small CLIP knows ("star", "moon")."""
    for i, split in enumerate(("train", "val", "test")):
        for j, name in enumerate(names):
            for k in range(5):
                draw_image(path / split / name / f"{k}.png", 100 * i + 10 * j + k)
    return path


def run_and_count(run: Experiment, root: Path, log: Path, die_before: str | None = None) -> None:
    """Run an experiment on small splits, in one thread; every step adds a byte to the log as it starts.

    Args:
        die_before: name of a file; the process kills itself when the file is written but not yet in its place.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits an ignored one
    step, replace = training.train_step, os.replace

    def counted(*args: Any) -> tuple[float, int]:
        with log.open("a") as file:
            file.write(".")
        return step(*args)

    def dying(source: Path, target: Path) -> None:
        if target.name == die_before:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    with (
        small_splits(),
        mock.patch.object(training, "train_step", counted),
        mock.patch.object(os, "replace", dying),
    ):
        experiment.run(run, root, progress_bar=False)


def write_notebook(path: Path, parameters: str, *cells: str) -> Path:
    """Write a small notebook with a parameters cell and code cells."""
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[first, *map(new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path
