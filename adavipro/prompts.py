"""What to add: a frame of learned pixels around the image, the template P (VP, Bahng et al. 2022; AdaViPro, sec. 2)."""

import torch
from torch import Tensor, nn


def frame_support(image_px: int, width_px: int) -> Tensor:
    """Mark the pixels of a frame that is `width_px` wide on each side. Returns bool (h, w).

    Raises:
        ValueError: if `width_px` is not a whole number from 1 to half the image.
    """
    half = image_px // 2
    if type(width_px) is not int or not 1 <= width_px <= half:
        raise ValueError(
            f"prompt_px is {width_px!r}, but a frame on {image_px} px images is a whole number from 1 to {half} px "
            f"wide ({half} covers the whole image)"
        )
    support = torch.ones(image_px, image_px, dtype=torch.bool)
    support[width_px : image_px - width_px, width_px : image_px - width_px] = False
    return support


class FramePrompt(nn.Module):
    """A frame of learned pixels around the image: template P, zero inside the frame.

    Only the frame's pixels are parameters, 3 (S^2 - (S - 2p)^2) of them for a frame of width p on an image of
    side S (VP, section 3; 69,840 at p = 30, S = 224).

    Args:
        image_px: side of the image.
        width_px: width of the frame on each side, 1 to image_px // 2; half the image covers all of it.
        start_std: standard deviation of the normal distribution that the pixels start from (VP: 1).
        generator: source of the start values.
    """

    support: Tensor  # pixels that the template lies on: bool (h, w)
    places: Tensor  # their numbers, row by row

    def __init__(
        self,
        image_px: int,
        width_px: int,
        start_std: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.image_px = image_px
        self.register_buffer("support", frame_support(image_px, width_px), persistent=False)
        self.register_buffer("places", self.support.flatten().nonzero()[:, 0], persistent=False)
        self.values = nn.Parameter(start_std * torch.randn(3, len(self.places), generator=generator))

    def forward(self) -> Tensor:
        """Lay the pixels out on the image. Returns P (1, 3, h, w)."""
        flat = self.values.new_zeros(3, self.image_px**2).index_copy(1, self.places, self.values)
        return flat.view(1, 3, self.image_px, self.image_px)
