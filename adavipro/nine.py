"""The paper's nine data sets as they lie on disk: class names, pictures, labels, and who is in which split.

CoOp's file `split_zhou_<Name>.json` decides where it is there. Otherwise the split is ours, version 1: the official
test and validation; what no list tells is dealt out within each class from sorted names, so that no order of files on a
disk matters. A listing says which of the two it is, for results on one cannot be compared with results on the other.
"""

import functools
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
LEAST = 4  # images of a class that can be dealt out to three splits
Pictures = dict[str, list[tuple[Picture, int]]]  # pictures with their labels, by split


class PartialDataWarning(UserWarning):
    """A data set does not have the published number of images."""


@dataclass(frozen=True)
class Listing:
    """What a data set holds.

    folder: what the pictures' paths are relative to. class_names: cleaned, in the order of the labels. pictures: each
    split's pictures with their labels. split: where the splits come from. version: sha256 of all this but the folder,
    with the files' sizes and the version of decoding.
    """

    folder: Path
    class_names: tuple[str, ...]
    pictures: Pictures
    split: str
    version: str


def list_dataset(name: str) -> Listing:
    """List one of the nine data sets; it is read once in a process. No picture is decoded.

    Raises:
        SettingError: one sentence, if a part of the data set is missing or does not fit the others.
    """
    return _list(name, datasets_folder())


@functools.cache
def _list(name: str, root: Path) -> Listing:
    spec = SPECS[name]
    fetch = f"`adavipro fetch {name}`" + (" and `adavipro midframes VIDEOS`" if name == "ucf101" else "")
    way_out = f"get it with {fetch}, or set $ADAVIPRO_DATA to the folder that holds it"
    try:
        folder = _folder(spec, root)
        images, coop = folder / spec.images, f"split_zhou_{spec.coop}.json"
        chosen = next((f / coop for f in (folder, root / spec.places[0]) if (f / coop).exists()), None)
        if chosen:
            way_out = f"get what is missing with {fetch}, or remove {chosen} to have our split"
        rows = formats.coop(chosen) if chosen else spec.read(folder, images)
        names = clean_class_names([spec.names.get(own, own) for own in _check(rows, spec.classes)])
        pictures = {split: [row[:2] for row in own] for split, own in rows.items()}
        if not chosen:
            pictures = _deal(pictures, [f"{name}-{own}" for own in names], spec)
        if name == "ucf101":
            pictures = {
                s: [(_as_on_disk(images, p), label) for p, label in own] for s, own in pictures.items()
            }
        sizes = _sizes(images, sorted({picture.path for own in pictures.values() for picture, _ in own}))
    except SettingError:
        raise
    except (OSError, ValueError) as error:
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
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
        lines += [f"{split} {label} {sizes[p.path]} {p.offset} {p.path}" for p, label in pictures[split]]
    version = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    return Listing(images, tuple(names), pictures, source, version)


def _folder(spec: Spec, root: Path) -> Path:
    """The data set's folder, in CoOp's layout or torchvision's."""
    for place in spec.places:
        if (root / place / spec.images).is_dir():
            return root / place
    pickles = spec.images.replace("-batches-bin", "-batches-py").replace("-binary", "-python")
    if pickles != spec.images and any((root / place / pickles).is_dir() for place in spec.places):
        name = spec.places[0]
        told = f"{pickles} holds pickles, which can run code, and the kit reads no pickles"
        raise SettingError(
            f"dataset is {name!r}, but {told}: `adavipro fetch {name}` brings the binary version"
        )
    raise ValueError(f"there is no folder {root / spec.places[0] / spec.images}")


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


def _sizes(images: Path, paths: list[str]) -> dict[str, int]:
    """Size of each file in bytes; in threads, for a folder on a network answers slowly.

    Raises:
        ValueError: with how many files are missing, and the first of them.
    """

    def size(path: str) -> int:
        try:
            return os.stat(f"{images}/{path}").st_size
        except OSError:
            return -1

    blocks = [paths[i : i + 1000] for i in range(0, len(paths), 1000)]
    with ThreadPoolExecutor(16) as pool:
        of_blocks = pool.map(lambda block: [size(path) for path in block], blocks)
        sizes = dict(zip(paths, itertools.chain.from_iterable(of_blocks), strict=True))
    if missing := [path for path, found in sizes.items() if found < 0]:
        first = ", ".join(missing[:3]) + (" and so on" if len(missing) > 3 else "")
        raise ValueError(f"{len(missing)} of {len(paths)} files are missing in {images}: {first}")
    return sizes
