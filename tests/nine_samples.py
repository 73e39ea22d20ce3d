"""The paper's nine data sets in small: their true layouts and formats, with all classes and a few little pictures."""

import functools
import hashlib
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, Flowers102

from adavipro.datasets.nine import EUROSAT, SPECS

TRUE_NAMES = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck".split(),
    "dtd": ["banded", "polka-dotted"],
    "eurosat": list(EUROSAT),
    "food101": ["apple_pie", "french_onion_soup"],
    "sun397": ["a/abbey", "a/apartment_building/outdoor", "t/theater/indoor_procenium"],
    "flowers102": list(Flowers102.classes),
    "ucf101": ["ApplyEyeMakeup", "HandstandPushups", "YoYo"],
    "oxfordpets": ["Abyssinian", "american_bulldog", "Egyptian_Mau"],
}
Rows = dict[str, list[tuple[str, int, str]]]  # path, label and class as the lists spell it, by split


def class_list(name: str) -> list[str]:
    """Classes as a data set's own lists spell them, in the order of the labels: some true names, the others made up."""
    true = TRUE_NAMES.get(name, [])
    rest = [
        f"{chr(97 + i % 26)}{'aeiou'[i // 26 % 5]}{'klmn'[i // 130]}a"
        for i in range(SPECS[name].classes - len(true))
    ]
    if name == "sun397":
        rest = [f"{word[0]}/{word}" for word in rest]
    if name == "ucf101":
        rest = [f"{word.title()}Walk" for word in rest]
    names = true + rest
    return names if name == "flowers102" else sorted(names, key=str.lower)


@functools.cache
def jpeg(number: int) -> bytes:
    """One of sixteen little pictures, wide, tall and square."""
    width, height = ((40, 30), (30, 40), (32, 32), (61, 40))[number % 4]
    values = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).resize((width, height)).save(file, "JPEG")
    return file.getvalue()


def write(
    name: str, folder: Path, per_class: int = 6, coop: bool = False, place: int = 0, backwards: bool = False
) -> Path:
    """Write a data set, but for CIFAR, into a folder of data sets. Returns the data set's own folder.

    Args:
        name: of the data set.
        folder: of all data sets.
        per_class: pictures of each class, from 6; a third of them is in the official test, and where there is one as
            many are in the official validation.
        coop: write a split file like CoOp's as well.
        place: in CoOp's layout (0) or torchvision's (-1).
        backwards: write the files in the opposite order.
    """
    base = folder / SPECS[name].places[place]
    third = per_class // 3
    parts = {"test": range(third), "val": range(third, 2 * third), "train": range(2 * third, per_class)}
    rows: Rows = {"train": [], "val": [], "test": []}
    for label, own in enumerate(class_list(name)):
        for split, numbers in parts.items():
            rows[split] += [(picture_path(name, own, label, i, per_class), label, own) for i in numbers]
    numbered = list(enumerate(sorted(path for own in rows.values() for path, _, _ in own)))
    for number, path in reversed(numbered) if backwards else numbered:
        file = base / SPECS[name].images / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number % 16) + number.to_bytes(4, "big"))  # no two files are the same
    write_lists(name, base, rows)
    if coop:
        write_coop(name, base / f"split_zhou_{SPECS[name].coop}.json", rows)
    return base


def picture_path(name: str, own: str, label: int, i: int, per_class: int) -> str:
    """Path of a class's picture in the folder of the pictures, as the data set names its files."""
    return {
        "dtd": f"{own}/{own}_{i + 1:04d}.jpg",
        "eurosat": f"{own}/{own}_{i + 1}.jpg",
        "food101": f"{own}/{1005649 + 37 * i}.jpg",
        "sun397": f"{own}/sun_a{chr(97 + i % 26)}{label:04d}{i:03d}.jpg",
        "flowers102": f"image_{label * per_class + i + 1:05d}.jpg",
        "ucf101": f"{ucf_folder(own)}/v_{own.replace('Handstand', 'HandStand')}_g{i + 1:02d}_c01.jpg",
        "oxfordpets": f"{own}_{i + 1}.jpg",
    }[name]


def ucf_folder(own: str) -> str:
    """ApplyEyeMakeup to Apply_Eye_Makeup."""
    return "".join(f"_{c}" if c.isupper() else c for c in own).strip("_")


