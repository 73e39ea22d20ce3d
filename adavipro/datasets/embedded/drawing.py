"""Draw the small world with torch: glyphs from matplotlib's fonts, textures, colours, backgrounds.

Every function is a pure function of its generator, works on a batch, and returns values in [0, 1].
"""

import functools
import math
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from adavipro.datasets.embedded.vocabulary import COLOURS, DIGITS, LETTERS, SYMBOLS

IMAGE_PX = 56
GLYPH_PX = 64

TEXT_FONTS = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSans-BoldOblique DejaVuSansMono DejaVuSansMono-Bold "
    "DejaVuSansMono-Oblique DejaVuSerif DejaVuSerif-Bold DejaVuSerif-Italic DejaVuSerif-BoldItalic STIXGeneral "
    "STIXGeneralBol STIXGeneralItalic STIXGeneralBolIta cmr10 cmb10 cmss10 cmtt10 cmti10"
).split()
SYMBOL_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "STIXGeneral")

# Letter styles that pretraining never shows: (font, code point of the style's capital A).
UNSEEN_LETTER_STYLES = (
    ("STIXGeneral", 0x1D4D0),  # bold script
    ("STIXGeneralBol", 0x1D56C),  # bold fraktur
    ("STIXGeneral", 0x1D63C),  # sans-serif bold italic
    ("STIXGeneral", 0x24B6),  # circled
    ("cmmi10", 0x41),  # mathematical italic
    ("STIXGeneral", 0x1D670),  # typewriter
)


@functools.cache
def _face(font: str) -> FT2Font:
    return FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"))


