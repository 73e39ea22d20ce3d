"""What prompts stand beside: a linear probe on frozen features, and full fine-tuning of the image tower."""

import copy
import hashlib
import itertools
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro import checkpoints, datasets, experiment, presets, settings
from adavipro.classifiers import FrozenClip
from adavipro.datasets import Split
from adavipro.evaluation import EVALUATION_BATCH, batches, evaluate
from adavipro.experiment import Experiment
from adavipro.files import canonical_json, write_json
from adavipro.schedules import learning_rate_factor
from adavipro.seeds import generator
from adavipro.settings import SettingError, setting
from adavipro.training import TrainingDiverged

METHODS = ("linear-probe", "fine-tune")
# Validation picks a probe's penalty for each data set, as CLIP's authors do; one rate of fine-tuning for all of them.
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
REPORT_SEEDS = presets.REPORT_SEEDS[:3]


@dataclass(frozen=True)
class Baseline:
    """Everything that decides a baseline's result; all of it is ours, the paper does not give its own."""

    dataset: str = setting("digits", "data set to adapt to: embedded, or folder:PATH of your own images")
    method: str = setting("linear-probe", "how to adapt", choices=METHODS)
    learning_rate: float = setting(3e-3, "AdamW's, of fine-tuning", above=0)
    weight_decay: float = setting(0.01, "AdamW's, of fine-tuning", low=0)
    epochs: int = setting(
        5, "passes over the training images in fine-tuning, as many as the prompts have", low=1
    )
    batch_size: int = setting(64, "images in a step of fine-tuning", low=1)
    warmup_share: float = setting(
        0.05, "linear warm-up as a share of the run; then cosine to 0", low=0, high=0.99
    )
    seed: int = setting(0, "seed of the batch order; a linear probe has no chance in it", low=0)
    world: str = setting("embedded", "whose frozen CLIP", choices=("embedded", "paper"))

    def __post_init__(self) -> None:
        settings.validate(self)
        datasets.check_name(self.dataset)

    def frozen(self) -> Experiment:
        """The zero-shot experiment that it starts from: model, class names and data."""
        return presets.preset(self.world, "zero-shot", dataset=self.dataset)

    def key(self) -> str:
        """Hash of all settings, the frozen weights and the version of the data: the same key is the same run."""
        content = {"settings": asdict(self), "frozen": self.frozen().key()}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]

    def folder(self, root: Path) -> Path:
        """Where this run lives."""
        return root / f"{datasets.slug(self.dataset)}-{self.method}-seed{self.seed}-{self.key()}"


@torch.no_grad()
def features(classifier: FrozenClip, split: Split) -> Tensor:
    """What the image tower makes of each image of a split, before it is scaled to length 1: (n, d)."""
    device = classifier.mean.device
    parts = (split.images[part].to(device) for part in batches(split, EVALUATION_BATCH))
    return torch.cat([classifier.visual(classifier.normalise(images)) for images in parts])


def fit_probe(inputs: Tensor, labels: Tensor, classes: int, penalty: float) -> nn.Linear:
    """Logistic regression: the least of mean cross-entropy + penalty / 2 * |W|^2, by L-BFGS from zero in float64.

    Inputs are features (n, d). The penalty is not on the bias; scikit-learn's C is 1 / (n * penalty).
    """
    inputs = inputs.double()
    probe = nn.utils.skip_init(nn.Linear, inputs.shape[1], classes, dtype=torch.float64, device=inputs.device)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(
        probe.parameters(), max_iter=1000, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(probe(inputs), labels) + penalty / 2 * probe.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return probe.requires_grad_(False)


def accuracy_of(probe: nn.Linear, inputs: Tensor, labels: Tensor) -> float:
    """Share of features (n, d) that a probe classifies right."""
    return (probe(inputs.double()).argmax(1) == labels).double().mean().item()


class Probe(NamedTuple):
    """A linear probe with the penalty that validation picked."""

    linear: nn.Linear
    penalty: float
    val_accuracy: float


def linear_probe(classifier: FrozenClip, train: Split, val: Split) -> Probe:
    """Fit a linear probe with each of PENALTIES; validation picks, and of equals the largest penalty."""
    device = classifier.mean.device
    inputs, labels = features(classifier, train), train.labels.to(device)
    val_inputs, val_labels = features(classifier, val), val.labels.to(device)
    found = []
    for penalty in PENALTIES:
        probe = fit_probe(inputs, labels, len(classifier.class_names), penalty)
        found.append(Probe(probe, penalty, accuracy_of(probe, val_inputs, val_labels)))
    return max(found, key=lambda probe: probe.val_accuracy)


class Tuned(NamedTuple):
    """A fine-tuned classifier with the weights of the epoch that validation picked."""

    classifier: FrozenClip
    best_epoch: int
    val_accuracy: float


def fine_tune(frozen: FrozenClip, train: Split, val: Split, wanted: Baseline) -> Tuned:
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
    if done is not None:
        return done
    key, folder = wanted.key(), wanted.folder(root)
    frozen = experiment.load_classifier(wanted.frozen(), device)
    experiment.check_image_size(wanted.frozen(), frozen)
    train, val = (datasets.load_split(wanted.dataset, split, frozen.image_px) for split in ("train", "val"))
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    learned: Probe | Tuned
    if wanted.method == "linear-probe":
        learned = linear_probe(frozen, train, val)
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
        "key": key,
        "versions": " ".join(f"{k}={v}" for k, v in experiment.versions().items()),
    }
    if wanted.key() != key:
        raise SettingError(f"{wanted.dataset} changed while {folder.name} ran: run it again")
    checkpoints.save_checkpoint(folder, wanted.epochs, learner.state_dict(), {"key": key})
    write_json(folder / "result.json", row)
    return row


def report_test(wanted: Baseline, frozen: FrozenClip, learned: Probe | Tuned) -> float:
    """Accuracy on the test split. Called once a run, after validation has picked."""
    if isinstance(learned, Tuned):
        return experiment.report_test(wanted.frozen(), learned.classifier, None).accuracy
    test = datasets.load_split(wanted.dataset, "test", frozen.image_px)
    return accuracy_of(learned.linear, features(frozen, test), test.labels.to(frozen.mean.device))


def restore(wanted: Baseline, root: Path = Path("runs"), device: str = "cpu") -> FrozenClip:
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
