"""One pass over a split: accuracy, and where the prompt lies."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from adavipro.data import Split, batches
from adavipro.method import AdaViPro
from adavipro.where import mask_diversity, settled, share_on

if TYPE_CHECKING:
    from adavipro.classifier import FrozenClassifier


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split shows.

    accuracy: share of images that are right. share_on: share of the regions within the prompt's reach that are
    on. mask_diversity: how much masks differ between images (0 not at all, 1 at most). object_cover: share of the
    objects' pixels under the prompt; None where the data set knows no objects. logit_gap, flips, soft: as of
    `where.settled`, where a temperature was given; None of VP. All but the first are None where there is no prompt.
    """

    accuracy: float
    share_on: float | None = None
    mask_diversity: float | None = None
    object_cover: float | None = None
    logit_gap: float | None = None
    flips: float | None = None
    soft: float | None = None


@torch.no_grad()
def evaluate(
    classifier: "FrozenClassifier",
    method: AdaViPro | None,
    split: Split,
    temperature: float | None = None,
) -> Evaluation:
    """Classify each image of a split once, with its prompt; without a method, zero-shot.

    Args:
        temperature: that of training, to tell how far its noise would reach; the decisions are the likelier ones.
    """
    right, decisions, covered, logits = [], [], [], []
    for _, images, labels, objects in batches(split, classifier):
        if method is not None:
            prompted = method(images)
            images = prompted.images
            decisions.append(prompted.decisions)
            if temperature is not None and prompted.logits is not None:
                logits.append(prompted.logits)
            if objects is not None:
                reach = prompted.mask * method.prompt.support
                covered.append((objects.float() / 255 * reach).sum())
        right.append((classifier(images).argmax(1) == labels).sum())
    accuracy = int(torch.stack(right).sum()) / len(split)  # waits for the device
    if method is None:
        return Evaluation(accuracy)
    chosen, live = torch.cat(decisions), method.live_regions()
    cover = None
    if split.objects is not None:
        whole = split.objects.sum(dtype=torch.float64).item() / 255
        cover = sum(torch.stack(covered).tolist()) / whole if whole else None
    noise = settled(torch.cat(logits), live, temperature) if temperature is not None and logits else {}
    return Evaluation(accuracy, share_on(chosen, live), mask_diversity(chosen, live), cover, **noise)
