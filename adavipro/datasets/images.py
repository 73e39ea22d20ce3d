"""Image files to tensors of a model's size: right for every mode, or an error that says why not."""

import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from adavipro.io import cache_folder, expanded, write_atomically
from adavipro.recipe import SettingError

PIXEL_LIMIT = 80_000_000  # of one image, as it is and as it is enlarged
PLAIN_LIMIT = 178_956_970  # the same for plain decoding: where Pillow refuses by itself
PLAIN_VERSION = 1  # of plain decoding: raise it when a pixel changes, so that nothing kept passes for the new
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_To = Image.Transpose
_UPRIGHT = {  # what makes an image upright, by the orientation that its EXIF tells
    2: _To.FLIP_LEFT_RIGHT, 3: _To.ROTATE_180, 4: _To.FLIP_TOP_BOTTOM, 5: _To.TRANSPOSE, 6: _To.ROTATE_270,
    7: _To.TRANSVERSE, 8: _To.ROTATE_90,
}  # fmt: skip


class ImageError(ValueError):
    """An image cannot be used; the message says why, without the file's name."""


def to_tensor(source: bytes | Image.Image, image_px: int, plain: bool = False) -> Tensor:
    """Decode an image and give it a model's size, as CLIP's preprocessing does. Returns uint8 (3, image_px, image_px).

    Turned upright as its EXIF says, to RGB (transparency over white, 16 bit to 8, the first picture of several), the
    shorter side to `image_px` with bicubic resampling, then the centre.

    Args:
        source: a file's content, or an image of Pillow's.
        plain: neither turn it nor fill what is transparent, only convert it to RGB. Published results on public data
            sets were computed so, and the pixels must be theirs.

    Raises:
        ImageError: if it is damaged, no image, or larger than the limit. Nothing is put in its place.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SettingError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, which invents pixels: turn it off")
    try:
        image = source if isinstance(source, Image.Image) else Image.open(io.BytesIO(source), formats=FORMATS)
        short, long = sorted(image.size)
        limit = PLAIN_LIMIT if plain else PIXEL_LIMIT
        if max(short * long, image_px * image_px * long / short) > limit:
            told = f"its {image.width} x {image.height} pixels are more than the limit"
            raise ValueError(f"{told} of {limit:,}, or would be with {image_px} px on the shorter side")
        image = image.convert("RGB") if plain else _to_rgb(_upright(image))
        width, height = (int(image_px * side / short) for side in image.size)
        left, top = round((width - image_px) / 2), round((height - image_px) / 2)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + image_px, top + image_px))
    except Exception as error:  # a file from anywhere: Pillow raises whatever its decoders do
        raise ImageError(_reason(source, error)) from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _reason(source: bytes | Image.Image, error: Exception) -> str:
    if source == b"":
        return "the file is empty"
    if isinstance(source, bytes) and source.lstrip()[:1] == b"<":
        return "the file is HTML or other text, not an image"
    if isinstance(error, UnidentifiedImageError):
        return f"the file is none of {', '.join(FORMATS)}"
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF says; as it is where that cannot be read, for its pixels are sound."""
    try:
        turn = _UPRIGHT.get(int(image.getexif().get(0x0112, 1)))
    except Exception:  # damaged EXIF: Pillow raises whatever its parser stumbles over
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its values lie from {values.min()} to {values.max()}, expected 16 bit")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_image(source: Any, image_px: int) -> Tensor:
    """Read an image in any of the forms that programs have it in, as `to_tensor` does. Returns uint8 (3, px, px).

    Args:
        source: a path, a file's content (bytes), an open binary file, an image of Pillow's, or an array (h, w),
            (h, w, 1), (h, w, 3) or (h, w, 4) of uint8; or a tensor of uint8, channels first.

    Raises:
        ImageError: if it is none of these, or cannot be used.
    """
    expected = "expected a path, bytes, a binary file, an image of Pillow's, or an array (h, w, 3) of uint8"
    if isinstance(source, str | os.PathLike):
        try:
            source = expanded(os.fsdecode(source)).read_bytes()
        except (OSError, ValueError) as error:  # an address, a folder, a name with a zero byte
            raise ImageError(
                f"it cannot be read ({getattr(error, 'strerror', None) or error}), {expected}"
            ) from None
    elif isinstance(source, Tensor) and source.ndim == 3:
        source = source.movedim(0, -1).numpy(force=True)
    elif hasattr(source, "read"):
        source = source.read()
    if isinstance(source, np.ndarray):
        array = source[..., 0] if source.shape[2:] == (1,) else source
        if (
            array.dtype != np.uint8
            or array.ndim < 2
            or array.shape[2:] not in ((), (3,), (4,))
            or not array.size
        ):
            raise ImageError(f"it is an array {source.dtype} {source.shape}, {expected}")
        source = Image.fromarray(array)
    if not isinstance(source, bytes | Image.Image):
        raise ImageError(f"it is a {type(source).__name__}, {expected}")
    return to_tensor(source, image_px)


def cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_all(
    sources: Mapping[Any, Path | np.ndarray], image_px: int, told: str, plain: bool = False
) -> Iterator[Tensor]:
    """Decode named files and pixels in threads, as `to_tensor`, on the cores that this process may use; in order.

    Raises:
        SettingError: at the end, with the name of each that cannot be used and why: so many of so many `told`.
    """
    bad = []

    def one(named: tuple[Any, Path | np.ndarray]) -> Tensor | str:
        try:
            found = named[1].read_bytes() if isinstance(named[1], Path) else Image.fromarray(named[1])
            return to_tensor(found, image_px, plain)
        except ImageError as error:
            return f"{named[0]}: {error}"
        except OSError as error:
            return f"{named[0]}: it cannot be read ({error.strerror})"

    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes and resizes without Python's lock
        for i in range(0, len(sources), 256):  # so that no more than a few wait to be taken
            for image in pool.map(one, itertools.islice(sources.items(), i, i + 256)):
                if isinstance(image, str):
                    bad.append(image)
                else:
                    yield image
    if bad:
        raise SettingError(f"{len(bad)} of {len(sources)} {told} cannot be used: {'; '.join(bad)}")


def kept(
    name: str, stem: str, shape: tuple[int, ...], decode: Callable[[], Iterable[Any]], stamp: str = ""
) -> Tensor:
    """Map decoded images, uint8 of a shape, into memory, privately: what is written into them nobody else sees.

    They are decoded once, into decoded/<name>/<stem><stamp>.bytes in the cache folder, in place of another stamp's. Of
    several processes that ask for them, one decodes and the others wait.

    Raises:
        OSError: if the disk has no room, with the bytes needed and free.
    """
    file, size = cache_folder() / "decoded" / name / f"{stem}{stamp}.bytes", math.prod(shape)

    def there() -> bool:
        return file.exists() and file.stat().st_size == size

    if not there():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{error}: set $ADAVIPRO_CACHE to a folder that you may write to") from None
        with FileLock(file.parent / "lock"):
            if not there():  # another process may have decoded them while we waited
                for old in file.parent.glob(f"{stem}*"):  # of changed pictures, or of a killed process
                    old.unlink()
                write_atomically(file, decode(), size)
    return torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8).view(shape)
