"""Other answers to "what" and "where", beside which the learned ones stand: patches, soft, random and SMM's masks."""

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.io import generator as keyed
from adavipro.models.fast import FastMaskGenerator
from adavipro.where import check_region, choose, gumbel_noise


class PatchPrompt(nn.Module):
    """A square of learned pixels, in the top left corner or at a random place (VP, section 3).

    At inference a random patch lies in the centre, so that evaluation does not depend on chance.

    Args:
        image_px, start_std, generator: as of `prompts.FramePrompt`.
        side_px: side of the square, 1 to image_px.
        random: a new place at every call that gives a generator; otherwise the top left corner.

    Raises:
        ValueError: if the square does not fit.
    """

    def __init__(
        self, image_px: int, side_px: int, start_std: float, generator: torch.Generator, random: bool = False
    ) -> None:
        super().__init__()
        if type(side_px) is not int or not 1 <= side_px <= image_px:
            told = f"prompt_px is {side_px!r}, but a patch on {image_px} px images has a whole number"
            raise ValueError(f"{told} from 1 to {image_px} px on each side")
        self.image_px, self.side_px, self.random = image_px, side_px, random
        self.values = nn.Parameter(start_std * torch.randn(3, side_px, side_px, generator=generator))

    @property
    def support(self) -> Tensor:
        """Pixels that the patch lies on at inference: bool (h, w)."""
        return self._laid_out(torch.ones_like(self.values[:1]), None)[0].bool()

    def forward(self, generator: torch.Generator | None = None) -> Tensor:
        """Lay the patch on the image, a random one where the generator says. Returns P (1, 3, h, w)."""
        return self._laid_out(self.values, generator)[None]

    def _laid_out(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        free = self.image_px - self.side_px
        top = left = free // 2 if self.random else 0
        if self.random and generator is not None:
            top, left = torch.randint(free + 1, (2,), generator=generator).tolist()
        return F.pad(values, (left, free - left, top, free - top))


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
    by a hash of its pixels: the same image has the same mask, in any batch, and another image another. The share of
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


class SmmMasks(nn.Module):
    """SMM's masks (Cai et al. 2024, arXiv 2406.03150): a small CNN on the image gives each colour its own mask.

    Six 3x3 convolutions, 3 - 8 - 16 - 32 - 64 - 128 - 3, with a normalisation and a ReLU after all but the last and
    a 2x2 pooling after the first ones, until a region is one pixel: 102,339 parameters, as SMM has for a ViT. The
    answer is the mask, without bounds. SMM normalises over the batch; here each image is normalised over itself
    (our choice), so that its mask depends on no other image and training leaves no running statistics behind.

    Args:
        image_px, generator: as of `where.MaskGenerator`.
        region_px: side of the square that shares a mask value (SMM: 8).

    Raises:
        ValueError: if `region_px` is not 1, 2, 4, 8, 16 or 32, or does not divide the image.
    """

    WIDTHS = (3, 8, 16, 32, 64, 128)

    def __init__(self, image_px: int, region_px: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        sides = [side for side in (1, 2, 4, 8, 16, 32) if image_px % side == 0]
        if region_px not in sides:
            told = f"region_px is {region_px}, but SMM's masks on {image_px} px images have regions of one of"
            raise ValueError(f"{told} {', '.join(map(str, sides))}")
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

    def decide(self, logits: Tensor, temperature: float | None, generator: torch.Generator | None) -> Tensor:
        """The masks as they are."""
        return logits.float()
