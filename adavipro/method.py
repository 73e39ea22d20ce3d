"""AdaViPro: what to add (a template) and where to add it (edges, region logits, decisions), in front of any network."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.where import enlarge


class Prompted(NamedTuple):
    """What the method makes of a batch of images.

    images: (b, 3, h, w), with the prompt added.
    decisions: (b, 1, r, r), one a region; VP has a single region that is always on.
    mask: (b, 1, h, w), the decisions enlarged.
    logits: (b, 2, r, r), off and on; None for VP and for fixed decisions.
    """

    images: Tensor
    decisions: Tensor
    mask: Tensor
    logits: Tensor | None


class AdaViPro(nn.Module):
    """Add a learned template to the regions of an image that a generator picks: x + P * m_p (Eq. 2).

    Without `edges` and `masks` it is VP: the template is added everywhere. It knows nothing of the classifier;
    any model that takes images can follow.

    Args:
        prompt: the template P, as `prompts.FramePrompt`: `prompt()` is (1, 3, h, w), `support` bool (h, w) where it can
            be, `image_px` the side.
        edges: F_e, images to edges (b, 3, h, w); None for VP.
        masks: F_c and F_p, as `where.MaskGenerator`: `masks(edges)` are region logits (b, 2, r, r), and
            `masks.decide(logits, temperature, generator)` decisions (b, 1, r, r), `region_px` their side. None for VP.
        precision: numbers of the mask generator; decisions are float32 whatever it is.
    """

    def __init__(
        self,
        prompt: nn.Module,
        edges: nn.Module | None = None,
        masks: nn.Module | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if (edges is None) != (masks is None):
            raise ValueError("edges and masks go together: give both, or neither for VP")
        self.prompt: Any = prompt
        self.edges, self.precision = edges, precision
        self.masks: Any = masks

    @property
    def region_px(self) -> int:
        """Side of a decision region; the whole image for VP."""
        return self.masks.region_px if self.masks is not None else self.prompt.image_px

    def live_regions(self) -> Tensor:
        """Regions that the template can reach: bool (r, r). At p = 30 of 224 px, the outer 24 of 49."""
        support = self.prompt.support.float()[None, None]
        return F.max_pool2d(support, self.region_px)[0, 0].bool()

    def region_logits(self, images: Tensor) -> Tensor | None:
        """Region logits (b, 2, r, r) of normalised images; None for VP. They have the gradient to the images."""
        if self.masks is None or self.edges is None:
            return None
        # Within a caller's autocast too the edges are float32, and the generator has the precision it was given.
        with torch.autocast(images.device.type, enabled=False):
            edges = self.edges(images if images.dtype == torch.float64 else images.float())
        with torch.autocast(images.device.type, self.precision, enabled=self.precision != torch.float32):
            return self.masks(edges).float()

    def forward(
        self,
        images: Tensor,
        temperature: float | None = None,
        generator: torch.Generator | None = None,
        decisions: Tensor | None = None,
    ) -> Prompted:
        """Prompt normalised images (b, 3, h, w).

        Args:
            temperature: tau for sampled decisions (training); None takes the likelier decision (inference).
            generator: CPU source of the Gumbel noise; needed with a temperature.
            decisions: (b, 1, r, r), to set the decisions by hand, as ablations and explorers do.

        Raises:
            ValueError: if the images are not a float batch of the template's size.
        """
        check_images(images, self.prompt.image_px)
        logits = self.region_logits(images) if decisions is None else None
        if logits is not None:
            decisions = self.masks.decide(logits, temperature, generator)
        elif decisions is None:  # VP: the template everywhere, as one region
            decisions = images.new_ones(len(images), 1, 1, 1)
        b, r, side = len(images), decisions.shape[-1], images.shape[-1]
        if tuple(decisions.shape) != (b, 1, r, r) or side % r:
            raise ValueError(
                f"decisions have shape {tuple(decisions.shape)}, expected ({b}, 1, r, r) where r divides {side}"
            )
        mask = enlarge(decisions, side // r)
        return Prompted(images + self.prompt() * mask.to(images.dtype), decisions, mask, logits)


def check_images(images: Tensor, image_px: int) -> None:
    """Raise a ValueError that names what was expected where images cannot be prompted."""
    wanted = f"a float batch (b, 3, {image_px}, {image_px})"
    if not isinstance(images, Tensor):
        raise ValueError(f"images are a {type(images).__name__}, expected {wanted}")
    if not images.is_floating_point():
        raise ValueError(f"images have type {images.dtype}, expected {wanted}: divide by 255 and normalise")
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, image_px, image_px):
        raise ValueError(f"images have shape {tuple(images.shape)}, expected {wanted}")
    if len(images) == 0:
        raise ValueError(f"the batch is empty, expected {wanted} with b of at least 1")
