"""A linear probe: logistic regression on the features of a frozen classifier."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.classifier import FrozenClassifier
from adavipro.data import Split, batches

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)


@torch.no_grad()
def features(classifier: FrozenClassifier, split: Split) -> Tensor:
    """What the image tower makes of each image of a split, before it is scaled to length 1: (n, d).

    They lie on the classifier's device; on the CPU where that is Apple's, which has no float64 to fit a probe in.
    """
    found = torch.cat([classifier.outputs(batch.images) for batch in batches(split, classifier)])
    return found.cpu() if found.device.type == "mps" else found


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
    val_accuracy: float
    picked: str
    best_epoch: None = None  # it is found in one go

    def tensors(self) -> dict[str, Tensor]:
        """What was learned: weight (k, d) and bias (k,)."""
        return self.linear.state_dict()

    def accuracy(self, classifier: FrozenClassifier, split: Split) -> float:
        """Share of a split's images that it classifies right, by their features of the frozen classifier."""
        inputs = features(classifier, split)
        return accuracy_of(self.linear, inputs, split.labels.to(inputs.device))


def linear_probe(classifier: FrozenClassifier, train: Split, val: Split) -> Probe:
    """Fit a linear probe with each of PENALTIES; validation picks, as CLIP's authors do, of equals the largest."""
    inputs, val_inputs = features(classifier, train), features(classifier, val)
    labels, val_labels = (split.labels.to(inputs.device) for split in (train, val))
    fitted = [fit_probe(inputs, labels, len(classifier.class_names), penalty) for penalty in PENALTIES]
    accuracies = [accuracy_of(probe, val_inputs, val_labels) for probe in fitted]
    best = max(range(len(fitted)), key=accuracies.__getitem__)
    return Probe(fitted[best], accuracies[best], f"penalty={PENALTIES[best]:g}")
