"""Fault D2 on the paper's nine data sets: what the sentence says to do mends it."""

import dataclasses
import hashlib
import os
import re
import shutil
import tarfile
from pathlib import Path

import nine_samples
import pytest

from adavipro import downloads
from adavipro.nine import list_dataset
from adavipro.settings import SettingError

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.nine.PartialDataWarning")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def published(data, monkeypatch):
    """Offer archives of the small data sets in place of the published ones."""
    rows, whole = [], data.parent / "whole"
    for name in ("dtd", "food101", "oxfordpets", "flowers102", "cifar10", "eurosat"):
        nine_samples.write(name, whole)
    for row in downloads.read_catalogue():
        place, file = whole / row.place, data.parent / row.file
        if place.is_dir():
            file = file.with_name(f"{row.file}.tar.gz")
            with tarfile.open(file, "w:gz", compresslevel=1) as archive:
                archive.add(place, place.name)
        elif place.is_file():
            shutil.copy(place, file)
        else:
            continue
        content = file.read_bytes()
        told = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        rows.append(dataclasses.replace(row, file=file.name, url=file.as_uri(), **told))
    monkeypatch.setattr(downloads, "read_catalogue", lambda: rows)


DAMAGES = [(name, part, None) for name, part in (
    ("dtd", "dtd/labels/val1.txt"), ("food101", "food-101/meta/train.txt"),
    ("flowers102", "oxford_flowers/setid.mat"), ("flowers102", "oxford_flowers/imagelabels.mat"),
    ("oxfordpets", "oxford_pets/annotations/test.txt"), ("cifar10", "cifar10/cifar-10-batches-bin/data_batch_3.bin"),
)]  # fmt: skip
DAMAGES += [(name, part, b"\xff" * 3073) for name, part, _ in DAMAGES if not part.endswith("mat")]
DAMAGES += [("flowers102", "oxford_flowers/imagelabels.mat", b"no labels")]
DAMAGES += [(name, part, None) for name, part in (
    ("dtd", "dtd/labels"), ("food101", "food-101/meta"), ("oxfordpets", "oxford_pets/annotations"),
    ("dtd", "dtd/images"), ("dtd", "dtd/images/banded"), ("oxfordpets", "oxford_pets/images/Abyssinian_2.jpg"),
    ("eurosat", "eurosat/2750/River"), ("eurosat", "eurosat/2750"), ("cifar10", "cifar10/cifar-10-batches-bin"),
)]  # fmt: skip


@pytest.mark.parametrize(("name", "part", "content"), DAMAGES)
def test_d2_what_the_sentence_says_mends_it(name, part, content, data, published):
    nine_samples.write(name, data)
    before = list_dataset(name).version
    if content:
        (data / part).write_bytes(content)
    else:
        (shutil.rmtree if (data / part).is_dir() else os.remove)(data / part)
    with pytest.raises(SettingError) as caught:
        list_dataset(name)
    told = str(caught.value).rpartition("; ")[2]
    assert f"`adavipro fetch {name}`" in told
    if found := re.match("remove (.*), then", told):
        for path in map(Path, found[1].split(" and ")):
            assert path.is_relative_to(data)
            (shutil.rmtree if path.is_dir() else os.remove)(path)
    downloads.fetch(name, data, progress_bar=False)
    assert list_dataset(name).version == before


def test_way_out_of_ucf101_goes_by_what_is_there(data):
    base = nine_samples.write("ucf101", data)
    frames = base / "UCF-101-midframes"
    shutil.rmtree(frames / "Yo_Yo")
    way_out = f"remove {frames}, then `adavipro fetch ucf101` and `adavipro midframes`"
    with pytest.raises(SettingError, match=f"; {way_out}$"):
        list_dataset("ucf101")
    (base / "UCF101").mkdir()
    with pytest.raises(
        SettingError,
        match=f"; run `adavipro midframes`, which leaves the frames that are there, or {way_out}$",
    ):
        list_dataset("ucf101")
    shutil.rmtree(frames)
    with pytest.raises(
        SettingError, match="; get it with `adavipro fetch ucf101` and `adavipro midframes`, or set "
    ):
        list_dataset("ucf101")
