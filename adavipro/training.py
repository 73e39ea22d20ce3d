"""Train a prompt on a frozen classifier: one step, one fit."""

import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from adavipro import checkpoints
from adavipro.classifiers import FrozenClassifier
from adavipro.datasets import Split
from adavipro.evaluation import evaluate
from adavipro.method import AdaViPro
from adavipro.parallel import ALONE, Rows, Team
from adavipro.progress import Progress, load_progress, save_progress
from adavipro.schedules import Recipe, learning_rate_factor, steps_an_epoch, temperature_at, warmup_length
from adavipro.seeds import generator
from adavipro.signals import StopRequest

Watch = Callable[[AdaViPro, list[dict[str, Any]]], None]


class TrainingDiverged(FloatingPointError):
    """The loss or a gradient is not finite; the weights are as before the step."""


class MaskCollapseWarning(UserWarning):
    """All regions are on, or off, or the masks are the same for all images."""


def build_optimizer(method: AdaViPro, recipe: Recipe, generator_momentum: float) -> torch.optim.SGD:
    """SGD with two learning rates: one for the template, one for the mask generator."""
    groups: list[dict[str, Any]] = [
        {"params": list(method.prompt.parameters()), "lr": recipe.prompt_lr, "momentum": recipe.momentum}
    ]
    if method.masks is not None:
        groups.append(
            {
                "params": list(method.masks.parameters()),
                "lr": recipe.generator_lr,
                "momentum": generator_momentum,
            }
        )
    for group in groups:
        group["base_lr"] = group["lr"]
    return torch.optim.SGD(groups)


def train_step(
    classifier: FrozenClassifier,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    temperature: float,
    noise: torch.Generator,
    where: str,
    rows: Rows | None = None,
) -> tuple[float, int]:
    """Prompt, classify, and step once. Returns the mean loss and the number of images that were right.

    Args:
        images: normalised, (b, 3, h, w).
        labels: (b,).
        noise: source of this step's Gumbel noise.
        where: names the step and its images in the error.
        rows: which rows of a batch that several processes share these images are.

    Raises:
        TrainingDiverged: before the optimiser steps, if the loss or a gradient is not finite.
    """
    logits = classifier(method(images, temperature, noise, rows=rows).images)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    (loss * (1.0 if rows is None else rows.weight)).backward()
    finite = {"loss": loss.detach()}
    finite |= {f"gradient of {n}": p.grad for n, p in method.named_parameters() if p.grad is not None}
    for name, value in finite.items():
        if not value.isfinite().all():
            raise TrainingDiverged(f"the {name} is not finite at {where}: lower the learning rates")
    optimizer.step()
    return loss.item(), int((logits.argmax(1) == labels).sum())


