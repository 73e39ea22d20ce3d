"""Full fine-tuning: every weight of the network moves, on a copy of it; our recipe, for the paper gives none."""

import copy
import json
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro import checkpoints, datasets, models
from adavipro.classifier import FrozenClassifier
from adavipro.data import Split
from adavipro.evaluation import evaluate
from adavipro.experiment import BASELINE, RESULT, Experiment, FineTuning
from adavipro.io import generator
from adavipro.recipe import Recipe, SettingError, learning_rate_factor, steps_an_epoch, warmup_length
from adavipro.training import TrainingDiverged


class Tuned(NamedTuple):
    """A fine-tuned classifier with the weights of the epoch that validation picked."""

    classifier: FrozenClassifier
    best_epoch: int
    val_accuracy: float
    picked: str

    def tensors(self) -> dict[str, Tensor]:
        """What was learned: the network's weights, and the index of a label mapping where there is one."""
        learned = {name for name, _ in self.classifier.named_parameters()} | {"index"}
        return {name: value for name, value in self.classifier.state_dict().items() if name in learned}

    def accuracy(self, _frozen: FrozenClassifier, split: Split) -> float:
        """Share of a split's images that it classifies right."""
        return evaluate(self.classifier, None, split).accuracy


def fine_tune(
    frozen: FrozenClassifier, train: Split, val: Split, recipe: Recipe, tuning: FineTuning, seed: int = 0
) -> Tuned:
    """Train every weight of a copy of the network; class embeddings and scale are kept, `frozen` is not touched.

    Args:
        recipe: its epochs, batch size and warm-up count; then the rate follows a cosine to 0.
        tuning: learning rate and weight decay of AdamW.
        seed: of the batch order.

    Raises:
        TrainingDiverged: before the optimiser steps, if the loss or a gradient is not finite.
    """
    classifier = copy.deepcopy(frozen)
    parameters = list(classifier.network.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=tuning.learning_rate, weight_decay=tuning.weight_decay)
    device = classifier.mean.device
    epoch_steps = steps_an_epoch(recipe, len(train))
    total_steps = recipe.epochs * epoch_steps
    warmup = warmup_length(recipe, total_steps)
    classifier.refresh_mapping(None, train, 0)
    best_epoch, best_accuracy, best = -1, -1.0, {}
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(train), generator=generator(seed, "order", epoch))
        for step, index in enumerate(order.split(recipe.batch_size), start=epoch * epoch_steps):
            for group in optimizer.param_groups:
                group["lr"] = tuning.learning_rate * learning_rate_factor(step, total_steps, warmup)
            scores = classifier(classifier.normalise(train.images[index].to(device)))
            loss = F.cross_entropy(scores, train.labels[index].to(device))
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if not (loss.isfinite() and norm.isfinite()):
                raise TrainingDiverged(
                    f"the loss or a gradient is not finite at step {step} (epoch {epoch}, images {index.tolist()}): "
                    f"lower learning_rate, which is {tuning.learning_rate}"
                )
            optimizer.step()
        accuracy = evaluate(classifier, None, val).accuracy
        if accuracy > best_accuracy:
            best_epoch, best_accuracy = epoch, accuracy
            best = copy.deepcopy(classifier.network.state_dict())
    classifier.network.load_state_dict(best)
    picked = f"learning_rate={tuning.learning_rate:g}"
    return Tuned(classifier.requires_grad_(False), best_epoch, best_accuracy, picked)


def restore(experiment: Experiment, folder: Path, device: str = "cpu") -> FrozenClassifier:
    """Load the classifier of a finished fine-tuning from its run folder, with the weights that validation picked.

    Raises:
        SettingError: if there is none of this experiment.
        CheckpointError: if its file is damaged.
    """
    done = json.loads((folder / RESULT).read_text()) if (folder / RESULT).exists() else {}
    if experiment.method != "fine-tune" or done.get("key") != experiment.key():
        raise SettingError(f"there is no finished fine-tuning of this experiment in {folder}: run it first")
    tensors, _ = checkpoints.read_sealed(folder / BASELINE)
    classifier = models.load(experiment.network, datasets.find(experiment.dataset).class_names, device)
    classifier.load_state_dict(tensors, strict=False)  # the rest is as it was
    return classifier
