"""Where things lie, files that are whole or not there, and the one source of randomness."""

import errno
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PARTIAL = ".partial"


# --- Folders ----------------------------------------------------------------------------------------------------


def data_folder() -> Path:
    """The folder of what ships with the project: beside the module in a wheel, at the top of a checkout."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


def shipped(name: str, folder: str = "") -> Path:
    """A file or folder that a wheel has among its data, and a checkout in `folder`, at its top where none is given."""
    inside = data_folder() / name
    return inside if inside.exists() else data_folder().parent / folder / name


def cache_folder() -> Path:
    """Folder of everything that is kept between runs: $ADAVIPRO_CACHE, or ~/.cache/adavipro."""
    return expanded(os.environ.get("ADAVIPRO_CACHE") or "~/.cache/adavipro")


def datasets_folder() -> Path:
    """Folder of the paper's nine data sets: $ADAVIPRO_DATA, or datasets/ in the cache folder."""
    given = os.environ.get("ADAVIPRO_DATA")
    return expanded(given) if given else cache_folder() / "datasets"


def expanded(path: Path | str) -> Path:
    """A path that a user gave, with ~ for the home folder; an OSError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        told = "give the whole path, or set $ADAVIPRO_CACHE to a folder for what is kept"
        raise OSError(f"{str(path)!r} needs a home folder, and there is none: {told}") from None


# --- Files ------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes | Iterable[Any], size: int = 0) -> None:
    """Write bytes, or parts of `size` bytes in all, so that a reader sees the old content or the new, and never a part.

    Raises:
        OSError: naming the path, the bytes needed and those free, where the disk is full; the former file stays.
    """
    partial = path.with_name(path.name + PARTIAL)
    parts: Iterable[Any] = content
    if isinstance(content, bytes):
        parts, size = [content], len(content)
    try:
        with partial.open("wb") as file:
            if shutil.disk_usage(path.parent).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        free = shutil.disk_usage(path.parent).free
        told = f"could not write {path}: {error.strerror}; it needs {size:,} bytes, {free:,} are free"
        raise OSError(error.errno, told) from error
    if os.name == "posix":  # the folder's entry too; other systems cannot open a folder
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people to read, atomically."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def canonical_json(value: Any) -> str:
    """JSON with one spelling for each value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@functools.cache
def _remembered_sha256(file: Path, stamp: tuple[int, ...]) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def file_sha256(file: Path) -> str:
    """sha256 of a file; not read again while its size and times stay, unless it changed within two seconds."""
    s = file.stat()
    stamp = (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
    fresh = time.time_ns() - max(s.st_mtime_ns, s.st_ctime_ns) < 2_000_000_000
    return (_remembered_sha256.__wrapped__ if fresh else _remembered_sha256)(file, stamp)


# --- Randomness -------------------------------------------------------------------------------------------------


def generator(seed: int, stream: str, *counters: int) -> "torch.Generator":
    """Return a CPU generator that depends on its key alone, never on what was drawn before.

    Batch order is keyed by (seed, "order", epoch), Gumbel noise by (seed, "gumbel", step), and so on. A run that was
    killed and resumed therefore draws what it would have drawn, on any device.

    Args:
        seed: the run's seed.
        stream: what the numbers are for; streams with different names are independent.
        counters: where in the stream we are (an epoch, a step, an image).
    """
    import torch  # here: tables and the command line's help need no torch

    key = ":".join([str(int(seed)), stream, *(str(int(c)) for c in counters)])
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
