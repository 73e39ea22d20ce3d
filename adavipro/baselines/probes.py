"""A linear probe: logistic regression on the features of a frozen classifier."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.classifiers import FrozenClassifier
from adavipro.datasets import Split
from adavipro.evaluation import EVALUATION_BATCH, batches

# Validation picks a probe's penalty for each data set, as CLIP's authors do.
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)


@torch.no_grad()
def features(classifier: FrozenClassifier, split: Split) -> Tensor:
    """What the image tower makes of each image of a split, before it is scaled to length 1: (n, d)."""
    device = classifier.mean.device
    parts = (split.images[part].to(device) for part in batches(split, EVALUATION_BATCH))
    return torch.cat([classifier.outputs(classifier.normalise(images)) for images in parts])


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


def linear_probe(classifier: FrozenClassifier, train: Split, val: Split) -> Probe:
    """Fit a linear probe with each of PENALTIES; validation picks, and of equals the largest penalty."""
    device = classifier.mean.device
    inputs, labels = features(classifier, train), train.labels.to(device)
    val_inputs, val_labels = features(classifier, val), val.labels.to(device)
    found = []
    for penalty in PENALTIES:
        probe = fit_probe(inputs, labels, len(classifier.class_names), penalty)
        found.append(Probe(probe, penalty, accuracy_of(probe, val_inputs, val_labels)))
    return max(found, key=lambda probe: probe.val_accuracy)
