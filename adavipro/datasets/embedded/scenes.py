"""The small data sets to adapt to, each with a shift from what the small CLIP was trained on."""

import torch
import torch.nn.functional as F
from torch import Tensor

from adavipro.datasets.embedded import drawing
from adavipro.datasets.embedded.vocabulary import CLASS_NAMES, DIGITS, LETTERS, TEXTURES

N_TEXT_CLASSES = len(DIGITS) + len(LETTERS)
N_OBJECT_CLASSES = len(CLASS_NAMES) - len(TEXTURES)


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


def scene(
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
    return scene(ink, g, size=(0.5, 0.9), contrast=0.5, noise=0.03)


def pick(bank: list[Tensor], label: Tensor, g: torch.Generator) -> Tensor:
    """Pick a random variant of each label's glyph. Returns (b, h, w)."""
    chance = torch.rand(len(label), generator=g).tolist()
    return torch.stack([bank[k][int(c * len(bank[k]))] for k, c in zip(label.tolist(), chance, strict=True)])


def unseen_letters(label: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Letters in styles that pretraining never showed (script, fraktur, circled, typewriter)."""
    return scene(pick(drawing.unseen_letter_bank(), label, g), g, size=(0.5, 0.9), contrast=0.5, noise=0.03)


def sketches(label: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Symbols as an unsteady hand would draw them: outlines, bent by a smooth random field."""
    glyphs = pick(drawing.glyph_bank()[N_TEXT_CLASSES:N_OBJECT_CLASSES], label, g)[:, None]
    outline = F.max_pool2d(glyphs, 5, 1, 2) + F.max_pool2d(-glyphs, 5, 1, 2)
    bend = 0.045 * torch.randn((len(label), 2, 6, 6), generator=g)
    bend = F.interpolate(bend, size=outline.shape[2:], mode="bicubic")
    straight = torch.eye(2, 3).repeat(len(label), 1, 1)
    straight = F.affine_grid(straight, list(outline.shape), align_corners=False)
    drawn = F.grid_sample(outline, straight + bend.permute(0, 2, 3, 1), align_corners=False)
    return scene(drawn[:, 0], g, size=(0.55, 0.95), contrast=0.6, noise=0.03)


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
