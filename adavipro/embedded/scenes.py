"""Pictures with captions for pretraining, and the small data sets to adapt to, each with a shift."""

import torch
from torch import Tensor

from adavipro.embedded import drawing
from adavipro.embedded.vocabulary import CLASS_NAMES, TEXTURES

N_OBJECT_CLASSES = len(CLASS_NAMES) - len(TEXTURES)


def pretraining_pictures(
    b: int, g: torch.Generator, clutter: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
