"""Images of the nine data sets at a model's size: decoded once, kept on disk, mapped into memory.

For each split and size there is one file of bytes (n, 3, px, px) and, written last, its manifest with the sha256 of
every 64 MiB. It is opened only when all of them are right, and the pictures are as old as when they were decoded.
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
from adavipro.nine import Listing, stat_files
from adavipro.settings import SettingError
from adavipro.storage import cache_folder

FORMAT = 2  # of the file and its manifest
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
    # Each listing has its own files, so that CoOp's split and ours can take turns; those of old ones may be removed.
    file = f"{split}-{image_px}px-{listing.version[:12]}.bytes"
    path = (folder or cache_folder() / "decoded") / name / file
    pictures = [picture for picture, _ in listing.pictures[split]]
    wanted = {
        "format": FORMAT,
        "shape": [len(pictures), 3, image_px, image_px],
        "listing": listing.version,
        "pictures": _stamp(listing.folder, pictures),
    }
    images = _open(path, wanted)
    if isinstance(images, str):
        with locked(path.with_suffix(".lock")):
            images = _open(path, wanted)  # another process may have built it while we waited
            if isinstance(images, str):
                if images:
                    warnings.warn(f"{path} {images}: built again", stacklevel=3)
                _build(path, wanted, listing.folder, pictures)
                images = _open(path, wanted)
    if isinstance(images, str):
        raise OSError(errno.EIO, f"{path} does not hold what was written to it: check the disk")
    return images


def _stamp(source: Path, pictures: list[Picture]) -> str:
    """Hash of the pictures' sizes and times. They are other times on other machines, so no run's key holds it."""
    stats = stat_files(source, sorted({picture.path for picture in pictures}))
    told = [f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats.items() if stat]
    return hashlib.sha256("\n".join(told).encode(errors="surrogateescape")).hexdigest()


def _open(path: Path, wanted: dict[str, Any]) -> Tensor | str:
    """Map a file, or tell why it cannot be used: "" where there is none."""
    if not path.with_suffix(".json").exists():
        return ""
    try:
        manifest = json.loads(path.with_suffix(".json").read_bytes())
        size = path.stat().st_size
    except (FileNotFoundError, ValueError):
        return "is damaged"
    if not isinstance(manifest, dict) or size != math.prod(wanted["shape"]):
        return "is damaged"
    if manifest.get("pictures") != wanted["pictures"]:
        return "is of pictures that changed since"
    images = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    return images.view(wanted["shape"]) if manifest == wanted | {"sha256": _hashes(images)} else "is damaged"


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
