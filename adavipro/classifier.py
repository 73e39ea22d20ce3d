"""Frozen image classifiers: normalised images in, class scores out."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.data import check_pixels

NO_MEAN, UNIT_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class FrozenClassifier(nn.Module):
    """Any network that gives class scores, frozen: no weight takes a gradient, and it stays in evaluation mode.

    Args:
        network: normalised images (b, 3, h, w) to logits (b, k).
        class_names: the k names, in the order of the logits.
        image_px: side of the images that the network takes.
        mean, std: of the images' normalisation, three values each; by default images in [0, 1] stay as they are.
        name: what the model is called in settings and messages.
        own: whether the network may be frozen as it is; otherwise a copy is, and the caller's network never changes.
    """

    mean: Tensor
    std: Tensor
    precision = torch.float32  # of the network's numbers; logits are float32 whatever it is

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        image_px: int,
        mean: Sequence[float] = NO_MEAN,
        std: Sequence[float] = UNIT_STD,
        name: str = "a network of your own",
        own: bool = False,
    ) -> None:
        super().__init__()
        self.network = network if own else copy.deepcopy(network)
        self.class_names, self.image_px, self.name = list(class_names), image_px, name
        for buffer, values in (("mean", mean), ("std", std)):
            if len(values) != 3:
                raise ValueError(f"{buffer} is {list(values)}, but it must have three values, one a colour")
            self.register_buffer(buffer, torch.tensor([float(v) for v in values]).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for: the classifier is frozen."""
        return super().train(False)

    def normalise(self, images: Tensor, checked: bool = False) -> Tensor:
        """Turn images in [0, 1], or uint8 ones, (b, 3, h, w), into what the network takes.

        Args:
            checked: whether their pixels were looked at already.

        Raises:
            ValueError: if a pixel lies outside [0, 1].
        """
        if not checked:
            check_pixels(images)
        images = images.float().div_(255) if images.dtype == torch.uint8 else images
        return (images.to(self.mean.dtype) - self.mean).div_(self.std)

    def outputs(self, images: Tensor) -> Tensor:
        """What the network makes of normalised images (b, 3, h, w), in its precision: float32 (b, d)."""
        with torch.autocast(images.device.type, self.precision, enabled=self.precision is not torch.float32):
            return self.network(images).float()

    def scores(self, outputs: Tensor) -> Tensor:
        """Turn the network's outputs (b, d) into logits (b, k)."""
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Score normalised images (b, 3, h, w). Returns float32 logits (b, k)."""
        outputs = self.outputs(images)
        with torch.autocast(images.device.type, enabled=False):  # a caller's
            return self.scores(outputs)

    def mapping_index(self) -> list[int] | None:
        """Which output of the network stands for each class; None where that is never asked."""
        return None

    def use_mapping(self, index: list[int] | None) -> None:
        """Take over an index that `mapping_index` gave; None is the one it starts with."""

    def refresh_mapping(self, method: Callable[[Tensor], Any] | None, train: Any, epoch: int) -> None:
        """Find the mapping anew where it is due; called at the start of each epoch with the method as it is."""


class FrozenClip(FrozenClassifier):
    """A CLIP image tower with its class embeddings, computed once.

    Scores are logit_scale * cosine(f_v(x), f_t("This is a photo of a {c}")), as in VP (Eq. 1).

    Args:
        tower: the image tower, normalised images (b, 3, h, w) to features (b, d).
        class_embeddings: unit vectors (k, d).
        scale: CLIP's logit scale, as a factor.
        about: `class_names`, `image_px`, `mean`, `std`, `name` and `own` of every FrozenClassifier.
    """

    class_embeddings: Tensor
    scale: Tensor

    def __init__(self, tower: nn.Module, class_embeddings: Tensor, scale: Tensor, **about: Any) -> None:
        super().__init__(tower, **about)
        self.register_buffer("class_embeddings", class_embeddings.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    def scores(self, outputs: Tensor) -> Tensor:
        """Turn image features (b, d) into logits (b, k)."""
        return self.scale * F.normalize(outputs, dim=-1) @ self.class_embeddings.T
