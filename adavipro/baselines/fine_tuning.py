"""Full fine-tuning: every weight of the network moves, on a copy of it; our recipe, for the paper gives none."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from adavipro import checkpoints
from adavipro.baselines import FILE, Learned
from adavipro.classifier import FrozenClassifier
from adavipro.data import Split, batches
from adavipro.evaluation import evaluate
from adavipro.io import generator
from adavipro.recipe import Recipe, SettingError, Settings, learning_rate_factor, lengths, setting
from adavipro.training import TrainingDiverged


@dataclass(frozen=True)
class FineTuning(Settings):
    """How to fine-tune the whole image tower, with AdamW; the paper does not say how it does."""

    learning_rate: float = setting(3e-3, "AdamW's, of fine-tuning", above=0)
    weight_decay: float = setting(0.01, "AdamW's, of fine-tuning", low=0)


def fine_tune(
    frozen: FrozenClassifier, train: Split, val: Split, recipe: Recipe, tuning: FineTuning, seed: int = 0
) -> Learned:
    """Train every weight of a copy of the network; class embeddings and scale are kept, `frozen` is not touched.

    It learns the network's weights, and the index of a label mapping where there is one. Of the recipe, epochs, batch
    size and warm-up count; then the rate follows a cosine to 0.

    Raises:
        TrainingDiverged: before the optimiser steps, if the loss or a gradient is not finite.
    """
    classifier = copy.deepcopy(frozen)
    parameters = list(classifier.network.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=tuning.learning_rate, weight_decay=tuning.weight_decay)
    epoch_steps, total_steps, warmup = lengths(recipe, len(train))
    classifier.refresh_mapping(None, train, 0)

    def accuracy(split: Split) -> float:
        return evaluate(classifier, None, split).accuracy

    best_epoch, best_accuracy, best = -1, -1.0, {}
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(train), generator=generator(seed, "order", epoch))
        given = batches(train, classifier, order.split(recipe.batch_size))
        for step, (index, images, labels, _) in enumerate(given, start=epoch * epoch_steps):
            for group in optimizer.param_groups:
                group["lr"] = tuning.learning_rate * learning_rate_factor(step, total_steps, warmup)
            loss = F.cross_entropy(classifier(images), labels)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if not (loss.isfinite() and norm.isfinite()):
                told = f"is not finite at step {step} (epoch {epoch + 1}, images {index.tolist()})"
                way_out = f"lower learning_rate, which is {tuning.learning_rate}"
                raise TrainingDiverged(f"the loss or a gradient {told}: {way_out}")
            optimizer.step()
        if (reached := accuracy(val)) > best_accuracy:
            best_epoch, best_accuracy = epoch, reached
            best = copy.deepcopy(classifier.network.state_dict())
    classifier.network.load_state_dict(best)
    names = {name for name, _ in classifier.named_parameters()} | {"index"}
    learned = {name: value for name, value in classifier.state_dict().items() if name in names}
    picked = f"learning_rate={tuning.learning_rate:g}"
    return Learned(learned, accuracy, best_accuracy, picked, best_epoch)


def restore(folder: Path, frozen: FrozenClassifier) -> FrozenClassifier:
    """A copy of the frozen classifier with the weights that validation picked in a finished fine-tuning.

    A SettingError where the folder holds none, a CheckpointError where its file is damaged.
    """
    if not (folder / FILE).exists():
        raise SettingError(f"there is no finished fine-tuning in {folder}: run it first")
    tensors, manifest = checkpoints.read_sealed(folder / FILE)
    if manifest != {"kind": "fine-tune"}:
        raise SettingError(f"the run in {folder} is no fine-tuning, but: {manifest}")
    classifier = copy.deepcopy(frozen)
    classifier.load_state_dict(tensors, strict=False)  # the rest is as it was
    return classifier
