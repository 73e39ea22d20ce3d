"""Train a prompt on a frozen classifier: one step, and one training from start to end."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from adavipro import checkpoints
from adavipro.data import Split, batches
from adavipro.evaluation import evaluate
from adavipro.io import generator
from adavipro.method import AdaViPro
from adavipro.recipe import Recipe, learning_rate_factor, lengths, temperature_at

if TYPE_CHECKING:
    from adavipro.classifier import FrozenClassifier

METRICS = "epoch step loss train_accuracy val_accuracy temperature".split()
METRICS += "share_on mask_diversity logit_gap flips soft".split()  # of the masks
Tensors = dict[str, Tensor]
Watch = Callable[[AdaViPro, list[dict[str, Any]]], None]


class TrainingDiverged(FloatingPointError):
    """The loss or a gradient is not finite; the weights are as before the step."""


class MaskCollapseWarning(UserWarning):
    """All regions are on, or off, or the masks are the same for all images."""


@dataclass
class Progress:
    """Where a training stands after an epoch, as JSON values: what a checkpoint holds beside tensors."""

    epochs: int = 0
    step: int = 0
    best_epoch: int = -1
    best_accuracy: float = -1.0
    mapping: list[int] | None = None  # of labels, where the classifier has one
    best_mapping: list[int] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)  # a row of METRICS an epoch


def build_optimizer(method: AdaViPro, recipe: Recipe) -> torch.optim.SGD:
    """SGD with two learning rates: one for the template, one for the mask generator."""
    parts = [(method.prompt, recipe.prompt_lr, recipe.momentum)]
    if method.masks is not None:
        parts.append((method.masks, recipe.generator_lr, recipe.generator_momentum))
    groups = [
        {"params": list(part.parameters()), "lr": rate, "base_lr": rate, "momentum": momentum}
        for part, rate, momentum in parts
    ]
    return torch.optim.SGD(groups)


def train_step(
    classifier: "FrozenClassifier",
    method: AdaViPro,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    temperature: float,
    noise: torch.Generator,
    place: str,
) -> tuple[float, int]:
    """Prompt, classify, and step once. Returns the mean loss and the number of images that were right.

    Args:
        images: normalised, (b, 3, h, w).
        labels: (b,).
        noise: source of this step's Gumbel noise.
        place: names the step and its images in an error.

    Raises:
        TrainingDiverged: before the optimiser steps, if the loss or a gradient is not finite.
    """
    logits = classifier(method(images, temperature, noise).images)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    checked = {"loss": loss.detach()}
    checked |= {f"gradient of {n}": p.grad for n, p in method.named_parameters() if p.grad is not None}
    facts = [value.isfinite().all() for value in checked.values()]
    facts += [loss.detach(), (logits.argmax(1) == labels).sum()]
    *finite, mean, right = torch.stack([fact.float() for fact in facts]).tolist()  # waits once for the device
    for name, is_finite in zip(checked, finite, strict=True):
        if not is_finite:
            raise TrainingDiverged(f"the {name} is not finite at {place}: lower the learning rates")
    optimizer.step()
    return mean, int(right)


def train(
    classifier: "FrozenClassifier",
    method: AdaViPro,
    train_split: Split,
    val_split: Split,
    recipe: Recipe,
    seed: int = 0,
    folder: Path | None = None,
    identity: dict[str, Any] | None = None,
    resume: bool = False,
    progress_bar: bool = True,
    watch: Watch | None = None,
) -> Progress:
    """Train a method on a frozen classifier; validation picks the epoch, whose weights the method has at the end.

    Returns how it went: steps, a row of METRICS an epoch, and the best epoch. All randomness is keyed by the seed and
    the step, so a training that was killed and resumed ends with the same bits (shown on CPUs).

    Args:
        folder: where a checkpoint is saved after every epoch; None: nowhere.
        identity: what a checkpoint must carry to belong to this training (its settings, class names).
        resume: go on from the newest sound checkpoint in `folder`; an error where there is none.
        watch: called after each epoch, before it is saved, with the method as it is and the metrics so far; so a
            training that was killed and resumed has been watched in every epoch.

    Raises:
        SettingError: if the recipe's warm-up is as long as the training.
        CheckpointError: if a checkpoint to resume from is missing, damaged or another training's.
        TrainingDiverged: if a value is not finite.
    """
    _, total_steps, warmup = lengths(recipe, len(train_split))
    optimizer = build_optimizer(method, recipe)
    best = {k: p.detach().clone() for k, p in method.named_parameters()}
    state = Progress()
    if folder is not None:
        checkpoints.clear(folder, keep_saved=resume)
        state = _load(folder, method, optimizer, best, identity or {}) if resume else state
    classifier.use_mapping(state.mapping)

    with tqdm(total=total_steps, initial=state.step, disable=not progress_bar, unit="step") as bar:
        for epoch in range(state.epochs, recipe.epochs):
            # One pass over the training images, in an order of its own.
            classifier.refresh_mapping(method, train_split, epoch)
            state.mapping = classifier.mapping_index()
            order = torch.randperm(len(train_split), generator=generator(seed, "order", epoch))
            tau = temperature_at(epoch, recipe)
            loss_sum, right_sum = 0.0, 0
            for index, images, labels, _ in batches(train_split, classifier, order.split(recipe.batch_size)):
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * learning_rate_factor(state.step, total_steps, warmup)
                noise = generator(seed, "gumbel", state.step)
                place = f"step {state.step} (epoch {epoch + 1}, images {index.tolist()})"
                loss, right = train_step(classifier, method, optimizer, images, labels, tau, noise, place)
                loss_sum, right_sum = loss_sum + loss * len(index), right_sum + right
                state.step += 1
                bar.update()

            # Validate, pick, log, save.
            shown = evaluate(classifier, method, val_split, temperature=tau)
            values = (
                epoch, state.step, loss_sum / len(train_split), right_sum / len(train_split), shown.accuracy,
                tau, shown.share_on, shown.mask_diversity, shown.logit_gap, shown.flips, shown.soft,
            )  # fmt: skip
            state.epochs = epoch + 1
            state.history.append(dict(zip(METRICS, values, strict=True)))
            if shown.accuracy > state.best_accuracy:
                state.best_epoch, state.best_accuracy = epoch, shown.accuracy
                state.best_mapping = state.mapping
                best = {k: p.detach().clone() for k, p in method.named_parameters()}
            if watch is not None:
                watch(method, state.history)
            if folder is not None:
                _save(folder, method, optimizer, best, state, identity or {})
            told = f"loss {loss_sum / len(train_split):.3f} val {shown.accuracy:.1%} tau {tau:.2f}"
            bar.set_postfix_str(told if shown.share_on is None else f"{told} on {shown.share_on:.0%}")

    classifier.use_mapping(state.best_mapping)
    with torch.no_grad():
        for name, p in method.named_parameters():
            p.copy_(best[name])
    if method.masks is not None:
        _warn_of_collapse(state.history[state.best_epoch])
    return state


def _warn_of_collapse(row: dict[str, Any]) -> None:
    share, told = row["share_on"], f"at epoch {row['epoch'] + 1}, the one that validation picked, "
    if not 0.05 <= share <= 0.95:
        became = "VP" if share > 0.5 else "zero-shot"
        told += f"{100 * share:.1f} % of the regions are on: the method has become {became}"
    elif row["mask_diversity"] < 0.02:
        told += f"masks hardly differ between images (diversity {row['mask_diversity']:.3f})"
    else:
        return
    warnings.warn(f"{told}; see the metrics of each epoch", MaskCollapseWarning, stacklevel=3)


def _save(
    folder: Path,
    method: AdaViPro,
    optimizer: torch.optim.SGD,
    best: Tensors,
    state: Progress,
    identity: dict[str, Any],
) -> None:
    """Save weights, momentum, the best weights so far, and the progress, as one checkpoint."""
    tensors: Tensors = {}
    for name, p in method.named_parameters():
        tensors |= {f"now.{name}": p, f"best.{name}": best[name]}
        momentum = optimizer.state[p].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    settings = {"identity": identity, "progress": asdict(state)}
    checkpoints.save_checkpoint(folder, state.step, tensors, settings)


def _load(
    folder: Path, method: AdaViPro, optimizer: torch.optim.SGD, best: Tensors, identity: dict[str, Any]
) -> Progress:
    """Load the newest sound checkpoint into method, optimiser and best weights. Returns the progress.

    Raises:
        CheckpointError: if there is none, or it is another training's; the message lists every difference, and
            nothing has been loaded.
    """
    tensors, settings = checkpoints.load_newest(folder)
    differ = checkpoints.settings_that_differ(settings.get("identity", {}), identity)
    parameters = dict(method.named_parameters())
    moving = {p for group in optimizer.param_groups if group["momentum"] for p in group["params"]}
    wanted = {f"{kind}.{name}": p for kind in ("now", "best") for name, p in parameters.items()}
    wanted |= {f"momentum.{name}": p for name, p in parameters.items() if p in moving}
    differ += checkpoints.tensors_that_differ(tensors, wanted)
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
    state = Progress(**settings["progress"])
    # A checkpoint's JSON sorts its keys; metrics keep the order of their columns.
    state.history = [{name: row.get(name) for name in METRICS} for row in state.history]
    return state
