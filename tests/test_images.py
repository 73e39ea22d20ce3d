"""Faults D1 and D3 for a single image: the right tensor, or an error that says why not."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageFile, ImageOps
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

from adavipro.datasets.images import ImageError, decode_all, read_image, to_tensor
from adavipro.recipe import SettingError


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(width=90, height=64, channels=3):
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values, "CMYK" if channels == 4 else None)


def clips(image, px):
    """The transform that users of CLIP write."""
    resized = functional.resize(image.convert("RGB"), px, InterpolationMode.BICUBIC)
    return functional.pil_to_tensor(functional.center_crop(resized, px))


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_that_says(width, height):
    """A PNG of one pixel whose header gives another size."""
    content = encoded(Image.new("RGB", (1, 1)))
    return content[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + content[24:29]) + content[33:]


@pytest.mark.parametrize("size", [(90, 64), (64, 90), (56, 56), (57, 56), (1, 1), (10, 4000), (4000, 10)])
def test_size_is_that_of_clips_preprocessing(size):
    image = scene(*size)
    found = to_tensor(encoded(image), 56)
    assert (found.shape, found.dtype) == ((3, 56, 56), torch.uint8)
    assert torch.equal(found, clips(image, 56))
    assert torch.equal(to_tensor(image, 56), found)


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
    if mode == "I":  # 32 bit: read as 16 bit
        return grey.convert("I"), (GREY.astype(int) + 128) // 257
    if mode == "CMYK":
        return Image.merge("CMYK", [Image.new("L", (8, 8))] * 3 + [Image.fromarray(255 - GREY)]), GREY
    return grey.convert(mode), GREY


KINDS = {"CMYK": "TIFF", "I": "TIFF", "RGB": "BMP"}


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16", "CMYK", "I", "RGB"])
def test_every_mode_is_the_right_rgb(mode):
    image, expected = in_mode(mode)
    content = encoded(image, KINDS.get(mode, "PNG"))
    assert Image.open(io.BytesIO(content)).mode == mode
    assert (to_tensor(content, 8).numpy() == expected[None]).all()


def test_palette_with_a_transparent_colour_is_white_there():
    image = Image.fromarray(np.where(ALPHA == 255, 1, 0).astype(np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 128, 0])
    found = to_tensor(encoded(image, transparency=0), 8).permute(1, 2, 0).numpy()
    assert (found == np.where(ALPHA[..., None] == 255, [0, 128, 0], 255)).all()


# --- EXIF ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_as_its_exif_says(orientation):
    """All eight, against Pillow's own way, which rewrites the EXIF and so fails where that is damaged."""
    image, exif = scene(30, 20), Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert torch.equal(to_tensor(content, 20), to_tensor(expected, 20))


def exif(*entries, extra=b""):
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    head += b"".join(struct.pack("<HHI", tag, kind, n) + value for tag, kind, n, value in entries)
    return b"Exif\0\0" + head + b"\0\0\0\0" + extra


