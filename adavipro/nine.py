"""The paper's nine data sets as they lie on disk: class names, pictures, labels, and who is in which split.

CoOp's file `split_zhou_<Name>.json` decides where it is there. Otherwise the split is ours, version 1: the official
test and validation; what no list tells is dealt out within each class from sorted names, so that no order of files on a
disk matters. A listing says which of the two it is, for results on one cannot be compared with results on the other.
"""

import hashlib
import itertools
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from adavipro import formats
from adavipro.classifiers import clean_class_names
from adavipro.decoding import PLAIN_VERSION
from adavipro.folders import SPLITS, deal
from adavipro.formats import SPECS as SPECS
from adavipro.formats import Picture, Rows, Spec
from adavipro.settings import SettingError
from adavipro.storage import datasets_folder

OURS = "ours, version 1"
_AFTER_FETCH = {
    "ucf101": " and `adavipro midframes`",
    "sun397": " (its archive has no address any more: your own copy must lie in downloads/)",
}
LEAST = 4  # images of a class that can be dealt out to three splits
Pictures = dict[str, list[tuple[Picture, int]]]  # pictures with their labels, by split


class PartialDataWarning(UserWarning):
    """A data set does not have the published number of images."""


@dataclass(frozen=True)
class Listing:
    """What a data set holds.

    folder: what the pictures' paths are relative to. class_names: cleaned, in the order of the labels. pictures: each
    split's pictures with their labels. split: where the splits come from. version: sha256 of all this but the folder,
    with the files' sizes (of records their content) and the version of decoding.
    """

    folder: Path
    class_names: tuple[str, ...]
    pictures: Pictures
    split: str
    version: str


# What was listed last, with the files and folders that are watched, and their times.
_kept: dict[tuple[str, Path], tuple[list[str], list[int], Listing]] = {}


def list_dataset(name: str) -> Listing:
    """List one of the nine data sets; it is read again when its lists or folders change. No picture is decoded.

    Raises:
        SettingError: one sentence, if a part of the data set is missing or does not fit the others.
    """
    spec, root = SPECS[name], datasets_folder()
    watched, times, listing = _kept.get((name, root), ([], [], None))
    if listing is None or _times(watched) != times:
        parts = (spec.images, *spec.lists, f"split_zhou_{spec.coop}.json")
        watched = [f"{root / place / part}" for place in spec.places for part in parts]
        times = _times(watched)  # before it is read: what changes meanwhile is read again
        listing = _list(name, root)
        paths = (picture.path for own in listing.pictures.values() for picture, _ in own)
        classes = sorted({f"{listing.folder}/{os.path.dirname(path)}" for path in paths})
        _kept[name, root] = [*watched, *classes], times + _times(classes), listing
    return listing


def _list(name: str, root: Path) -> Listing:
    spec, folder = SPECS[name], folder_of(name, root)
    images, coop = folder / spec.images, f"split_zhou_{spec.coop}.json"
    chosen = next((f / coop for f in (folder, root / spec.places[0]) if (f / coop).exists()), None)
    fetch = f"`adavipro fetch {name}`{_AFTER_FETCH.get(name, '')}"
    get = f"get it with {fetch}, or set $ADAVIPRO_DATA to the folder that holds it"
    own_split = f", or remove {chosen} to have our split" if chosen else ""
    # What fetch sees to be missing it gets; what is there but wrong must be out of its way first.
    wrong = dict.fromkeys(str(folder / part.split("/")[0]) for part in spec.lists or [spec.images])
    way_out = f"remove {' and '.join(wrong)}, then {fetch}"
    try:
        if not images.is_dir():
            way_out = get
            raise ValueError(_no_folder(name, root))
        if chosen:
            way_out = f"put another copy in its place{own_split}"
        rows = formats.coop(chosen) if chosen else spec.read(folder, images)
        names = clean_class_names([spec.names.get(own, own) for own in _check(rows, spec.classes)])
        pictures = {split: [row[:2] for row in own] for split, own in rows.items()}
        if not chosen:
            pictures = _deal(pictures, [f"{name}-{own}" for own in names], spec)
        way_out = f"remove {images}, then {fetch}{own_split}"
        if name == "ucf101":
            if (folder / "UCF101").is_dir():
                way_out = f"run `adavipro midframes`, which leaves the frames that are there, or {way_out}"
            pictures = {
                s: [(_as_on_disk(images, p), label) for p, label in own] for s, own in pictures.items()
            }
        contents = _contents(images, {picture for own in pictures.values() for picture, _ in own})
    except SettingError:
        raise
    except (OSError, ValueError) as error:
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        way_out = get if isinstance(error, FileNotFoundError) else way_out
        raise SettingError(f"dataset is {name!r}, but {told}; {way_out}") from None
    counts, published = tuple(len(pictures[split]) for split in SPLITS), spec.coop_sizes
    if not chosen:
        counts, published = (counts[0] + counts[1], counts[2]), spec.sizes
    if counts != published:
        parts = "train, val and test" if chosen else "train with val, and test"
        told = f"has {counts} images in {parts}, where {published} were published: is it whole?"
        warnings.warn(f"data set {name!r} in {folder} {told}", PartialDataWarning, stacklevel=3)
    source = f"CoOp's {coop}" if chosen else OURS
    lines = [source, str(PLAIN_VERSION), *names]
    for split in SPLITS:
        lines += [f"{split} {label} {contents[p.path]} {p.offset} {p.path}" for p, label in pictures[split]]
    version = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    return Listing(images, tuple(names), pictures, source, version)


