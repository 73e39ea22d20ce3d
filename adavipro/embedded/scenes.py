"""Pictures with captions for pretraining, and the small data sets to adapt to, each with a shift."""

import torch
import torch.nn.functional as F
from torch import Tensor

from adavipro.embedded import drawing
from adavipro.embedded.vocabulary import CLASS_NAMES, DIGITS, LETTERS, TEXTURES

GRID = 7  # 56 px in regions of 8 px, as 224 px in regions of 32 px
N_TEXT_CLASSES = len(DIGITS) + len(LETTERS)
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


def wear(images: Tensor, g: torch.Generator) -> Tensor:
    """Take pictures with a poor camera: less contrast, blur for half of them, noise. (b, 3, h, w) in [0, 1]."""
    b = len(images)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    images = torch.where(torch.rand((b, 1, 1, 1), generator=g) < 0.5, blurred, images)
    return _finish(images, g, drawing.uniform((b, 1, 1, 1), 0.3, 1.0, g), 0.03).float() / 255


# --- Data sets to adapt to -------------------------------------------------------------------------------------
# Each differs from the pretraining pictures in what it shows (real handwriting, unseen styles, shaky outlines)
# and in how (low contrast, blur, noise).


def _finish(image: Tensor, g: torch.Generator, contrast: float | Tensor, noise: float) -> Tensor:
    """Flatten the contrast, add noise, and store as uint8, as a poor camera would."""
    image = 0.5 * (1 - contrast) + contrast * image
    image = image + noise * torch.randn(image.shape, generator=g)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _scene(
    glyphs: Tensor, g: torch.Generator, size: tuple[float, float], contrast: float, noise: float
) -> tuple[Tensor, Tensor]:
    """Set glyphs (b, h, w) into scenes. Returns uint8 images (b, 3, h, w) and objects (b, 1, h, w)."""
    b = len(glyphs)
    colour, _ = drawing.colours(b, g)
    back = drawing.separate(drawing.background(b, g, clutter=0.5), colour, 0.45)
    coverage = drawing.place(glyphs, g, size)
    image = _finish(back * (1 - coverage) + colour * coverage, g, contrast, noise)
    return image, (coverage * 255).round().to(torch.uint8)


def handwritten_digits(scans: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Set 8x8 scans of real handwriting, values 0 to 16, (b, 8, 8), into scenes."""
    side = drawing.GLYPH_PX
    large = F.interpolate(scans.float()[:, None] / 16, size=(side, side), mode="bicubic", align_corners=False)
    ink = ((large[:, 0] - 0.3) / 0.4).clamp(0, 1)
    return _scene(ink, g, size=(0.5, 0.9), contrast=0.5, noise=0.03)


def pick(bank: list[Tensor], label: Tensor, g: torch.Generator) -> Tensor:
    """Pick a random variant of each label's glyph. Returns (b, h, w)."""
    chance = torch.rand(len(label), generator=g).tolist()
    return torch.stack([bank[k][int(c * len(bank[k]))] for k, c in zip(label.tolist(), chance, strict=True)])


def unseen_letters(label: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Letters in styles that pretraining never showed (script, fraktur, circled, typewriter)."""
    return _scene(pick(drawing.unseen_letter_bank(), label, g), g, size=(0.5, 0.9), contrast=0.5, noise=0.03)


def sketches(label: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Symbols as an unsteady hand would draw them: outlines, bent by a smooth random field."""
    glyphs = pick(drawing.glyph_bank()[N_TEXT_CLASSES:N_OBJECT_CLASSES], label, g)[:, None]
    outline = F.max_pool2d(glyphs, 5, 1, 2) + F.max_pool2d(-glyphs, 5, 1, 2)
    bend = F.interpolate(
        0.045 * torch.randn((len(label), 2, 6, 6), generator=g), size=outline.shape[2:], mode="bicubic"
    )
    straight = F.affine_grid(
        torch.eye(2, 3).repeat(len(label), 1, 1), list(outline.shape), align_corners=False
    )
    drawn = F.grid_sample(outline, straight + bend.permute(0, 2, 3, 1), align_corners=False)
    return _scene(drawn[:, 0], g, size=(0.55, 0.95), contrast=0.6, noise=0.03)


def worn_textures(label: Tensor, g: torch.Generator) -> tuple[Tensor, None]:
    """Textures that fill the image, faded and blurred, under uneven light. They have no object."""
    b = len(label)
    colour, _ = drawing.colours(b, g)
    back = drawing.separate(drawing.background(b, g, clutter=0.3), colour, 0.45)
    pattern = drawing.texture(label, g)
    light = 1 + 0.3 * drawing.smooth_noise(b, 1, 3, g)
    image = back * (1 - pattern) + colour * pattern
    image = F.avg_pool2d(F.pad(image * light, (1, 1, 1, 1), mode="reflect"), 3, 1)
    return _finish(image, g, contrast=0.5, noise=0.02), None