PNG, SIDE = encoded(scene(32, 32)), (0x112, 3, 1, struct.pack("<HH", 6, 0))
DAMAGED = {
    "PNG whose EXIF is no TIFF": PNG[:33] + chunk(b"eXIf", b"\0\x08\0\2\1\x12\0\3") + PNG[33:],
    "PNG whose text is no EXIF": PNG[:33]
    + chunk(b"tEXt", b"Raw profile type exif\0\nexif\n    8\nzz\n")
    + PNG[33:],
    "WebP whose EXIF is no TIFF": encoded(
        scene(32, 32), "WEBP", lossless=True, exif=b"Exif\0\0garbage garbage"
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_picture_with_damaged_exif_is_upright(name):
    assert torch.equal(to_tensor(DAMAGED[name], 32), clips(scene(32, 32), 32))


def test_orientation_is_read_where_the_rest_of_the_exif_is_damaged():
    extra = exif(SIDE, (0x11A, 10, 1, struct.pack("<I", 38)), extra=struct.pack("<ii", -1, 0))
    found = to_tensor(encoded(scene(32, 32), "JPEG", exif=extra), 32)
    stored = to_tensor(encoded(scene(32, 32), "JPEG"), 32)
    assert torch.equal(found, stored.rot90(-1, (1, 2)))


# --- Plain: the nine data sets of the paper -----------------------------------------------------------------------

TURNED = Image.Exif()
TURNED[0x0112] = 6
PLAIN = {
    "landscape": encoded(scene(500, 375), "JPEG"),
    "portrait": encoded(scene(333, 499), "JPEG"),
    "strip": encoded(scene(9, 120)),
    "grey": encoded(scene().convert("L"), "JPEG"),
    "CMYK": encoded(scene(channels=4), "JPEG"),
    "palette with one clear colour": encoded(scene().quantize(64), transparency=3),
    "RGBA": encoded(in_mode("RGBA")[0]),
    "EXIF": encoded(scene(), "JPEG", exif=TURNED),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_pixels_are_those_that_users_of_clip_compute_bit_for_bit(kind):
    found = to_tensor(PLAIN[kind], 224, plain=True)
    assert torch.equal(found, clips(Image.open(io.BytesIO(PLAIN[kind])), 224))
    differs = kind in ("EXIF", "RGBA", "palette with one clear colour")
    assert torch.equal(to_tensor(PLAIN[kind], 224), found) is not differs
    if kind in ("landscape", "portrait", "strip", "EXIF"):  # the others it resizes before they are RGB
        transform = open_clip.image_transform(224, is_train=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        assert torch.equal(found.float() / 255, transform(Image.open(io.BytesIO(PLAIN[kind]))))


# --- What cannot be used ------------------------------------------------------------------------------------------

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
    with pytest.raises(SettingError, match="LOAD_TRUNCATED_IMAGES is on"):
        to_tensor(WRONG["truncated JPEG"][0], 56)


# --- What programs have -------------------------------------------------------------------------------------------


def test_picture_is_read_from_whatever_programs_have(tmp_path, monkeypatch):
    image = scene()
    array, content = np.array(image), encoded(image)
    (tmp_path / "x.png").write_bytes(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    forms = [
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        "~/x.png",
        content,
    ]
    tensor, greys = torch.from_numpy(array).movedim(-1, 0), np.array(image.convert("L"))
    for form in [*forms, io.BytesIO(content), image, array, tensor]:
        assert torch.equal(read_image(form, 56), to_tensor(content, 56))
    grey = torch.from_numpy(np.array(image.convert("L"))[..., None].repeat(3, 2)).permute(2, 0, 1)
    for form in (greys, greys[..., None], torch.from_numpy(greys)[None]):
        assert torch.equal(read_image(form, 64), clips(functional.to_pil_image(grey), 64))


NO_PICTURES = {
    "it is a Tensor": torch.zeros(8, 8, dtype=torch.uint8),
    r"it is an array float32 \(8, 8, 3\)": torch.zeros(3, 8, 8),
    r"it is an array float64 \(8, 8\)": np.zeros((8, 8)),
    r"it is an array uint8 \(8, 8, 2\)": np.zeros((8, 8, 2), np.uint8),
    r"it is an array uint8 \(0, 8, 3\)": np.zeros((0, 8, 3), np.uint8),
    r"it is an array uint8 \(2, 8, 8, 3\)": np.zeros((2, 8, 8, 3), np.uint8),
    "it is a int": 3,
    "it is a NoneType": None,
    r"it cannot be read \(No such file or directory\)": "https://example.org/a.jpg",
    r"it cannot be read \(Is a directory\)": Path(__file__).parent,
    r"it cannot be read \(embedded null byte\)": "a\0.png",
    r"it cannot be read \('~nobody-here/a.png' needs a home folder": "~nobody-here/a.png",
}


@pytest.mark.parametrize("told", NO_PICTURES)
def test_what_is_no_picture_is_told_with_what_is_accepted(told):
    with pytest.raises(ImageError, match=rf"^{told}.*, expected a path, bytes, .* of uint8$"):
        read_image(NO_PICTURES[told], 56)


def test_many_pictures_are_decoded_in_order_and_all_faults_named_at_the_end(tmp_path):
    files = {f"{i}.png": tmp_path / f"{i}.png" for i in range(300)}
    for i, file in enumerate(files.values()):
        file.write_bytes(encoded(Image.new("L", (2, 2), i % 256)) if i not in (7, 290) else b"")
    files["8.png"].unlink()
    found = (int(image[0, 0, 0]) for image in decode_all(files, 2, "files in here"))
    assert [next(found) for _ in range(297)] == [i % 256 for i in range(300) if i not in (7, 8, 290)]
    told = (
        "3 of 300 files in here cannot be used: 7.png: the file is empty; 8.png: it cannot be read "
        "(No such file or directory); 290.png: the file is empty"
    )
    with pytest.raises(SettingError, match=f"^{re.escape(told)}$"):
        next(found)
    scans = {i: np.full((2, 2), i, np.uint8) for i in range(3)}
    assert [int(image[0, 0, 0]) for image in decode_all(scans, 2, "scans", plain=True)] == [0, 1, 2]
