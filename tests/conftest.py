"""What the tests share: one thread, a source of randomness, a batch of images, and the small CLIP."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adavipro import models
from adavipro.classifier import FrozenClassifier
from adavipro.io import data_folder
from adavipro.models import Network

CLASS_NAMES = ["digit zero", "digit one", "letter a", "star", "striped texture"]


LONGEST = [
    "test_notebooks_results",
    "test_notebooks_method",
    "test_sweep_faults",
    "test_sweeps",
    "test_series",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker waits for the other at the end."""
    names = [*LONGEST, *(item.path.stem for item in items)]
    items.sort(key=lambda item: names.index(item.path.stem))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs that one notebook leaves to the next, of all workers."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "notebook-runs"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The number of threads changes the last bits of a convolution; exact tests need one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept between runs goes to a folder of the tests, in the processes that they start too."""
    os.environ["ADAVIPRO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("ADAVIPRO_DATA", None)


@pytest.fixture
def rng() -> torch.Generator:
    """A fresh source of random numbers, the same for every test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def images(rng: torch.Generator) -> Tensor:
    """Four normalised images (4, 3, 56, 56)."""
    return torch.randn(4, 3, 56, 56, generator=rng)


@pytest.fixture(scope="session")
def small_clip_folder() -> Path:
    """The folder of the CLIP that ships with the project."""
    return data_folder() / "small_clip"


@pytest.fixture(scope="session")
def clip() -> FrozenClassifier:
    """The small CLIP with five classes. It is shared: a test that wants to change it loads its own."""
    return models.load(Network(), CLASS_NAMES)
