"""Pictures with captions, on which the small CLIP is trained, and clutter that knows nothing of the method."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from adavipro.datasets.embedded import drawing
from adavipro.datasets.embedded.scenes import N_OBJECT_CLASSES
from adavipro.datasets.embedded.vocabulary import CLASS_NAMES

SHAPES = 5  # of clutter in a picture, at most
HIDDEN = 0.3  # share of the object that clutter may lie on
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


def clutter(images: Tensor, coverage: Tensor, g: torch.Generator, share: float) -> Tensor:
    """Lay foreign shapes over pictures, as photographs have things beside and before what they show.

    Up to SHAPES boxes, discs, bars and blobs a picture, of any place, size and tilt. Each is filled with noise, with
    a smear of the picture, with a plain colour or with a pattern. Of the object it heeds one thing: a shape that
    would bring the hidden share of the object over HIDDEN is left out, since the class would be lost with it.

    Args:
        images: (b, 3, h, w), normalised.
        coverage: (b, 1, h, w), the object; where it is empty (textures) the whole picture counts as the object.
        share: share of the pictures that are cluttered.
    """
    chosen = (torch.rand(len(images), generator=g) < share).nonzero()[:, 0]
    if not len(chosen):
        return images
    kept, coverage, b = images[chosen], coverage[chosen], len(chosen)
    rand = lambda *shape: torch.rand(shape, generator=g)  # noqa: E731
    object_ = torch.where(coverage.amax((1, 2, 3), keepdim=True) == 0, torch.ones(()), coverage)
    object_ = object_ / object_.sum((1, 2, 3), keepdim=True)
    filling = torch.zeros(coverage.shape, dtype=torch.uint8)  # that of the shape on top; 0: the picture
    plain = torch.zeros_like(kept)
    for _ in range(SHAPES):
        shape = _shapes(b, g)
        hidden = ((shape | (filling > 0)) * object_).sum((1, 2, 3), keepdim=True)
        shape &= (hidden <= HIDDEN) & (rand(b, 1, 1, 1) < 0.8)
        filling = torch.where(shape, torch.randint(1, 6, (b, 1, 1, 1), generator=g).byte(), filling)
        plain = torch.where(shape, 3.5 * rand(b, 3, 1, 1) - 1.7, plain)  # any normalised colour
    cells = (5, 14, 28)[int(3 * rand(1).item())]
    noise = 0.8 * torch.randn(kept.shape, generator=g) + 0.6 * drawing.smooth_noise(b, 3, cells, g)
    result = torch.where((filling == 1) | (filling == 2), kept + 2 * rand(b, 1, 1, 1) * noise, kept)
    result = torch.where(filling == 3, F.avg_pool2d(kept, 9, 1, 4, count_include_pad=False), result)
    result = torch.where(filling == 4, plain, result)
    pattern = drawing.texture(torch.randint(12, (b,), generator=g), g)
    result = torch.where(filling == 5, plain + 1.5 * pattern - 0.75, result)
    return images.index_copy(0, chosen, result)


def _shapes(b: int, g: torch.Generator) -> Tensor:
    """Draw one box, disc, bar or blob a picture, at any place, partly outside as well. Returns bool (b, 1, h, w)."""
    px = drawing.IMAGE_PX
    axis = torch.arange(px) + 0.5
    place = drawing.uniform((2, b, 1, 1), -px / 4, 1.25 * px, g)
    angle = drawing.uniform((b, 1, 1), 0, math.pi, g)
    # Half sides of 3 to 56 px, small ones more often.
    half = 3 * (px / 3) ** torch.rand((2, b, 1, 1), generator=g)
    kind = torch.randint(4, (b, 1, 1), generator=g)
    bar, blob, box = kind == 2, kind == 3, kind == 0
    cos, sin = angle.cos(), angle.sin()
    dx, dy = axis[None, None, :] - place[0], axis[None, :, None] - place[1]
    u = (dx * cos + dy * sin).abs() / torch.where(bar, 2.0 * px, half[0])
    v = (dy * cos - dx * sin).abs() / torch.where(bar, half[1] / 4, half[1])
    edge = 1 + 0.5 * blob * drawing.smooth_noise(b, 1, 8, g)[:, 0]
    return torch.where(box | bar, torch.maximum(u, v), u * u + v * v).lt(edge.clamp(min=0.2))[:, None]
