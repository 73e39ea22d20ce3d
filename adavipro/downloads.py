"""The nine data sets from their published addresses to the layout that CoOp gave them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adavipro.archives import UNPACKING, ArchiveError, is_archive, unpack
from adavipro.classifiers import data_folder
from adavipro.files import locked, write_atomically, write_json
from adavipro.formats import files_below
from adavipro.nine import OURS, SPECS, folder_of
from adavipro.settings import SettingError
from adavipro.storage import datasets_folder
from adavipro.tables import read_rows
from adavipro.transfers import DownloadError, check_hash, download, part_of

PATH = data_folder() / "downloads.csv"
THERE, PARTLY, MISSING = "there", "partly", "not there"
UNPACKED_TIMES = 4  # an archive of pictures may unpack to so many times its size,
UNPACKED_BYTES = 200_000_000  # and so much more: lists and small files


@dataclass(frozen=True)
class Download:
    """One file to download.

    file: its name, unlike all others. url: blank where there is no address any more. bytes: None where not known.
    sha256: blank where nobody published it. place: where it goes in the folder of data sets; of an archive its folder
    of that name. instead: a folder of pictures that does as well.
    """

    dataset: str
    file: str
    url: str
    bytes: int | None
    sha256: str
    place: str
    instead: str
    licence: str
    checksum_source: str
    note: str


def read_catalogue() -> list[Download]:
    """Read every file to download."""
    rows: list[dict[str, Any]] = [dict(row) for row in read_rows(PATH)]
    return [Download(**{**row, "bytes": int(row["bytes"]) if row["bytes"] else None}) for row in rows]


def fetch(
    name: str,
    folder: Path | None = None,
    mirror: str | None = None,
    progress_bar: bool = True,
    keep: bool = False,
) -> Path:
    """Download and unpack one of the nine data sets; what is there is left as it is. Returns its folder.

    Where one of its files cannot be had the others are still brought, and then all that failed is told at once.

    Args:
        folder: of all data sets (default: `datasets_folder()`); downloads/ in it takes what comes.
        mirror: address of a folder that holds the files under their names, in place of the published addresses.
        keep: whether an archive that was downloaded stays when it was unpacked; the reader's own always does, and
            so does one without an address.

    Raises:
        SettingError: if there is no such data set, or the mirror is no address.
        DownloadError: if a file cannot be had or is not the published one, or the disk has no room for it.
        ArchiveError: if an archive holds what could do harm.
    """
    rows, folder = _files_of(name), folder or datasets_folder()
    if mirror and not mirror.startswith(("https://", "http://", "file://")):
        raise SettingError(f"mirror is {mirror!r}, but it must begin with https://, http:// or file://")
    failed: list[DownloadError | ArchiveError] = []
    for row in rows:
        try:
            if _state(row, folder) != THERE:
                _bring(row, folder, mirror, progress_bar, keep)
        except (DownloadError, ArchiveError) as error:
            failed.append(error)
    if len(failed) > 1:
        raise DownloadError("; ".join(map(str, failed)))
    if failed:
        raise failed[0]
    return folder_of(name, folder)


def split_advice(name: str, folder: Path | None = None) -> str:
    """One sentence on who decides the splits of a data set: CoOp's file where it is there, else the kit."""
    _files_of(name)
    coop = SPECS[name].coop
    if not coop:
        return f"{name}: the split is {OURS}; CoOp has none"
    file = folder_of(name, folder or datasets_folder()) / f"split_zhou_{coop}.json"
    if file.exists():
        return f"{name}: the split is CoOp's, {file}"
    return f"{name}: the split is {OURS}, unless you put CoOp's there, as most papers on CLIP use it: {file}"


def listing(folder: Path | None = None) -> list[dict[str, str]]:
    """A line for each data set: its state, what is left to download, its licence, and where it comes from."""
    folder = folder or datasets_folder()
    lines = []
    for name in dict.fromkeys(row.dataset for row in read_catalogue()):
        rows = _files_of(name)
        states = [_state(row, folder) for row in rows]
        left = sum(row.bytes or 0 for row, state in zip(rows, states, strict=True) if state != THERE)
        sources = dict.fromkeys(urlsplit(row.url).netloc or "your own copy" for row in rows)
        lines.append(
            {
                "data set": name,
                "state": states[0] if len(set(states)) == 1 else PARTLY,
                "to download": f"{left / 1e9:.2f} GB" if left else "",
                "licence": rows[0].licence,
                "source": ", ".join(sources),
            }
        )
    return lines


