"""The paper's nine data sets in small: their true layouts and formats, with all classes and a few little pictures."""

import functools
import io
import json
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from torchvision.datasets import Flowers102

from adavipro.formats import EUROSAT

CLASSES = {
    "cifar10": 10, "cifar100": 100, "dtd": 47, "eurosat": 10, "food101": 101, "sun397": 397, "flowers102": 102,
    "ucf101": 101, "oxfordpets": 37,
}  # fmt: skip
# The data set's folder in CoOp's layout and in torchvision's, its pictures' folder, CoOp's name.
PLACES = {
    "dtd": ("dtd", "dtd/dtd", "images", "DescribableTextures"),
    "eurosat": ("eurosat", "eurosat", "2750", "EuroSAT"),
    "food101": ("food-101", "food-101", "images", "Food101"),
    "sun397": ("sun397", ".", "SUN397", "SUN397"),
    "flowers102": ("oxford_flowers", "flowers-102", "jpg", "OxfordFlowers"),
    "ucf101": ("ucf101", "ucf101", "UCF-101-midframes", "UCF101"),
    "oxfordpets": ("oxford_pets", "oxford-iiit-pet", "images", "OxfordPets"),
}
TRUE_NAMES = {
    "dtd": ["banded", "polka-dotted"],
    "eurosat": list(EUROSAT),
    "food101": ["apple_pie", "french_onion_soup"],
    "sun397": ["a/abbey", "a/apartment_building/outdoor", "t/theater/indoor_procenium"],
    "flowers102": list(Flowers102.classes),
    "ucf101": ["ApplyEyeMakeup", "HandstandPushups", "YoYo"],
    "oxfordpets": ["Abyssinian", "american_bulldog", "Egyptian_Mau"],
}
Rows = dict[str, list[tuple[str, int, str]]]  # path, label and class as the lists spell it, by split
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()


def class_list(name: str) -> list[str]:
    """Classes as a data set's own lists spell them, in the order of the labels: some true names, the others made up."""
    true = TRUE_NAMES.get(name, CIFAR10 if name == "cifar10" else [])
    rest = [
        f"{chr(97 + i % 26)}{'aeiou'[i // 26 % 5]}{'klmn'[i // 130]}a"
        for i in range(CLASSES[name] - len(true))
    ]
    if name == "sun397":
        rest = [f"{word[0]}/{word}" for word in rest]
    if name == "ucf101":
        rest = [f"{word.title()}Walk" for word in rest]
    names = true + rest
    return names if name in ("cifar10", "flowers102") else sorted(names, key=str.lower)


@functools.cache
def jpeg(number: int) -> bytes:
    """One of sixteen little pictures, wide, tall and square."""
    width, height = ((40, 30), (30, 40), (32, 32), (61, 40))[number % 4]
    values = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).resize((width, height)).save(file, "JPEG")
    return file.getvalue()


def write(
    name: str,
    folder: Path,
    per_class: int = 6,
    coop: bool = False,
    torchvision_layout: bool = False,
    backwards: bool = False,
) -> Path:
    """Write a data set into a folder of data sets. Returns the data set's own folder.

    Args:
        name: of the data set.
        folder: of all data sets.
        per_class: pictures of each class, from 6; a third of them is in the official test, and where there is one as
            many are in the official validation.
        coop: write a split file like CoOp's as well.
        torchvision_layout: in the folders where torchvision looks.
        backwards: write the files in the opposite order.
    """
    if name.startswith("cifar"):
        return write_cifar(name, folder, per_class)
    place, torchvisions, images, title = PLACES[name]
    base = folder / (torchvisions if torchvision_layout else place)
    third = per_class // 3
    parts = {"test": range(third), "val": range(third, 2 * third), "train": range(2 * third, per_class)}
    rows: Rows = {"train": [], "val": [], "test": []}
    for label, own in enumerate(class_list(name)):
        for split, numbers in parts.items():
            rows[split] += [(picture_path(name, own, label, i, per_class), label, own) for i in numbers]
    numbered = list(enumerate(sorted(path for own in rows.values() for path, _, _ in own)))
    for number, path in reversed(numbered) if backwards else numbered:
        file = base / images / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number % 16) + number.to_bytes(4, "big"))  # no two files are the same
    write_lists(name, base, rows)
    if coop:
        write_coop(name, base / f"split_zhou_{title}.json", rows)
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
        lists = base / "ucfTrainTestlist"
        write_lines(lists / "classInd.txt", [f"{i} {own}" for i, own in enumerate(class_list(name), 1)])
        videos = {p: f"{own}/{Path(p).stem}.avi" for p, _, own in learn + rows["test"]}
        write_lines(lists / "trainlist01.txt", [f"{videos[path]} {label + 1}" for path, label, _ in learn])
        write_lines(lists / "testlist01.txt", [videos[path] for path, _, _ in rows["test"]], end="\r\n")
    if name == "oxfordpets":
        for file, own in (("trainval", learn), ("test", rows["test"])):
            lines = [f"{path.removesuffix('.jpg')} {label + 1} 1 1" for path, label, _ in own]
            write_lines(base / "annotations" / f"{file}.txt", lines)
        (base / "images" / "Abyssinian_1.mat").write_bytes(b"not a picture")


def write_lines(file: Path, lines: list[str], end: str = "\n") -> None:
    """Write a text file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(line + end for line in lines).encode())


def write_coop(name: str, file: Path, rows: Rows) -> None:
    """Write a split like CoOp's: half, a sixth, a third, and its spelling of the class names."""
    split: dict[str, list[list[str | int]]] = {"train": [], "val": [], "test": []}
    turns = [0] * CLASSES[name]
    for path, label, own in sorted(rows["train"] + rows["val"] + rows["test"]):
        part = ("train", "val", "train", "test", "train", "test")[turns[label] % 6]
        turns[label] += 1
        split[part].append([path, label, coop_name(name, own)])
    file.write_text(json.dumps(split))


def coop_name(name: str, own: str) -> str:
    """A class's name in CoOp's files."""
    if name == "eurosat":
        return EUROSAT[own].title()
    if name == "ucf101":
        return ucf_folder(own)
    if name == "sun397":
        return " ".join(reversed(own.split("/")[1:]))
    return own.lower() if name == "oxfordpets" else own


def write_cifar(name: str, folder: Path, per_class: int) -> Path:
    """Write CIFAR's binary files of records: the class (CIFAR100: the coarse one before it), 3,072 bytes of pixels."""
    k, n = CLASSES[name], CLASSES[name] * per_class
    base = folder / name / ("cifar-10-batches-bin" if k == 10 else "cifar-100-binary")
    base.mkdir(parents=True)
    g = np.random.default_rng(0)
    labels = g.permutation(np.arange(k).repeat(per_class)).astype(np.uint8)
    pixels = g.integers(0, 256, (n, 3072), dtype=np.uint8)
    records = np.column_stack([labels, pixels] if k == 10 else [labels // 5, labels, pixels])
    order = np.argsort(labels, kind="stable").reshape(k, per_class)
    test, train = np.sort(order[:, : per_class // 3].ravel()), np.sort(order[:, per_class // 3 :].ravel())
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)] if k == 10 else ["train.bin"]
    for file, own in zip(batches, np.array_split(train, len(batches)), strict=True):
        records[own].tofile(base / file)
    records[test].tofile(base / ("test_batch.bin" if k == 10 else "test.bin"))
    write_lines(base / ("batches.meta.txt" if k == 10 else "fine_label_names.txt"), [*class_list(name), ""])
    return base
