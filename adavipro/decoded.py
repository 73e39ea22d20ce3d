"""Images of the nine data sets at a model's size: decoded once, kept on disk, mapped into memory.

For each split and size there is one file of bytes (n, 3, px, px) and, written last, its manifest with the sha256 of
every 64 MiB. It is opened only when all of them are right.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from adavipro.decoding import ImageError, to_tensor
from adavipro.files import PARTIAL, locked, write_json
from adavipro.formats import Picture
from adavipro.nine import Listing
from adavipro.settings import SettingError
from adavipro.storage import cache_folder

FORMAT = 1  # of the file and its manifest
CHUNK = 64 * 1024 * 1024  # bytes that one sha256 stands for


def open_split(listing: Listing, name: str, split: str, image_px: int, folder: Path | None = None) -> Tensor:
    """Images of a split, uint8 (n, 3, image_px, image_px), as a private mapping of a file that is built if need be.

    The shorter side is resized (bicubic) and the centre taken, as CLIP does. Of several processes that ask for the same
    file, one builds it and the others wait.

    Args:
        listing: of the data set.
        name: of the data set, for the file and for messages.
        split: "train", "val" or "test".
        image_px: side of the images that the model takes.
        folder: where the files are kept; by default decoded/ in the cache folder.

    Raises:
        SettingError: if images cannot be used, naming every one; then no file is kept.
        OSError: if the disk has no room, with the bytes needed and free.
    """
    path = (folder or cache_folder() / "decoded") / name / f"{split}-{image_px}px.bytes"
    pictures = [picture for picture, _ in listing.pictures[split]]
    wanted = {"format": FORMAT, "shape": [len(pictures), 3, image_px, image_px], "listing": listing.version}
    images = _open(path, wanted)
    if images is None:
        with locked(path.with_suffix(".lock")):
            images = _open(path, wanted)  # another process may have built it while we waited
            if images is None:
                if path.with_suffix(".json").exists():
                    warnings.warn(f"{path} is damaged or of other data: built again", stacklevel=3)
                _build(path, wanted, listing.folder, pictures)
                images = _open(path, wanted)
    if images is None:
        raise OSError(errno.EIO, f"{path} does not hold what was written to it: check the disk")
    return images


def _open(path: Path, wanted: dict[str, Any]) -> Tensor | None:
    """Map a file; None where it is not there, damaged, or not what is wanted."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_bytes())
        size = path.stat().st_size
    except (FileNotFoundError, ValueError):
        return None
    if size != math.prod(wanted["shape"]):
        return None
    images = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    return images.view(wanted["shape"]) if manifest == wanted | {"sha256": _hashes(images)} else None


def _hashes(images: Tensor) -> list[str]:
    """sha256 of each chunk."""
    chunks = [chunk.numpy() for chunk in images.split(CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda chunk: hashlib.sha256(chunk).hexdigest(), chunks))


def _build(path: Path, wanted: dict[str, Any], source: Path, pictures: list[Picture]) -> None:
    for old in (path.with_suffix(".json"), path):  # the manifest first: a file without one counts for nothing
        old.unlink(missing_ok=True)
    partial, image_px = path.with_name(path.name + PARTIAL), wanted["shape"][-1]
    size, needed = 3 * image_px**2, math.prod(wanted["shape"])
    partial.unlink(missing_ok=True)
    if _free(path) < needed:
        raise _no_room(path, needed)

    def work(i: int) -> str | None:
        try:
            pixels = _decode(source, pictures[i], image_px).numpy().tobytes()
        except (ImageError, OSError) as error:
            return f"{pictures[i].path}: {error}"
        if os.pwrite(file.fileno(), pixels, i * size) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return None

    try:
        # Threads, for Pillow decodes and resizes without Python's lock; each writes its own image to its place.
        with partial.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
            bar = tqdm(pool.map(work, range(len(pictures))), f"{path.parent.name} {path.stem}", len(pictures))
            bad = [line for line in bar if line]
            os.fsync(file.fileno())
        if bad:
            told = f"{len(bad)} of {len(pictures)} images in {source} cannot be used"
            raise SettingError(f"{told}: {'; '.join(bad)}")
        os.replace(partial, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_room(path, needed) from error
        raise
    finally:
        partial.unlink(missing_ok=True)
    images = torch.from_file(str(path), shared=False, size=needed, dtype=torch.uint8)
    write_json(path.with_suffix(".json"), wanted | {"sha256": _hashes(images)})


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free


def _no_room(path: Path, needed: int) -> OSError:
    told = f"{path} needs {needed:,} bytes, {_free(path):,} are free"
    return OSError(errno.ENOSPC, f"{told}: make room, or set $ADAVIPRO_CACHE to a folder with more")


def _decode(source: Path, picture: Picture, image_px: int) -> Tensor:
    """Decode an image file or a record."""
    with (source / picture.path).open("rb") as file:
        if picture.offset is None:
            return to_tensor(file.read(), image_px, plain=True)
        file.seek(picture.offset)
        planes = np.frombuffer(file.read(3072), np.uint8).reshape(3, 32, 32)
    return to_tensor(Image.fromarray(planes.transpose(1, 2, 0)), image_px, plain=True)