def _files_of(name: str) -> list[Download]:
    if name not in SPECS:
        raise SettingError(f"data set is {name!r}, but those that can be fetched are: {', '.join(SPECS)}")
    return [row for row in read_catalogue() if row.dataset == name]


def _place(row: Download, folder: Path) -> Path:
    """Where a file goes: to its data set's pictures, wherever they lie already."""
    within = Path(row.place).relative_to(SPECS[row.dataset].places[0])
    return folder_of(row.dataset, folder) / within


def _stamp(archive: Path) -> Path:
    """Where it is written which archive was unpacked."""
    return archive.with_name(archive.name + ".json")


def _state(row: Download, folder: Path) -> str:
    """Whether what a file brings is `THERE`, from us or from the reader, `PARTLY` or `MISSING`."""
    archive, place, spec = folder / "downloads" / row.file, _place(row, folder), SPECS[row.dataset]
    if row.instead and _holds(folder / row.instead):
        return THERE
    if place.with_name(place.name + UNPACKING).exists():
        return PARTLY
    other = _stamp(archive).exists() and json.loads(_stamp(archive).read_text())["sha256"] != row.sha256
    home = folder_of(row.dataset, folder)
    # Of a whole folder each part: CoOp's split may lie there before the pictures, and pictures without their lists.
    parts = [home / part for part in (spec.images, *spec.lists)]
    held = [_holds(part) for part in parts if part.is_relative_to(place)] or [_holds(place)]
    if all(held) and not other:
        return THERE
    return PARTLY if any(held) or part_of(archive).exists() else MISSING


def _holds(place: Path) -> bool:
    """Whether a file is there, or a folder with a picture, a video or records in it or below."""
    return place.is_file() or any(file.endswith((".jpg", ".avi", ".bin")) for _, file in files_below(place))


def _bring(row: Download, folder: Path, mirror: str | None, progress_bar: bool, keep: bool) -> None:
    """Obtain and install one file, unless another process did so while we waited."""
    archive = folder / "downloads" / row.file
    with locked(archive.with_name(archive.name + ".lock")):
        if _state(row, folder) != THERE:
            own, place = archive.exists(), _place(row, folder)
            _obtain(row, archive, place, mirror, progress_bar)
            _install(archive, place)
            write_json(_stamp(archive), {"sha256": row.sha256})
            if row.url and not (own or keep):  # what has no address any more is not thrown away
                archive.unlink()


def _obtain(row: Download, archive: Path, place: Path, mirror: str | None, progress_bar: bool) -> None:
    """Bring the archive there, whole and checked: the reader's own copy, or downloaded."""
    try:
        if archive.exists():
            check_hash(archive, row.sha256)
            return
        if not (mirror or row.url):
            raise DownloadError(row.note)
        needed = 2 * (row.bytes or 0) - (part_of(archive).stat().st_size if part_of(archive).exists() else 0)
        free = shutil.disk_usage(archive.parent).free
        if needed > free:
            raise DownloadError(f"it and what it unpacks to need {needed:,} bytes, {free:,} are free")
        url = f"{mirror.rstrip('/')}/{row.file}" if mirror else row.url
        download(url, archive, row.bytes, row.sha256, progress_bar)
    except DownloadError as error:
        way_out = f"a copy that you save by hand may lie at {archive}, or unpacked at {place}"
        raise DownloadError(f"{row.file} cannot be had: {error}; {way_out}") from error


def _install(archive: Path, place: Path) -> None:
    """Put a file, or what an archive holds, in its place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if is_archive(archive.name):
        unpack(archive, place, UNPACKED_TIMES * archive.stat().st_size + UNPACKED_BYTES)
    else:
        write_atomically(place, archive.read_bytes())