def fit(
    classifier: FrozenClassifier,
    method: AdaViPro,
    train: Split,
    val: Split,
    recipe: Recipe,
    seed: int,
    folder: Path,
    identity: dict[str, Any],
    resume: bool = False,
    generator_momentum: float = 0.9,
    progress_bar: bool = True,
    watch: Watch | None = None,
    team: Team = ALONE,
) -> Progress:
    """Train a method on a frozen classifier; validation picks the epoch, whose weights the method has at the end.

    All randomness is keyed by the seed and the step, so a run that was killed and resumed ends with the same bits.
    A checkpoint is written after every epoch, and when SIGINT or SIGTERM asks to stop, after the step.

    Args:
        folder: where checkpoints go.
        identity: what a checkpoint must carry to belong to this run (its settings' hash, class names).
        resume: go on from the newest sound checkpoint in `folder`; an error where there is none.
        watch: called after each epoch, before it is saved, with the method as it is and the metrics so far; so a run
            that was killed and resumed has been watched in every epoch.
        team: processes that share each batch; all of them end with the same weights, the first one writes.

    Raises:
        CheckpointError: if a checkpoint to resume from is missing, damaged or another run's.
        TrainingDiverged: if a value is not finite.
    """
    # Schedule.
    epoch_steps = steps_an_epoch(recipe, len(train))
    total_steps = recipe.epochs * epoch_steps
    warmup = warmup_length(recipe, total_steps)
    optimizer = build_optimizer(method, recipe, generator_momentum)
    best = {k: p.detach().clone() for k, p in method.named_parameters()}
    first, device = team.rank == 0, classifier.mean.device
    if first:
        (checkpoints.sweep_partial_files if resume else checkpoints.remove_checkpoints)(folder)
    team.all(None)
    state = load_progress(folder, method, optimizer, best, identity) if resume else Progress()
    classifier.use_mapping(state.mapping)
    prompted = team.wrap(method)
    order = torch.empty(0, dtype=torch.long)
    bar = tqdm(total=total_steps, initial=state.step, disable=not progress_bar, unit="step")
    with bar, StopRequest() as stop:
        while state.step < total_steps:
            # Which images, how fast, how hot.
            epoch, within = divmod(state.step, epoch_steps)
            if within == 0 or len(order) == 0:
                order = torch.randperm(len(train), generator=generator(seed, "order", epoch))
            if within == 0:
                classifier.refresh_mapping(method, train, epoch, team)
                state.mapping = classifier.mapping_index()
            index = order[within * recipe.batch_size : (within + 1) * recipe.batch_size]
            temperature = temperature_at(epoch, recipe)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * learning_rate_factor(state.step, total_steps, warmup)

            # Forward, backward, guard, step.
            rows = team.rows(len(index))
            mine = index[rows.part]
            images = classifier.normalise(train.images[mine].to(device))
            labels = train.labels[mine].to(device)
            noise = generator(seed, "gumbel", state.step)
            where = f"step {state.step} (epoch {epoch}, images {mine.tolist()})"
            step = (images, labels, temperature, noise, where, rows if team.size > 1 else None)
            loss, right = train_step(classifier, prompted, optimizer, *step)
            loss, all_right = team.sum(
                loss * rows.weight / team.size, right * (rows.weight > 0), device=device
            )
            state.step += 1
            state.loss_sum += loss * len(index)
            state.right_sum += int(all_right)
            bar.update()

            # At the end of an epoch: evaluate, pick, log, save.
            if state.step % epoch_steps == 0:
                shown = evaluate(classifier, method, val, team=team)
                row = {
                    "epoch": epoch,
                    "step": state.step,
                    "loss": state.loss_sum / len(train),
                    "train_accuracy": state.right_sum / len(train),
                    "val_accuracy": shown.accuracy,
                    "temperature": temperature,
                    "share_on": shown.share_on,
                    "mask_diversity": shown.mask_diversity,
                }
                state.history.append(row)
                state.loss_sum, state.right_sum = 0.0, 0
                if shown.accuracy > state.best_accuracy:
                    state.best_epoch, state.best_accuracy = epoch, shown.accuracy
                    state.best_mapping = state.mapping
                    best = {k: p.detach().clone() for k, p in method.named_parameters()}
                if watch is not None and first:
                    watch(method, state.history)
                if first:
                    save_progress(folder, method, optimizer, best, state, identity)
                told = f"loss {row['loss']:.3f} val {shown.accuracy:.1%} tau {temperature:.2f}"
                bar.set_postfix_str(told if shown.share_on is None else f"{told} on {shown.share_on:.0%}")

            # A request to stop that came meanwhile, to any process: the step is done, save it and end.
            if any(team.sum(stop.asked or 0, device=device)):
                if first:
                    save_progress(folder, method, optimizer, best, state, identity)
                stop.asked = stop.asked or signal.SIGTERM
                stop.end()
    classifier.use_mapping(state.best_mapping)
    if first:
        _warn_of_collapse(method, state)
    with torch.no_grad():
        for name, p in method.named_parameters():
            p.copy_(best[name])
    return state


def _warn_of_collapse(method: AdaViPro, state: Progress) -> None:
    row = state.history[state.best_epoch]
    if method.masks is None or row["share_on"] is None:
        return
    told = f"at epoch {row['epoch']}, the one that validation picked, "
    if row["share_on"] < 0.05:
        told += f"{row['share_on']:.1%} of the regions are on: the method has become zero-shot"
    elif row["share_on"] > 0.95:
        told += f"{row['share_on']:.1%} of the regions are on: the method has become VP"
    elif row["mask_diversity"] < 0.02:
        told += f"masks hardly differ between images (diversity {row['mask_diversity']:.3f})"
    else:
        return
    warnings.warn(f"{told}; see the metrics of each epoch", MaskCollapseWarning, stacklevel=3)
