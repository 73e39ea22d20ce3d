"""What prompts stand beside: other answers to "where", a linear probe, and full fine-tuning."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from adavipro.data import Split

FILE = "baseline.safetensors"  # in a run's folder: what a probe or a fine-tuning learned


class Learned(NamedTuple):
    """What validation picked of a probe or a fine-tuning; `accuracy` is the share of a split that it has right."""

    tensors: dict[str, Tensor]
    accuracy: Callable[[Split], float]
    val_accuracy: float
    picked: str
    best_epoch: int | None = None  # a probe is found in one go
