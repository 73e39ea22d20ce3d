"""One file from an address: checked by its sha256, resumed where it broke off, there when it is whole."""

import hashlib
import os
import warnings
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm.auto import tqdm

PART = ".part"  # ending of a file of which more is to come
CHUNK = 1 << 16
TIMEOUT_S = 60


class DownloadError(OSError):
    """A file cannot be had from its address, or is not the one that it should be."""


class HashError(DownloadError):
    """A file's sha256 is not the published one."""


def part_of(file: Path) -> Path:
    """Where a file's bytes are kept until it is whole."""
    return file.with_name(file.name + PART)


def check_hash(file: Path, sha256: str) -> None:
    """Raise a HashError naming both hashes where they differ; warn, telling the file's, where `sha256` is blank."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if not sha256:
        warnings.warn(f"{file} has no published sha256 to compare with; it has {found}", stacklevel=2)
    elif found != sha256:
        raise HashError(f"the sha256 of {file} is {found}, but it must be {sha256}")


def download(
    url: str, file: Path, size_bytes: int | None = None, sha256: str = "", progress_bar: bool = True
) -> None:
    """Download a file. What came before a break is kept in `part_of(file)`, and the next call goes on from there.

    Args:
        size_bytes: how long it must be; None where that is not known.
        sha256: what it must have; blank where nobody published it. Then it must come by https, and a warning tells it.

    Raises:
        DownloadError: if the server cannot be reached, sends a web page or a file of another length, redirects
            from https to a place that is not, or the sha256 is wrong. There is no `file` then.
    """
    part = part_of(file)
    try:
        if not (sha256 or url.startswith("https:")):
            raise DownloadError(
                f"{url} must begin with https, since there is no sha256 to check what it sends"
            )
        _receive(url, part, size_bytes, progress_bar)
        check_hash(part, sha256)
        os.replace(part, file)
    except DownloadError as error:
        if isinstance(error, HashError):
            part.unlink()  # to begin anew
        raise
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
            if error.code == 416:  # the part is longer than the file
                part.unlink(missing_ok=True)
        raise DownloadError(f"{url}: {error}") from error


def _receive(url: str, part: Path, size_bytes: int | None, progress_bar: bool) -> None:
    """Download to `part`, from where it ends if the server can."""
    start = part.stat().st_size if part.exists() else 0
    if start == size_bytes:
        return
    headers = {"User-Agent": "adavipro"} | ({"Range": f"bytes={start}-"} if start else {})
    with build_opener(_SafeRedirects).open(Request(url, headers=headers), timeout=TIMEOUT_S) as response:
        start = start if response.status == 206 else 0  # 200: the server sends all of it again
        length = response.headers["Content-Length"]
        offered = start + int(length) if length else None
        chunk = response.read(CHUNK)
        if chunk.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
            raise DownloadError(f"{url} sends a web page, not the file")
        if size_bytes and offered and offered != size_bytes:
            raise DownloadError(f"{url} offers {offered:,} bytes, but the file has {size_bytes:,}")
        total = size_bytes or offered
        shown = {
            "total": total,
            "initial": start,
            "unit": "B",
            "unit_scale": True,
            "disable": not progress_bar,
        }
        with part.open("ab" if start else "wb") as target, tqdm(desc=part.stem, **shown) as bar:
            while chunk and (not total or target.tell() < total):
                bar.update(target.write(chunk))
                chunk = response.read(CHUNK)
    size = part.stat().st_size
    if total and size < total:
        raise DownloadError(
            f"{url} ended after {size:,} of {total:,} bytes, which are kept: call again to go on"
        )


class _SafeRedirects(HTTPRedirectHandler):
    """Follows redirects, but none from https to a place that is not."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if req.type == "https" and not newurl.startswith("https:"):
            told = f"it redirects from https to {newurl}, where what it sends could be changed on its way"
            raise HTTPError(req.full_url, code, told, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
