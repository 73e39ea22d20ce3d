"""What prompts stand beside: a linear probe on frozen features, and full fine-tuning of the image tower."""

import copy
import hashlib
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from adavipro import checkpoints, datasets, experiment, presets, probes, settings
from adavipro.classifiers import FrozenClassifier
from adavipro.datasets import Split
from adavipro.environment import device_name, peak_memory_mb
from adavipro.evaluation import evaluate
from adavipro.experiment import Experiment
from adavipro.files import canonical_json, locked, write_json
from adavipro.schedules import learning_rate_factor
from adavipro.seeds import generator
from adavipro.settings import SettingError, setting
from adavipro.training import TrainingDiverged

METHODS = ("linear-probe", "fine-tune")
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # validation picks one for all data sets
REPORT_SEEDS = presets.REPORT_SEEDS[:3]
# What a world changes of a baseline's defaults. The paper gives no recipe of its fine-tuning: ours is not tuned.
OF_WORLD: dict[str, dict[str, Any]] = {
    "embedded": {}, "paper": {"learning_rate": 1e-5, "weight_decay": 0.1, "epochs": 20, "batch_size": 256},
}  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """Everything that decides a baseline's result; all of it is ours, the paper does not give its own."""

    dataset: str = setting("digits", "data set to adapt to: embedded, one of the nine, or folder:PATH")
    method: str = setting("linear-probe", "how to adapt", choices=METHODS)
    learning_rate: float = setting(3e-3, "AdamW's, of fine-tuning", above=0)
    weight_decay: float = setting(0.01, "AdamW's, of fine-tuning", low=0)
    epochs: int = setting(5, "passes over the training images in fine-tuning", low=1)
    batch_size: int = setting(64, "images in a step of fine-tuning", low=1)
    warmup_share: float = setting(
        0.05, "linear warm-up as a share of the run; then cosine to 0", low=0, high=0.99
    )
    seed: int = setting(0, "seed of the batch order; a linear probe has no chance in it", low=0)
    world: str = setting("embedded", "whose frozen CLIP", choices=presets.WORLDS)
    pretrained: str | None = setting(None, "other weights than the world's; random: untrained", later=True)

    def __post_init__(self) -> None:
        settings.validate(self)
        datasets.check_name(self.dataset)

    def frozen(self) -> Experiment:
        """The zero-shot experiment that it starts from: model, class names and data."""
        other = {} if self.pretrained is None else {"pretrained": self.pretrained}
        return presets.preset(self.world, "zero-shot", dataset=self.dataset, **other)

    def key(self) -> str:
        """Hash of all settings, the frozen weights and the version of the data: the same key is the same run."""
        content = {"settings": settings.content(self), "frozen": self.frozen().key()}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]

    def folder(self, root: Path) -> Path:
        """Where this run lives."""
        return root / f"{datasets.slug(self.dataset)}-{self.method}-seed{self.seed}-{self.key()}"


def preset(world: str, method: str, **changes: Any) -> Baseline:
    """A baseline by its world's recipe, with single settings changed."""
    return settings.from_mapping(Baseline, {"method": method, "world": world, **OF_WORLD[world], **changes})


class Tuned(NamedTuple):
    """A fine-tuned classifier with the weights of the epoch that validation picked."""

    classifier: FrozenClassifier
    best_epoch: int
    val_accuracy: float


