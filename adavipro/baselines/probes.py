"""A linear probe: logistic regression on the features of a frozen classifier."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.baselines import Learned
from adavipro.classifier import FrozenClassifier
from adavipro.data import Split, batches

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)


@torch.no_grad()
def features(classifier: FrozenClassifier, split: Split) -> Tensor:
    """What the network makes of each image of a split, before the last step to class scores: (n, d).

    Of a CLIP it is before the scaling to length 1, of a network with classes of its own what its last linear layer is
    given. It lies on the classifier's device; on the CPU where that is Apple's, which has no float64 to fit a probe in.
    """
    taken: list[Tensor] = []
    layers = [] if classifier.mapping_index() is None else list(classifier.network.modules())
    heads = [layer for layer in layers if isinstance(layer, nn.Linear)][-1:]
    hooks = [
        head.register_forward_pre_hook(lambda _, given: taken.append(given[0].float())) for head in heads
    ]
    made = [classifier.outputs(batch.images) for batch in batches(split, classifier)]
    for hook in hooks:
        hook.remove()
    found = torch.cat(taken or made)
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
    return (probe(inputs.double()).argmax(1) == labels.to(inputs.device)).double().mean().item()


def linear_probe(classifier: FrozenClassifier, train: Split, val: Split) -> Learned:
    """Fit a linear probe with each of PENALTIES; validation picks, as CLIP's authors do, of equals the largest.

    It learns a weight (k, d) and a bias (k,) on the features of the frozen classifier.
    """
    inputs, val_inputs = features(classifier, train), features(classifier, val)
    labels = train.labels.to(inputs.device)
    fitted = [fit_probe(inputs, labels, len(classifier.class_names), penalty) for penalty in PENALTIES]
    accuracies = [accuracy_of(probe, val_inputs, val.labels) for probe in fitted]
    best = max(range(len(fitted)), key=accuracies.__getitem__)
    probe, picked = fitted[best], f"penalty={PENALTIES[best]:g}"

    def accuracy(split: Split) -> float:
        return accuracy_of(probe, features(classifier, split), split.labels)

    return Learned(probe.state_dict(), accuracy, accuracies[best], picked)
