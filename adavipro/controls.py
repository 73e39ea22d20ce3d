"""Other answers to "where", beside which the learned decisions stand: soft masks, and SMM's masks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.masks import MaskGenerator


class SigmoidMasks(MaskGenerator):
    """The mask generator without decisions: each region's mask is the sigmoid of its logits' difference.

    In training and in inference alike: no noise, no temperature, no argmax. It has the same parameters.
    """

    def soft(self, logits: Tensor) -> Tensor:
        """Turn region logits (b, 2, r, r) into masks between 0 and 1, (b, 1, r, r)."""
        return torch.sigmoid(logits.float().diff(dim=1))


class SmmMasks(nn.Module):
    """SMM's masks (Cai et al. 2024, arXiv 2406.03150): a small CNN on the image gives each colour its own mask.

    Six 3x3 convolutions, 3 - 8 - 16 - 32 - 64 - 128 - 3, with a normalisation and a ReLU after all but the last and
    a 2x2 pooling after the first ones, until a region is one pixel: 102,339 parameters, as SMM has for a ViT. The
    answer is the mask, without bounds. SMM normalises over the batch; here each image is normalised over itself
    (our choice), so that its mask depends on no other image and training leaves no running statistics behind.

    Args:
        image_px: side of the image.
        region_px: side of the square that shares a mask value (SMM: 8).
        generator: source of the start values.

    Raises:
        ValueError: if `region_px` is not 1, 2, 4, 8, 16 or 32, or does not divide the image.
    """

    WIDTHS = (3, 8, 16, 32, 64, 128)

    def __init__(self, image_px: int, region_px: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        sides = [side for side in (1, 2, 4, 8, 16, 32) if image_px % side == 0]
        if region_px not in sides:
            raise ValueError(
                f"region_px is {region_px}, but SMM's masks on {image_px} px images have regions of one of "
                + ", ".join(map(str, sides))
            )
        self.region_px, self.poolings = region_px, region_px.bit_length() - 1
        pairs = zip(self.WIDTHS, (*self.WIDTHS[1:], 3), strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in self.WIDTHS[1:])
        with torch.no_grad():
            for conv in self.convolutions:
                bound = next(conv.parameters())[0].numel() ** -0.5  # of the weights
                for p in conv.parameters():
                    p.copy_(bound * (2 * torch.rand(p.shape, generator=generator) - 1))

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised images (b, 3, h, w) into masks (b, 3, r, r)."""
        *inner, last = self.convolutions
        for layer, (conv, norm) in enumerate(zip(inner, self.norms, strict=True)):
            images = norm(conv(images)).relu()
            if layer < self.poolings:
                images = F.max_pool2d(images, 2)
        return last(images)

    def soft(self, logits: Tensor) -> Tensor:
        """The masks as they are."""
        return logits.float()