def fine_tune(frozen: FrozenClassifier, train: Split, val: Split, wanted: Baseline) -> Tuned:
    """Train every weight of a copy of the image tower; class embeddings and scale are kept, `frozen` is not touched.

    Raises:
        TrainingDiverged: before the optimiser steps, if the loss or a gradient is not finite.
    """
    classifier = copy.deepcopy(frozen)
    parameters = list(classifier.visual.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=wanted.learning_rate, weight_decay=wanted.weight_decay)
    device = classifier.mean.device
    epoch_steps = -(-len(train) // wanted.batch_size)
    total_steps = wanted.epochs * epoch_steps
    warmup = round(wanted.warmup_share * total_steps)
    best_epoch, best_accuracy, best = -1, -1.0, {}
    for epoch in range(wanted.epochs):
        order = torch.randperm(len(train), generator=generator(wanted.seed, "order", epoch))
        for step, index in enumerate(order.split(wanted.batch_size), start=epoch * epoch_steps):
            for group in optimizer.param_groups:
                group["lr"] = wanted.learning_rate * learning_rate_factor(step, total_steps, warmup)
            scores = classifier(classifier.normalise(train.images[index].to(device)))
            loss = F.cross_entropy(scores, train.labels[index].to(device))
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if not (loss.isfinite() and norm.isfinite()):
                where = f"step {step} (epoch {epoch}, images {index.tolist()})"
                told = f"lower learning_rate, which is {wanted.learning_rate}"
                raise TrainingDiverged(f"the loss or a gradient is not finite at {where}: {told}")
            optimizer.step()
        accuracy = evaluate(classifier, None, val).accuracy
        if accuracy > best_accuracy:
            best_epoch, best_accuracy = epoch, accuracy
            best = copy.deepcopy(classifier.visual.state_dict())
    classifier.visual.load_state_dict(best)
    return Tuned(classifier.requires_grad_(False), best_epoch, best_accuracy)


def run(wanted: Baseline, root: Path = Path("runs"), device: str = "cpu") -> dict[str, Any]:
    """Learn and report one baseline, or return its row where it is finished. Writes result.json last.

    The test split is evaluated once, after validation has picked, and never with a seed of the search. `seconds` is
    the time of learning: on a CPU the processor's, so that other work on the machine does not count.
    """
    done = experiment.read_result(wanted, root)
    if done is None:
        with locked(wanted.folder(root) / "lock"):  # another process may be at it
            done = experiment.read_result(wanted, root) or _learn(wanted, root, device)
    return done


def _learn(wanted: Baseline, root: Path, device: str) -> dict[str, Any]:
    key, folder = wanted.key(), wanted.folder(root)
    frozen = experiment.load_classifier(wanted.frozen(), device)
    experiment.check_image_size(wanted.frozen(), frozen)
    train, val = (datasets.load_split(wanted.dataset, split, frozen.image_px) for split in ("train", "val"))
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    learned: probes.Probe | Tuned
    if wanted.method == "linear-probe":
        learned = probes.linear_probe(frozen, train, val)
        learner, picked = learned.linear, f"penalty={learned.penalty:g}"
    else:
        learned = fine_tune(frozen, train, val, wanted)
        learner, picked = learned.classifier.visual, f"learning_rate={wanted.learning_rate:g}"
    seconds = round(clock() - started, 2)
    searched = wanted.seed in presets.SEARCH_SEEDS
    row = {
        "study": "search" if searched else "main",
        "dataset": wanted.dataset,
        "method": wanted.method,
        "prompt_px": None,
        "seed": wanted.seed,
        "setting": picked,
        "test_accuracy": None if searched else report_test(wanted, frozen, learned),
        "val_accuracy": learned.val_accuracy,
        "best_epoch": learned.best_epoch if isinstance(learned, Tuned) else None,
        "parameters": sum(p.numel() for p in learner.parameters()),
        "seconds": seconds,
        "memory_mb": peak_memory_mb(device),
        "device": device_name(device),
        "split": datasets.split_source(wanted.dataset),
        "key": key,
        "versions": " ".join(f"{k}={v}" for k, v in experiment.versions().items()),
    }
    if wanted.key() != key:
        raise SettingError(f"{wanted.dataset} changed while {folder.name} ran: run it again")
    checkpoints.save_checkpoint(folder, wanted.epochs, learner.state_dict(), {"key": key})
    write_json(folder / "result.json", row)
    return row


def report_test(wanted: Baseline, frozen: FrozenClassifier, learned: probes.Probe | Tuned) -> float:
    """Accuracy on the test split. Called once a run, after validation has picked."""
    if isinstance(learned, Tuned):
        return experiment.report_test(wanted.frozen(), learned.classifier, None).accuracy
    test = datasets.load_split(wanted.dataset, "test", frozen.image_px)
    return probes.accuracy_of(
        learned.linear, probes.features(frozen, test), test.labels.to(frozen.mean.device)
    )


def restore(wanted: Baseline, root: Path = Path("runs"), device: str = "cpu") -> FrozenClassifier:
    """Load the classifier of a finished fine-tuning, with the weights that validation picked.

    Raises:
        SettingError: if the run is not finished, or is a linear probe, which leaves the classifier as it is.
    """
    if wanted.method != "fine-tune" or experiment.read_result(wanted, root) is None:
        raise SettingError(f"there is no finished fine-tuning in {wanted.folder(root)}: run it first")
    classifier = experiment.load_classifier(wanted.frozen(), device)
    classifier.visual.load_state_dict(checkpoints.load_checkpoint(wanted.folder(root), wanted.epochs)[0])
    return classifier


def runs_of_results() -> list[Baseline]:
    """Every run behind the shipped results: the search of fine-tuning's rate, then what is reported."""
    names, searched = datasets.CLASS_NAMES, itertools.product(presets.SEARCH_SEEDS, LEARNING_RATES)
    found = [Baseline(n, "fine-tune", rate, seed=seed) for seed, rate in searched for n in names]
    found += [Baseline(n, "linear-probe") for n in names]
    return found + [Baseline(n, "fine-tune", seed=seed) for seed in REPORT_SEEDS for n in names]
