"""Faults D1 and D3 for a single image: the right tensor, or an error that says why not."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

from adavipro.decoding import ImageError, to_tensor
from adavipro.settings import SettingError


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(width=90, height=64):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_that_says(width, height):
    """A PNG of one pixel whose header gives another size."""
    content = encoded(Image.new("RGB", (1, 1)))
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.mark.parametrize(
    "size", [(90, 64), (64, 90), (56, 56), (57, 56), (20, 31), (1, 1), (10, 4000), (4000, 10)]
)
def test_size_is_that_of_clips_preprocessing(size):
    image = scene(*size)
    resized = functional.resize(image, 56, InterpolationMode.BICUBIC)
    expected = functional.pil_to_tensor(functional.center_crop(resized, 56))
    found = to_tensor(encoded(image), 56)
    assert (found.shape, found.dtype) == ((3, 56, 56), torch.uint8)
    assert torch.equal(found, expected)
    assert torch.equal(to_tensor(image, 56), expected)
    assert to_tensor(image, 224).shape == (3, 224, 224)


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
ALPHA = np.where(np.arange(64).reshape(8, 8) < 32, 255, 0).astype(np.uint8)
OVER_WHITE = np.where(ALPHA == 255, GREY, 255)


def in_mode(mode):
    grey, alpha = Image.fromarray(GREY), Image.fromarray(ALPHA)
    if mode == "LA":
        return Image.merge("LA", (grey, alpha)), OVER_WHITE
    if mode == "RGBA":
        return Image.merge("RGBA", (grey, grey, grey, alpha)), OVER_WHITE
    if mode == "I;16":
        return Image.fromarray(GREY.astype(np.uint16) * 257), GREY
    if mode == "CMYK":
        return Image.merge("CMYK", [Image.new("L", (8, 8))] * 3 + [Image.fromarray(255 - GREY)]), GREY
    return grey.convert(mode), GREY


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *[(m, "PNG") for m in ("L", "LA", "RGBA", "P", "I;16")],
        ("CMYK", "TIFF"),
        ("I;16", "TIFF"),
        ("I", "TIFF"),
        ("RGB", "BMP"),
    ],
)
def test_every_mode_is_the_right_rgb(mode, kind):
    image, expected = in_mode(mode)
    content = encoded(image, kind)
    assert Image.open(io.BytesIO(content)).mode == mode
    if mode == "I":  # 32 bit: read as 16 bit
        expected = (GREY.astype(int) + 128) // 257
    found = to_tensor(content, 8).numpy()
    assert (found == expected[None]).all()


def test_palette_with_a_transparent_colour_is_white_there():
    image = Image.fromarray(np.where(ALPHA == 255, 1, 0).astype(np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 128, 0])
    found = to_tensor(encoded(image, transparency=0), 8).permute(1, 2, 0).numpy()
    assert (found == np.where(ALPHA[..., None] == 255, [0, 128, 0], 255)).all()


def test_image_is_turned_as_its_exif_says():
    image, exif = scene(30, 20), Image.Exif()
    exif[0x0112] = 6  # stored on its side: turn it clockwise
    expected = to_tensor(image.transpose(Image.Transpose.ROTATE_270), 20)
    assert torch.equal(to_tensor(encoded(image, exif=exif), 20), expected)
    assert not torch.equal(to_tensor(image, 20), expected)


WRONG = {
    "truncated JPEG": (encoded(scene(), "JPEG")[:-900], "truncated"),
    "truncated PNG": (encoded(scene())[:-900], "truncated"),
    "empty": (b"", "the file is empty"),
    "web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "the file is HTML"),
    "400 megapixels": (png_that_says(20_000, 20_000), "pixel"),
    "81 megapixels": (
        png_that_says(9_000, 9_000),
        "9000 x 9000 pixels are more than the limit of 80,000,000",
    ),
    "long strip": (png_that_says(1, 30_000), "1 x 30000 .*56 px on the shorter side"),
    "text": (b"just words", "the file is none of JPEG, PNG"),
    "vector drawing": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "the file is none of JPEG"),
    "floating point": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
    "32 bit": (encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), "70000, expected 16 bit"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_d1_file_that_cannot_be_used_is_an_error_that_says_why(name):
    content, told = WRONG[name]
    with pytest.raises(ImageError, match=told) as caught:
        to_tensor(content, 56)
    assert "\n" not in str(caught.value)


def test_d1_pixels_are_not_invented(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(SettingError, match=re.escape("LOAD_TRUNCATED_IMAGES is on")):
        to_tensor(WRONG["truncated JPEG"][0], 56)
