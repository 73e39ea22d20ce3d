"""What to add: templates of learned pixels (VP, Bahng et al. 2022; AdaViPro, section 2)."""

import torch
from torch import Tensor, nn

KINDS = ("frame", "fixed-patch", "random-patch")


def frame_support(image_px: int, width_px: int) -> Tensor:
    """Mark the pixels of a frame that is `width_px` wide on each side. Returns bool (h, w).

    Raises:
        ValueError: if `width_px` is not a whole number from 1 to half the image.
    """
    half = image_px // 2
    if isinstance(width_px, bool) or not isinstance(width_px, int) or not 1 <= width_px <= half:
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

    support: Tensor

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
        count = int(self.support.sum())
        self.values = nn.Parameter(start_std * torch.randn(3, count, generator=generator))

    def forward(self, generator: torch.Generator | None = None) -> Tensor:
        """Lay the pixels out on the image. Returns P (1, 3, h, w); `generator` is not used."""
        flat = self.values.new_zeros(3, self.image_px**2)
        flat[:, self.support.flatten()] = self.values
        return flat.view(1, 3, self.image_px, self.image_px)


class PatchPrompt(nn.Module):
    """A square of learned pixels, in the top left corner or at a random place (VP, section 3).

    Args:
        image_px: side of the image.
        side_px: side of the square, 1 to image_px.
        position: "fixed" (top left corner) or "random" (a new place at every call that gives a generator).
        start_std: standard deviation of the start values.
        generator: source of the start values.

    Raises:
        ValueError: if the square does not fit or the position is unknown.
    """

    def __init__(
        self,
        image_px: int,
        side_px: int,
        position: str = "fixed",
        start_std: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if isinstance(side_px, bool) or not isinstance(side_px, int) or not 1 <= side_px <= image_px:
            raise ValueError(
                f"prompt_px is {side_px!r}, but a patch on {image_px} px images has a whole number from 1 to "
                f"{image_px} px on each side"
            )
        if position not in ("fixed", "random"):
            raise ValueError(f"position is {position!r}, but a patch is 'fixed' or 'random'")
        self.image_px, self.side_px, self.position = image_px, side_px, position
        self.values = nn.Parameter(start_std * torch.randn(3, side_px, side_px, generator=generator))

    @property
    def support(self) -> Tensor:
        """Pixels that the patch can reach: bool (h, w)."""
        support = torch.zeros(self.image_px, self.image_px, dtype=torch.bool)
        reach = self.image_px if self.position == "random" else self.side_px
        support[:reach, :reach] = True
        return support.to(self.values.device)

    def forward(self, generator: torch.Generator | None = None) -> Tensor:
        """Lay the patch on the image. Returns P (1, 3, h, w).

        Without a generator a random patch lies in the centre, so that evaluation does not depend on chance.
        """
        free = self.image_px - self.side_px
        top = left = 0
        if self.position == "random":
            top = left = free // 2
            if generator is not None:
                top, left = torch.randint(free + 1, (2,), generator=generator).tolist()
        return nn.functional.pad(self.values, (left, free - left, top, free - top))[None]


def build_prompt(
    kind: str,
    image_px: int,
    prompt_px: int,
    start_std: float = 1.0,
    generator: torch.Generator | None = None,
) -> FramePrompt | PatchPrompt:
    """Make the template of a kind: "frame", "fixed-patch" or "random-patch"."""
    if kind not in KINDS:
        raise ValueError(f"prompt_kind is {kind!r}, but it must be one of: {', '.join(KINDS)}")
    if kind == "frame":
        return FramePrompt(image_px, prompt_px, start_std, generator)
    return PatchPrompt(image_px, prompt_px, kind.removesuffix("-patch"), start_std, generator)
