"""Files that are whole or not there, and text with one spelling."""

import contextlib
import csv
import fcntl
import functools
import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, and never a part.

    Raises:
        OSError: naming the path, the bytes needed and those free, where the disk is full; the former file stays.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        status = os.statvfs(path.parent)
        free = status.f_bavail * status.f_frsize
        raise OSError(
            error.errno,
            f"could not write {path}: {error.strerror}; it needs {len(content):,} bytes, {free:,} are free",
        ) from error
    _sync_folder(path.parent)


@functools.cache
def _remembered_sha256(file: Path, stamp: tuple[int, ...]) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def file_sha256(file: Path) -> str:
    """sha256 of a file; not read again while its size and times stay, unless it changed within two seconds."""
    s = file.stat()
    stamp = (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
    fresh = time.time_ns() - max(s.st_mtime_ns, s.st_ctime_ns) < 2_000_000_000
    return (_remembered_sha256.__wrapped__ if fresh else _remembered_sha256)(file, stamp)


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on a file; it is freed when its holder dies. Gives whether it is held.

    Args:
        wait: wait while another process holds it; otherwise it is then not held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people to read, atomically."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def canonical_json(value: Any) -> str:
    """JSON with one spelling for each value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_csv(rows: Iterable[dict[str, Any]]) -> str:
    """Rows with the same keys as CSV text; None is an empty cell, numbers keep every digit."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
