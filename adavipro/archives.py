"""Archives are unpacked whole or not at all, and never outside their folder."""

import functools
import gzip
import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import IO, Any

UNPACKING = ".unpacking"  # the folder beside the target where an archive is unpacked first
BLOCK = 4096  # bytes that a member takes on the disk beside its content
FILE, FOLDER = "a file", "a folder"
_TAR_KINDS = {
    tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.FIFOTYPE: "a fifo",
    tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
}  # fmt: skip
_ZIP_KINDS = {
    0: FILE, stat.S_IFREG: FILE, stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a fifo",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError, RuntimeError)


class ArchiveError(ValueError):
    """An archive is damaged, or holds a member that could do harm; nothing of it was kept."""


@dataclass(frozen=True)
class Member:
    """What an archive says of one of its members.

    kind: `FILE`, `FOLDER`, or another in words. size: bytes when unpacked.
    """

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Whether a file's name is that of an archive that `unpack` reads."""
    return name.endswith((".zip", ".tar.gz", ".tgz"))


def _of_tar(path: Path, folder: Path) -> Iterator[Member]:
    safe: Any = getattr(tarfile, "data_filter", lambda member, _: member)  # Python has it since 3.11.4
    with tarfile.open(path, "r:gz") as archive:

        def content(member: tarfile.TarInfo) -> Any:
            return archive.extractfile(safe(member, str(folder)))

        for m in archive:
            kind = (
                FILE if m.isreg() else FOLDER if m.isdir() else _TAR_KINDS.get(m.type, "of an unknown kind")
            )
            yield Member(m.name, kind, m.size, functools.partial(content, m))


def _of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for m in archive.infolist():
            mode = stat.S_IFMT(m.external_attr >> 16)
            kind = FOLDER if m.is_dir() else _ZIP_KINDS.get(mode, "of an unknown kind")
            yield Member(m.filename, kind, m.file_size, functools.partial(archive.open, m))


def _fault(member: Member) -> str | None:
    """What is wrong with a member's name or kind, in words."""
    name = PureWindowsPath(member.name)  # takes / and \ for separators, and knows drives
    if name.anchor:
        return "has an absolute name"
    if ".." in name.parts:
        return "leads out of its folder"
    return None if member.kind in (FILE, FOLDER) else f"is {member.kind}"


def _write(member: Member, path: Path) -> str | None:
    """Write one member. Returns what is wrong with it beside those before it, in words."""
    try:
        (path if member.kind == FOLDER else path.parent).mkdir(parents=True, exist_ok=True)
        if member.kind == FOLDER:
            return None
        with member.open() as source:
            if path.exists():
                with path.open("rb") as former:
                    same = _digest(source) == _digest(former)
                return None if same else "is there twice, with different content"
            with path.open("xb") as target:
                shutil.copyfileobj(source, target)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        return "is a file in one place and a folder in another"
    return None


def _digest(file: IO[bytes]) -> bytes:
    return hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]  # any file that reads bytes


def _write_all(archive: Path, folder: Path, limit_bytes: int) -> None:
    limits = {
        limit_bytes: "more than its data set can need",
        shutil.disk_usage(folder).free: "more than the free disk",
    }
    total = 0
    for member in _of_zip(archive) if archive.suffix == ".zip" else _of_tar(archive, folder):
        total += member.size + BLOCK
        fault = _fault(member)
        for limit, words in limits.items():
            if total > limit:
                fault = fault or f"brings the archive to {total:,} bytes unpacked, {words} ({limit:,})"
        fault = fault or _write(member, folder / member.name)
        if fault:
            raise ArchiveError(f"{archive} was refused whole: its member {member.name!r} {fault}")


def unpack(archive: Path, place: Path, limit_bytes: int) -> None:
    """Unpack the folder `place.name` of an archive (zip, tar.gz) to `place`; what else it holds is left out.

    It is unpacked beside `place`, each member checked before it is written, and moved there when it is whole. Files
    that are in `place` already stay, but for those of the same name.

    Args:
        limit_bytes: the most that the archive may take when unpacked.

    Raises:
        ArchiveError: naming the member, if a name is absolute or leads out, or occurs twice with different content; if
            a member is a link, a device or a fifo; if all take more than the limit or the free disk; if the archive
            is damaged or has no such folder. `place` is as before.
    """
    aside = place.with_name(place.name + UNPACKING)
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    aside.mkdir(parents=True)
    try:
        _write_all(archive, aside, limit_bytes)
        found = aside / place.name
        if not found.is_dir():
            held = sorted(p.name for p in aside.iterdir())
            raise ArchiveError(f"{archive} holds no folder {place.name!r}; at its top are: {', '.join(held)}")
        if place.exists():
            shutil.copytree(found, place, dirs_exist_ok=True, copy_function=os.replace)
        else:
            found.rename(place)
    except _DAMAGED as error:
        raise ArchiveError(f"{archive} is damaged: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
