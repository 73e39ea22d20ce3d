"""Pictures with captions, on which the small CLIP is trained; noise beside the object."""

import torch
import torch.nn.functional as F
from torch import Tensor

from adavipro.datasets.embedded import drawing
from adavipro.datasets.embedded.scenes import N_OBJECT_CLASSES
from adavipro.datasets.embedded.vocabulary import CLASS_NAMES

GRID = 7  # 56 px in regions of 8 px, as 224 px in regions of 32 px
# Captions for a class name and for a colour. The first is the paper's template.
CLASS_TEMPLATES = (
    "This is a photo of a {}",
    "a drawing of a {}",
    "a picture of the {}",
    "{}",
)
COLOUR_TEMPLATES = ("something {}", "a {} drawing", "the colour is {}")


def pictures(b: int, g: torch.Generator, clutter: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw pictures of all classes. Returns images (b, 3, h, w), classes (b,), colours (b,), object (b, 1, h, w).

    The object is the coverage of the glyph; for a texture it is zero everywhere: it has no object.
    """
    label = torch.randint(len(CLASS_NAMES), (b,), generator=g)
    colour, colour_index = drawing.colours(b, g)
    back = drawing.separate(drawing.background(b, g, clutter), colour, 0.45)
    is_texture = label >= N_OBJECT_CLASSES
    bank = drawing.glyph_bank()
    variant = torch.rand(b, generator=g)
    glyphs = torch.zeros(b, drawing.GLYPH_PX, drawing.GLYPH_PX)
    for i in (~is_texture).nonzero()[:, 0].tolist():
        variants = bank[int(label[i])]
        glyphs[i] = variants[int(variant[i] * len(variants))]
    coverage = drawing.place(glyphs, g, size=(0.42, 0.9))
    pattern = drawing.texture((label - N_OBJECT_CLASSES).clamp(min=0), g)
    alpha = torch.where(is_texture[:, None, None, None], pattern, coverage)
    image = back * (1 - alpha) + colour * alpha
    noise = 0.04 * clutter * torch.rand((b, 1, 1, 1), generator=g)
    image = image + noise * torch.randn(image.shape, generator=g)
    return image.clamp(0, 1), label, colour_index, coverage


def disturb(images: Tensor, coverage: Tensor, g: torch.Generator, share: float) -> Tensor:
    """Add Gaussian noise to regions away from the object, as CLIP is robust to clutter beside the object.

    Args:
        images: (b, 3, h, w), normalised.
        coverage: (b, 1, h, w), the object; where it is empty (textures) at most the outer regions are hit.
        share: share of the pictures that are disturbed.
    """
    b, _, h, _ = images.shape
    rand = lambda *shape: torch.rand(shape, generator=g)  # noqa: E731
    side = h // GRID
    object_share = F.avg_pool2d(coverage, side)
    frame = torch.ones(1, 1, GRID, GRID)
    frame[:, :, 1:-1, 1:-1] = 0
    scattered = (rand(b, 1, GRID, GRID) < rand(b, 1, 1, 1)).float()
    noisy = torch.where(rand(b, 1, 1, 1) < 0.4, frame.expand_as(scattered), scattered)
    textured = coverage.amax((1, 2, 3), keepdim=True) == 0
    away = torch.where(textured, frame, (object_share < 0.02).float())
    noisy = noisy * away * (rand(b, 1, 1, 1) < share)
    strength = 1.5 * rand(b, 1, 1, 1)
    grain = torch.randn(images.shape, generator=g)
    tint = torch.randn((b, 3, GRID, GRID), generator=g)
    noise = 0.8 * grain + 0.6 * tint.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return images + strength * noise * noisy.repeat_interleave(side, 2).repeat_interleave(side, 3)
