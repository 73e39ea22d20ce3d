"""Where a training stands, and how it goes on after it was killed."""

import csv
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from adavipro import checkpoints
from adavipro.files import write_atomically
from adavipro.method import AdaViPro

METRICS = "epoch step loss train_accuracy val_accuracy temperature share_on mask_diversity".split()


@dataclass
class Progress:
    """Where a training stands, as JSON values: what a checkpoint holds beside tensors."""

    step: int = 0
    best_epoch: int = -1
    best_accuracy: float = -1.0
    loss_sum: float = 0.0  # over the images of the current epoch
    right_sum: int = 0
    mapping: list[int] | None = None  # of labels, where the classifier has one
    best_mapping: list[int] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)  # a row of METRICS an epoch

    def __post_init__(self) -> None:
        # A checkpoint's JSON sorts its keys; metrics keep the order of their columns.
        self.history = [{name: row[name] for name in METRICS} for row in self.history]


def save_progress(
    folder: Path,
    method: AdaViPro,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    state: Progress,
    identity: dict[str, Any],
) -> None:
    """Save weights, momentum, the best weights so far, and the progress, as one checkpoint."""
    tensors: dict[str, Tensor] = {}
    for name, p in method.named_parameters():
        tensors[f"now.{name}"] = p
        tensors[f"best.{name}"] = best[name]
        momentum = optimizer.state[p].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    settings = {"identity": identity, "progress": asdict(state)}
    checkpoints.save_checkpoint(folder, state.step, tensors, settings)


def load_progress(
    folder: Path,
    method: AdaViPro,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    identity: dict[str, Any],
) -> Progress:
    """Load the newest sound checkpoint into method, optimiser and best weights. Returns the progress.

    Raises:
        CheckpointError: if there is none, or it is another run's; the message lists every difference, and nothing has
            been loaded.
    """
    tensors, settings = checkpoints.load_newest(folder)
    stored = settings["identity"]
    differ = checkpoints.settings_that_differ(stored, identity)
    parameters = dict(method.named_parameters())
    moving = {p for group in optimizer.param_groups if group["momentum"] for p in group["params"]}
    wanted = {
        f"{prefix}.{name}": p
        for prefix in ("now", "best", "momentum")
        for name, p in parameters.items()
        if prefix != "momentum" or p in moving
    }
    differ += checkpoints.tensors_that_differ(tensors, wanted, [f"momentum.{name}" for name in parameters])
    if differ:
        raise checkpoints.CheckpointError(
            f"the checkpoint in {folder} belongs to another run: {'; '.join(differ)}"
        )
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[f"now.{name}"])
            best[name].copy_(tensors[f"best.{name}"])
            if f"momentum.{name}" in tensors:
                optimizer.state[p]["momentum_buffer"] = tensors[f"momentum.{name}"].to(p.device).clone()
    return Progress(**settings["progress"])


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a finished run's folder, a row of METRICS an epoch, as numbers."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    whole = ("epoch", "step")
    return [{k: int(v) if k in whole else float(v) if v else None for k, v in row.items()} for row in rows]


class MaskRecorder:
    """Keeps the decisions for a few images after each epoch: how the masks form. A `watch` of `fit`.

    Args:
        images: normalised, (b, 3, h, w).
        path: file that holds them, so that a finished or resumed run has them too.
    """

    def __init__(self, images: Tensor, path: Path) -> None:
        self.images, self.path = images, path
        self.decisions = load(path.read_bytes()) if path.exists() else {}

    def __call__(self, method: AdaViPro, history: list[dict[str, Any]]) -> None:
        """Record the decisions (b, 1, r, r) of the method as it is."""
        with torch.no_grad():
            self.decisions[f"{len(history):04d}"] = method(self.images).decisions.cpu().contiguous()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, save(self.decisions))

    def by_epoch(self) -> list[Tensor]:
        """The decisions (b, 1, r, r) after each epoch that was watched, in order."""
        return [self.decisions[epoch] for epoch in sorted(self.decisions)]