def write_lists(name: str, base: Path, rows: Rows) -> None:
    """Write the official lists, where there are any."""
    learn = sorted(rows["train"] + rows["val"])
    if name == "dtd":
        for split, own in rows.items():
            write_lines(base / "labels" / f"{split}1.txt", [path for path, _, _ in own])
        (base / "images" / ".directory").write_text("[Dolphin]")
    if name == "food101":
        for split, own in (("train", learn), ("test", rows["test"])):
            write_lines(base / "meta" / f"{split}.txt", [path.removesuffix(".jpg") for path, _, _ in own])
    if name == "sun397":
        write_lines(base / "SUN397" / "ClassName.txt", [f"/{own}" for own in class_list(name)])
    if name == "flowers102":
        ids = {split: [int(path[6:11]) for path, _, _ in own] for split, own in rows.items()}
        keys = {"train": "trnid", "val": "valid", "test": "tstid"}
        labels = [label + 1 for _, label, _ in sorted(learn + rows["test"])]
        scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
        scipy.io.savemat(base / "setid.mat", {keys[s]: np.array([own], np.uint16) for s, own in ids.items()})
    if name == "ucf101":
        videos = {path: f"{own}/{Path(path).stem}.avi" for path, _, own in learn + rows["test"]}
        lists = base / "ucfTrainTestlist"
        write_lines(lists / "trainlist01.txt", [f"{videos[path]} {label + 1}" for path, label, _ in learn])
        write_lines(lists / "testlist01.txt", [videos[path] for path, _, _ in rows["test"]], end="\r\n")
    if name == "oxfordpets":
        for file, own in (("trainval", learn), ("test", rows["test"])):
            lines = [f"{path.removesuffix('.jpg')} {label + 1} 1 1" for path, label, _ in own]
            write_lines(base / "annotations" / f"{file}.txt", ["#Image CLASS-ID SPECIES BREED ID", *lines])


def write_lines(file: Path, lines: list[str], end: str = "\n") -> None:
    """Write a text file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(line + end for line in lines).encode())


def write_coop(name: str, file: Path, rows: Rows) -> None:
    """Write a split like CoOp's: half, a sixth, a third, and its spelling of the class names."""
    split: dict[str, list[list[str | int]]] = {"train": [], "val": [], "test": []}
    turns = [0] * SPECS[name].classes
    for path, label, own in sorted(rows["train"] + rows["val"] + rows["test"]):
        part = ("train", "val", "train", "test", "train", "test")[turns[label] % 6]
        turns[label] += 1
        called = {
            "eurosat": EUROSAT.get(own, "").title(),
            "ucf101": ucf_folder(own),
            "sun397": " ".join(reversed(own.split("/")[1:])),
            "oxfordpets": own.lower(),
        }
        split[part].append([path, label, called.get(name, own)])
    file.write_text(json.dumps(split))


def write_cifar(name: str, folder: Path, patch: pytest.MonkeyPatch, per_class: int = 6) -> Path:
    """Write CIFAR's pickles, and have torchvision take them for those that were published."""
    kind, k = (CIFAR10, 10) if name == "cifar10" else (CIFAR100, 100)
    base, names = folder / kind.base_folder, [file for file, _ in kind.train_list + kind.test_list]
    g = np.random.default_rng(0)
    labels = g.permutation(np.arange(k).repeat(per_class)).astype(np.uint8)
    pixels = g.integers(0, 256, (k * per_class, 3072), dtype=np.uint8)
    order = np.argsort(labels, kind="stable").reshape(k, per_class)
    test, train = np.sort(order[:, : per_class // 3].ravel()), np.sort(order[:, per_class // 3 :].ravel())
    key = "labels" if k == 10 else "fine_labels"
    files = dict(zip(names, [*np.array_split(train, len(names) - 1), test], strict=True))
    content = {
        file: pickle.dumps({"data": pixels[own], key: labels[own].tolist()}) for file, own in files.items()
    }
    content[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: class_list(name)})
    base.mkdir(parents=True)
    md5 = {}
    for file, own in content.items():
        (base / file).write_bytes(own)
        md5[file] = hashlib.md5(own).hexdigest()
    patch.setattr(kind, "train_list", [[file, md5[file]] for file in names[:-1]])
    patch.setattr(kind, "test_list", [[names[-1], md5[names[-1]]]])
    patch.setattr(kind, "meta", {**kind.meta, "md5": md5[kind.meta["filename"]]})
    return base
