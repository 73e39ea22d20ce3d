"""One pass over a split: accuracy, and where the prompt lies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adavipro.data import Split, batches
from adavipro.method import AdaViPro
from adavipro.where import mask_diversity, share_on

if TYPE_CHECKING:
    from adavipro.classifier import FrozenClassifier


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split shows.

    accuracy: share of images that are right. share_on: share of the regions within the prompt's reach that are
    on. mask_diversity: how much masks differ between images (0 not at all, 1 at most). object_cover: share of the
    objects' pixels under the prompt; None where the data set knows no objects. The last three are None where there
    is no prompt, or where masks are no decisions (several channels without bounds).
    """

    accuracy: float
    share_on: float | None = None
    mask_diversity: float | None = None
    object_cover: float | None = None


@torch.no_grad()
def evaluate(
    classifier: "FrozenClassifier",
    method: AdaViPro | None,
    split: Split,
    choose_decisions: Callable[[Tensor, slice], Tensor] | None = None,
) -> Evaluation:
    """Classify each image of a split once, with its prompt; without a method, zero-shot.

    Args:
        choose_decisions: replaces the decisions (b, 1, r, r) of a slice of the split, for ablations such as random
            masks of the same share.
    """
    right, decisions, covered = [], [], []
    for part, images, labels, objects in batches(split, classifier):
        if method is not None:
            prompted = method(images)
            if choose_decisions is not None:
                prompted = method(images, decisions=choose_decisions(prompted.decisions, part))
            images = prompted.images
            decisions.append(prompted.decisions)
            if objects is not None:
                reach = prompted.mask.mean(1, keepdim=True) * method.prompt.support
                covered.append((objects.float() / 255 * reach).sum())
        right.append((classifier(images).argmax(1) == labels).sum())
    accuracy = int(torch.stack(right).sum()) / len(split)  # waits for the device
    if method is None or decisions[0].shape[1] > 1:
        return Evaluation(accuracy)
    chosen, live = torch.cat(decisions), method.live_regions()
    cover = None
    if split.objects is not None:
        cover = sum(torch.stack(covered).tolist()) / (split.objects.sum(dtype=torch.float64).item() / 255)
    return Evaluation(accuracy, share_on(chosen, live), mask_diversity(chosen, live), cover)