def _times(paths: list[str]) -> list[int]:
    """When each file or folder changed last, in nanoseconds; 0 of one that is not there."""
    return [stat.st_mtime_ns if stat else 0 for stat in map(_stat, paths)]


def folder_of(name: str, root: Path) -> Path:
    """A data set's folder: CoOp's, unless its pictures lie in torchvision's."""
    spec = SPECS[name]
    places = [root / place for place in spec.places]
    return next((place for place in places if (place / spec.images).is_dir()), places[0])


def _no_folder(name: str, root: Path) -> str:
    """What is there in place of the pictures' folder. Raises a SettingError where that is pickles."""
    spec = SPECS[name]
    pickles = spec.images.replace("-batches-bin", "-batches-py").replace("-binary", "-python")
    if pickles != spec.images and any((root / place / pickles).is_dir() for place in spec.places):
        told = f"{pickles} holds pickles, which can run code, and the kit reads no pickles"
        raise SettingError(
            f"dataset is {name!r}, but {told}: `adavipro fetch {name}` brings the binary version"
        )
    return f"there is no folder {root / spec.places[0] / spec.images}"


def _check(rows: Rows, classes: int) -> list[str]:
    """Raise a ValueError where labels, names or paths do not fit together. Returns the names in order of labels."""
    names: dict[int, str] = {}
    places: dict[Picture, str] = {}
    for split, own in rows.items():
        if not own:
            raise ValueError(f"{split} has no pictures")
        for picture, label, name in own:
            if names.setdefault(label, name) != name:
                raise ValueError(f"label {label} is the class {names[label]!r} and the class {name!r}")
            if picture in places:
                raise ValueError(f"{picture.path} is there twice, in {places[picture]} and in {split}")
            places[picture] = split
            if picture.path.startswith("/") or ".." in PurePosixPath(picture.path).parts:
                raise ValueError(f"{picture.path} in {split} leads out of the data set's folder")
    if sorted(names) != list(range(classes)):
        wrong = sorted(set(names) ^ set(range(classes)))
        raise ValueError(
            f"it needs labels from 0 to {classes - 1}, and these are missing or too many: {wrong}"
        )
    return [names[label] for label in range(classes)]


def _deal(pictures: Pictures, streams: list[str], spec: Spec) -> Pictures:
    """Deal out what the lists call train, within each class, as the data set's shares say."""
    classes: dict[int, list[Picture]] = {}
    for picture, label in pictures["train"]:
        classes.setdefault(label, []).append(picture)
    dealt: Pictures = {split: [] for split in SPLITS} | {
        s: sorted(own) for s, own in pictures.items() if s != "train"
    }
    for label, stream in enumerate(streams):
        own = sorted(classes.get(label, []))
        if len(own) < LEAST and len(spec.shares) > 1:
            raise ValueError(f"class {stream} has {len(own)} images in train, fewer than {LEAST}")
        if spec.most and len(own) > spec.most:
            own = deal(own, f"{stream}-chosen", {"left out": 0, "chosen": spec.most / len(own)})["chosen"]
        for split, part in deal(own, stream, spec.shares).items():
            dealt[split] += [(picture, label) for picture in part]
    return dealt


def _as_on_disk(images: Path, picture: Picture) -> Picture:
    """One class of UCF101 has files named HandStandPushups and HandstandPushups: the spelling that is there."""
    for one, other in (("v_HandStand", "v_Handstand"), ("v_Handstand", "v_HandStand")):
        if one in picture.path and not (images / picture.path).exists():
            return Picture(picture.path.replace(one, other))
    return picture


def _contents(images: Path, pictures: set[Picture]) -> dict[str, str]:
    """What tells the content of each file: the size of an image file, the sha256 of a file of records.

    Raises:
        ValueError: with how many files are missing, and the first of them.
    """
    paths = sorted({picture.path for picture in pictures})
    stats = stat_files(images, paths)
    if missing := [path for path in paths if stats[path] is None]:
        first = ", ".join(missing[:3]) + (" and so on" if len(missing) > 3 else "")
        raise ValueError(f"{len(missing)} of {len(paths)} files are missing in {images}: {first}")
    contents = {path: str(stat.st_size) for path, stat in stats.items() if stat}
    for path in {picture.path for picture in pictures if picture.offset is not None}:
        with (images / path).open("rb") as file:
            contents[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return contents


def stat_files(folder: Path, paths: list[str]) -> dict[str, os.stat_result | None]:
    """Size and times of each file, None where it is missing; in threads, for a folder on a network answers slowly."""
    blocks = [paths[i : i + 1000] for i in range(0, len(paths), 1000)]
    with ThreadPoolExecutor(16) as pool:
        of_blocks = pool.map(lambda block: [_stat(f"{folder}/{path}") for path in block], blocks)
        return dict(zip(paths, itertools.chain.from_iterable(of_blocks), strict=True))


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
