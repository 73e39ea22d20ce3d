"""What a training did: the metrics of each epoch, and how the masks of a few images form."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load, save
from torch import Tensor

from adavipro.io import write_atomically
from adavipro.method import AdaViPro


def read_history(folder: Path) -> pd.DataFrame:
    """The metrics of a finished run's folder, a row of `training.METRICS` an epoch; those of no meaning are missing."""
    return pd.read_csv(folder / "metrics.csv")


class MaskRecorder:
    """Keeps the decisions for a few images after each epoch: how the masks form. A `watch` of a training.

    Args:
        images: normalised, (b, 3, h, w).
        path: file that holds them, so that a finished or resumed run has them too.
    """

    def __init__(self, images: Tensor, path: Path) -> None:
        self.images, self.path = images, path
        self.decisions = load(path.read_bytes()) if path.exists() else {}

    @torch.no_grad()
    def __call__(self, method: AdaViPro, history: list[dict[str, Any]]) -> None:
        """Record the decisions (b, 1, r, r) of the method as it is."""
        self.decisions[f"{len(history):04d}"] = method(self.images).decisions.cpu().contiguous()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, save(self.decisions))

    def by_epoch(self) -> list[Tensor]:
        """The decisions (b, 1, r, r) after each epoch that was watched, in order."""
        return [self.decisions[epoch] for epoch in sorted(self.decisions)]