def draw_glyph(character: str, font: str) -> Tensor | None:
    """Draw one character, scaled to fill a square of GLYPH_PX; None where the font lacks it. Returns (h, w)."""
    if not _face(font).get_char_index(ord(character)):
        return None
    canvas = Image.new("L", (240, 240), 0)
    face = ImageFont.truetype(_face(font).fname, 96)
    ImageDraw.Draw(canvas).text((60, 40), character, fill=255, font=face)
    glyph = canvas.crop(canvas.getbbox())
    scale = 0.94 * GLYPH_PX / max(glyph.size)
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    square = Image.new("L", (GLYPH_PX, GLYPH_PX), 0)
    corner = ((GLYPH_PX - size[0]) // 2, (GLYPH_PX - size[1]) // 2)
    square.paste(glyph.resize(size, Image.Resampling.LANCZOS), corner)
    return torch.from_numpy(np.array(square)).float() / 255


def _bank(entries: list[list[tuple[str, str]]]) -> list[Tensor]:
    """Draw, for each class, every (character, font) that exists. Returns one (n, h, w) stack a class."""
    drawn = [[draw_glyph(c, f) for c, f in variants] for variants in entries]
    return [torch.stack([g for g in glyphs if g is not None]) for glyphs in drawn]


@functools.cache
def glyph_bank() -> list[Tensor]:
    """Glyphs of the digits, letters and symbols, in the order of the vocabulary: a list of (n, h, w)."""
    digits = [[(str(i), f) for f in TEXT_FONTS] for i in range(len(DIGITS))]
    letters = [[(name[-1].upper(), f) for f in TEXT_FONTS] for name in LETTERS]
    symbols = [[(c, f) for f in SYMBOL_FONTS] for c in SYMBOLS.values()]
    return _bank(digits + letters + symbols)


@functools.cache
def unseen_letter_bank() -> list[Tensor]:
    """The letters in styles that pretraining never shows: a list of (n, h, w), in the order of LETTERS."""
    places = [ord(name[-1]) - ord("a") for name in LETTERS]  # in the alphabet
    return _bank([[(chr(base + i), font) for font, base in UNSEEN_LETTER_STYLES] for i in places])


def uniform(shape: tuple[int, ...], low: float, high: float, g: torch.Generator) -> Tensor:
    """Draw uniform numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=g)


def place(glyphs: Tensor, g: torch.Generator, size: tuple[float, float]) -> Tensor:
    """Put glyphs (b, h, w) at a random place, size, tilt and slant. Returns coverage (b, 1, IMAGE_PX, IMAGE_PX).

    The least and the largest `size` of the glyph's square are shares of the picture's side.
    """
    b = len(glyphs)
    scale = uniform((b,), *size, g)
    angle = uniform((b,), -15.0, 15.0, g) * math.pi / 180
    shear, stretch = uniform((b,), -0.15, 0.15, g), uniform((b,), 0.85, 1.0, g)
    shift = uniform((b, 2), -1, 1, g) * (1 - scale)[:, None]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    slant = torch.eye(2).repeat(b, 1, 1)
    slant[:, 0, 1], slant[:, 0, 0] = shear, 1 / stretch
    linear = slant @ rotation
    offset = -(linear @ shift[:, :, None])
    grid = F.affine_grid(torch.cat([linear, offset], 2), [b, 1, IMAGE_PX, IMAGE_PX], align_corners=False)
    return F.grid_sample(glyphs[:, None], grid, align_corners=False)


def smooth_noise(b: int, channels: int, cells: int, g: torch.Generator) -> Tensor:
    """Gaussian noise on a coarse grid of cells, enlarged: clouds of a given grain. Returns (b, c, h, w)."""
    coarse = torch.randn((b, channels, cells, cells), generator=g)
    return F.interpolate(coarse, size=(IMAGE_PX, IMAGE_PX), mode="bilinear", align_corners=False)


def background(b: int, g: torch.Generator, clutter: float) -> Tensor:
    """A plain colour with soft clouds, fine grain and, at times, a faint texture. Returns (b, 3, h, w)."""
    amount = clutter * torch.rand((b, 3, 1, 1, 1), generator=g)
    picture = torch.rand((b, 3, 1, 1), generator=g)
    picture = picture + 0.25 * amount[:, 0] * smooth_noise(b, 3, 5, g)
    picture = picture + 0.15 * amount[:, 1] * smooth_noise(b, 3, 14, g)
    textured = (torch.rand((b, 1, 1, 1), generator=g) < 0.5).float()
    pattern = texture(torch.randint(12, (b,), generator=g), g) - 0.5
    return (picture + 0.35 * textured * amount[:, 2] * pattern).clamp(0, 1)


def colours(b: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw named colours with a little variation. Returns colours (b, 3, 1, 1) and their indices (b,)."""
    palette = torch.tensor(list(COLOURS.values()))
    index = torch.randint(len(palette), (b,), generator=g)
    drawn = palette[index] + 0.05 * torch.randn((b, 3), generator=g)
    return drawn.clamp(0, 1)[:, :, None, None], index


def separate(back: Tensor, colour: Tensor, distance: float) -> Tensor:
    """Move backgrounds that are within `distance` of the object's colour away from it. Returns (b, 3, h, w)."""
    mean = back.mean((2, 3), keepdim=True)
    gap = (mean - colour).abs().amax(1, keepdim=True)
    target = torch.where(colour.mean(1, keepdim=True) > 0.5, colour - 0.6, colour + 0.6).clamp(0, 1)
    return torch.where(gap < distance, back - mean + target, back).clamp(0, 1)


def texture(kind: Tensor, g: torch.Generator) -> Tensor:
    """Draw patterns, by index (b,) into TEXTURES, that fill the picture. Returns (b, 1, h, w) in [0, 1]."""
    b = len(kind)
    axis = torch.linspace(-1, 1, IMAGE_PX)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = uniform((b, 1, 1), 0, 2 * math.pi, g)
    waves = uniform((b, 1, 1), 2.5, 5.0, g) * math.pi
    phase = uniform((b, 2, 1, 1), 0, 2 * math.pi, g)
    centre = uniform((b, 2, 1, 1), -0.5, 0.5, g)
    u = waves * (x * angle.cos() + y * angle.sin()) + phase[:, 0]
    v = waves * (y * angle.cos() - x * angle.sin()) + phase[:, 1]
    dx, dy = x - centre[:, 0], y - centre[:, 1]
    radius, bearing = (dx**2 + dy**2).sqrt() * waves * 1.3, torch.atan2(dy, dx)
    triangle = 2 * torch.asin(torch.sin(u)) / math.pi
    bond = u / 1.3 + torch.floor(v / math.pi) * math.pi  # every other row of bricks is shifted
    grain = smooth_noise(b, 1, 28, g)[:, 0]
    bubbles = torch.cos(u) + torch.cos(u / 2 + 0.866 * v) + torch.cos(u / 2 - 0.866 * v)
    patterns = [
        lambda i: torch.sin(u[i]),  # striped
        lambda i: torch.sin(u[i]) * torch.sin(v[i]) * 2,  # checkered
        lambda i: torch.cos(u[i] * 1.2) + torch.cos(v[i] * 1.2) - 0.7,  # dotted
        lambda i: torch.sin(radius[i] + phase[i, 0]),  # ringed
        lambda i: torch.maximum(torch.cos(u[i]), torch.cos(v[i])) - 0.8,  # gridded
        lambda i: torch.sin(v[i] * 1.4 + 2.4 * triangle[i]),  # zigzag
        lambda i: torch.sin(v[i] + 1.5 * torch.sin(u[i] * 0.7)),  # wavy
        lambda i: torch.maximum(torch.cos(2 * v[i]), torch.cos(bond[i])) - 0.85,  # brick
        lambda i: 0.3 - bubbles[i].abs(),  # bubbly
        lambda i: torch.sin(radius[i] + bearing[i] * 2),  # spiral
        lambda i: torch.sin(bearing[i] * torch.round(waves[i]) + phase[i, 0]),  # rayed
        lambda i: grain[i] - 0.3,  # speckled
    ]
    drawn = torch.empty(b, IMAGE_PX, IMAGE_PX)
    for k, pattern in enumerate(patterns):
        chosen = (kind == k).nonzero()[:, 0]
        drawn[chosen] = pattern(chosen)
    return torch.sigmoid(5 * drawn)[:, None]
