"""Other answers to "where", beside which the learned ones stand: soft masks and random ones."""

import hashlib
import math

import torch
from torch import Tensor, nn

from adavipro.io import generator as keyed
from adavipro.models.fast import FastMaskGenerator
from adavipro.where import check_region, choose, gumbel_noise


class SigmoidMasks(FastMaskGenerator):
    """The mask generator without decisions: each region's mask is the sigmoid of its logits' difference.

    In training and in inference alike: no noise, no temperature, no argmax. It has the same parameters.
    """

    def decide(self, logits: Tensor, temperature: float | None, generator: torch.Generator | None) -> Tensor:
        """Turn region logits (b, 2, r, r) into masks between 0 and 1, (b, 1, r, r)."""
        return torch.sigmoid(logits.float().diff(dim=1))


class RandomMasks(nn.Module):
    """Each region on with the same probability, whatever the image shows: the control for a learned "where".

    It has no parameters. In training the decisions are drawn anew for each step. At inference an image's mask is drawn
    by a hash of its normalised pixels: the same pixels give the same mask, in any batch, others another. The share of
    regions that are on lies between 0 and 1; those two are zero-shot and VP, which the settings refuse.
    """

    def __init__(self, image_px: int, region_px: int, share: float) -> None:
        super().__init__()
        check_region(image_px, region_px)
        self.region_px, self.side = region_px, image_px // region_px
        self.logits = (math.log(1 - share), math.log(share))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, 2, r, r) of images (b, 3, h, w): those of the share, with the noise of each image's own mask."""
        noise = []
        for image in images.detach().cpu().float():
            digest = hashlib.sha256(image.contiguous().numpy().tobytes()).digest()
            source = keyed(0, "random-masks", int.from_bytes(digest[:8], "little"))
            noise.append(gumbel_noise(torch.Size((2, self.side, self.side)), source))
        return images.new_tensor(self.logits).view(1, 2, 1, 1) + torch.stack(noise).to(images.device)

    def decide(self, logits: Tensor, temperature: float | None, generator: torch.Generator | None) -> Tensor:
        """Draw decisions of 0 or 1, (b, 1, r, r): with a temperature by the generator, without by each image."""
        if temperature is None or generator is None:
            return choose(logits)
        constant = torch.tensor(self.logits).view(1, 2, 1, 1).expand(logits.shape)
        return choose(constant + gumbel_noise(logits.shape, generator)).to(logits.device)
