"""One pass over a split: accuracy, and where the prompt lies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adavipro import masks
from adavipro.classifiers import FrozenClassifier
from adavipro.controls import SmmMasks
from adavipro.datasets import Split
from adavipro.method import AdaViPro
from adavipro.parallel import ALONE, Team

EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split shows.

    accuracy: share of images that are right. share_on: share of the regions within the prompt's reach that are
    on. mask_diversity: how much masks differ between images (0 not at all, 1 at most). object_cover: share of the
    objects' pixels under the prompt; None where the data set knows no objects. The last three are None where there
    is no prompt, or where masks have no bounds (SMM's).
    """

    accuracy: float
    share_on: float | None = None
    mask_diversity: float | None = None
    object_cover: float | None = None


def batches(split: Split, size: int, team: Team = ALONE) -> Iterator[slice]:
    """Cut a split into slices of at most `size` images, in order; of several processes each takes its own of them."""
    return (slice(i, i + size) for i in range(size * team.rank, len(split), size * team.size))


@torch.no_grad()
def evaluate(
    classifier: FrozenClassifier,
    method: AdaViPro | None,
    split: Split,
    choose_decisions: Callable[[Tensor, slice], Tensor] | None = None,
    team: Team = ALONE,
) -> Evaluation:
    """Classify each image of a split once, with its prompt; without a method, zero-shot.

    Args:
        choose_decisions: replaces the decisions (b, 1, r, r) of a slice of the split, for ablations such as random
            masks of the same share.
        team: processes that share the split's batches; each image is classified by one of them.
    """
    device = classifier.mean.device
    right, decisions, covered = 0.0, [], 0.0
    for part in batches(split, EVALUATION_BATCH, team):
        images = classifier.normalise(split.images[part].to(device))
        if method is not None:
            prompted = method(images)
            if choose_decisions is not None:
                prompted = method(images, decisions=choose_decisions(prompted.decisions, part))
            images = prompted.images
            decisions.append(prompted.decisions)
            if split.objects is not None:
                reach = prompted.mask.mean(1, keepdim=True) * method.prompt.support
                covered += (split.objects[part].to(device).float() / 255 * reach).sum().item()
        right += (classifier(images).argmax(1) == split.labels[part].to(device)).sum().item()
    right, covered = team.sum(right, covered, device=device)
    accuracy = right / len(split)
    if method is None:
        return Evaluation(accuracy)
    if isinstance(method.masks, SmmMasks):  # without bounds: they are no shares
        return Evaluation(accuracy)
    chosen = team.gather(decisions)
    live = method.live_regions().to(chosen.device)
    cover = None if split.objects is None else covered / (split.objects.sum(dtype=torch.float64).item() / 255)
    return Evaluation(accuracy, masks.share_on(chosen, live), masks.mask_diversity(chosen, live), cover)


@torch.no_grad()
def region_effects(
    classifier: FrozenClassifier, method: AdaViPro, images: Tensor, labels: Tensor, decisions: Tensor
) -> Tensor:
    """What each region's decision is worth: the loss with it on minus the loss with it off, the others unchanged.

    Args:
        images: normalised, (b, 3, h, w).
        labels: (b,).
        decisions: 0 or 1, (b, 1, r, r), around which single regions are changed.

    Returns:
        (b, r, r), in nats; above 0 the prompt harms there.
    """
    effects = torch.zeros_like(decisions[:, 0])
    for place in method.live_regions().nonzero():
        row, column = place.tolist()
        losses = []
        for decision in (1.0, 0.0):
            changed = decisions.clone()
            changed[:, 0, row, column] = decision
            scores = classifier(method(images, decisions=changed).images)
            losses.append(F.cross_entropy(scores, labels, reduction="none"))
        effects[:, row, column] = losses[0] - losses[1]
    return effects


def region_gradients(
    classifier: FrozenClassifier, method: AdaViPro, images: Tensor, labels: Tensor, decisions: Tensor
) -> Tensor:
    """What training sees of each region's decision: the loss's gradient at `decisions`, 0, 1 or between.

    Arguments and the result as in `region_effects`: to first order, the gradient is the effect.
    """
    decisions = decisions.detach().clone().requires_grad_()
    scores = classifier(method(images, decisions=decisions).images)
    (gradient,) = torch.autograd.grad(F.cross_entropy(scores, labels, reduction="sum"), decisions)
    return gradient[:, 0]
