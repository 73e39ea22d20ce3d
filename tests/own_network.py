"""A small network of one's own with data that it half knows, and a fit that a test can cut off in another process."""

import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from adavipro import prompted, training

SIDE, CLASSES = 32, 3
STEPS_AN_EPOCH, EPOCHS = 5, 8
PRELOADED = [
    "adavipro.experiment",
    "nbformat",
    "open_clip",
    "torch._dynamo",
]  # by a fork server, for tests' processes


def network(seed: int = 0) -> nn.Module:
    """A convolutional network with statistics and chance, in training mode, as after a training."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(3),
            nn.Flatten(), nn.Linear(72, CLASSES),
        )  # fmt: skip
        made(torch.rand(64, 3, SIDE, SIDE))  # moves the statistics
    return made


def pictures(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], (n, 3, h, w), with a bar that tells the label."""
    g = torch.Generator().manual_seed(seed)
    images, labels = torch.rand(n, 3, SIDE, SIDE, generator=g) / 2, torch.randint(CLASSES, (n,), generator=g)
    for image, label in zip(images, labels, strict=True):
        image[int(label), 8:20, 12:16] += 0.5
    return images, labels


def dataset(n: int, seed: int) -> TensorDataset:
    """`pictures` as a data set of torch's."""
    return TensorDataset(*pictures(n, seed))


def fit(folder: Path | None, **settings: Any) -> prompted.PromptedClassifier:
    """Fit a prompt to the network: 8 epochs of 5 steps."""
    settings = {"epochs": EPOCHS, "batch_size": 8, "generator_width": 4, "progress_bar": False, **settings}
    return prompted.fit(network(), dataset(40, 1), dataset(20, 2), folder=folder, **settings)


def fit_and_count(folder: Path, log: Path, file: Path) -> None:
    """Fit in one thread and save; every step adds a byte to the log as it starts."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits an ignored one
    step = training.train_step

    def counted(*args: Any) -> tuple[float, int]:
        with log.open("a") as opened:
            opened.write(".")
        time.sleep(0.005)  # for whoever waits for this step
        return step(*args)

    training.train_step = counted
    fit(folder).save(file)
