"""Faults D1, R2, R5, R6 and R7 on the images of the nine data sets: bad pictures, kills, full disks, flipped bits."""

import errno
import multiprocessing
import os
import shutil
import signal

import nine_samples
import pytest
import torch

from adavipro import decoded
from adavipro.decoded import open_split
from adavipro.nine import list_dataset
from adavipro.settings import SettingError

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.nine.PartialDataWarning")


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ADAVIPRO_CACHE", str(tmp_path / "cache"))
    nine_samples.write("oxfordpets", tmp_path / "data")
    return list_dataset("oxfordpets")


def name_of(listing):
    return f"val-24px-{listing.version[:12]}"


def test_d1_all_bad_pictures_are_named_at_once_and_nothing_is_kept(pets, tmp_path):
    chosen = [pets.folder / pets.pictures["val"][i][0].path for i in (0, 5, 36)]
    for file, content in zip(chosen, (b"", b"<html>", chosen[2].read_bytes()[:-200]), strict=True):
        file.write_bytes(content)
    with pytest.raises(SettingError, match=r"^3 of 37 images in .* cannot be used: ") as caught:
        open_split(pets, "oxfordpets", "val", 24)
    reasons = ("the file is empty", "the file is HTML", "image file is truncated")
    for file, reason in zip(chosen, reasons, strict=True):
        assert f"{file.name}: {reason}" in str(caught.value)
    kept = list((tmp_path / "cache/decoded/oxfordpets").iterdir())
    assert [path.name for path in kept] == [f"{name_of(pets)}.lock"]


def test_r5_disk_without_room_is_named_before_any_work(pets, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=63_935))
    monkeypatch.setattr(decoded, "_decode", None)
    told = r"val-24px-\w+\.bytes needs 63,936 bytes, 63,935 are free: make room, or set \$ADAVIPRO_CACHE"
    with pytest.raises(OSError, match=told) as caught:
        open_split(pets, "oxfordpets", "val", 24)
    assert caught.value.errno == errno.ENOSPC


def test_r5_disk_that_fills_up_meanwhile_leaves_nothing(pets, tmp_path, monkeypatch):
    write, done = os.pwrite, []

    def full(descriptor, content, offset):
        done.append(offset)
        return (
            write(descriptor, content, offset) if len(done) < 10 else write(descriptor, content[:9], offset)
        )

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"val-24px-\w+\.bytes needs 63,936 bytes, [\d,]+ are free"):
        open_split(pets, "oxfordpets", "val", 24)
    kept = list((tmp_path / "cache/decoded/oxfordpets").iterdir())
    assert [path.name for path in kept] == [f"{name_of(pets)}.lock"]


def test_r7_flipped_bit_is_found_at_every_open_and_mended(pets, tmp_path):
    right = open_split(pets, "oxfordpets", "val", 24).clone()
    file = tmp_path / f"cache/decoded/oxfordpets/{name_of(pets)}.bytes"
    content = file.read_bytes()
    for place in (0, len(content) // 2, len(content) - 1):
        wrong = bytearray(content)
        wrong[place] ^= 1
        file.write_bytes(wrong)
        with pytest.warns(UserWarning, match=r"val-24px-\w+\.bytes is damaged: built again"):
            assert torch.equal(open_split(pets, "oxfordpets", "val", 24), right)
    assert file.read_bytes() == content


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: b"", lambda c: c + b"\0"])
@pytest.mark.parametrize("end", ["bytes", "json"])
def test_r6_file_or_manifest_of_another_length_is_built_again(end, change, pets, tmp_path):
    right = open_split(pets, "oxfordpets", "val", 24).clone()
    file = tmp_path / f"cache/decoded/oxfordpets/{name_of(pets)}.{end}"
    file.write_bytes(change(file.read_bytes()).rstrip(b"}\n" if end == "json" else b""))
    with pytest.warns(UserWarning, match="is damaged: built again"):
        assert torch.equal(open_split(pets, "oxfordpets", "val", 24), right)


def die_at(name, listing):
    """Open a split; kill this process when a file of that name is to be put into its place."""
    replace = os.replace

    def dying(source, target):
        if target.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = dying
    open_split(listing, "oxfordpets", "val", 24)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("end", ["bytes", "json"])
def test_r2_builder_that_was_killed_leaves_nothing_that_counts(end, pets, tmp_path):
    builder = multiprocessing.get_context("fork").Process(
        target=die_at, args=(f"{name_of(pets)}.{end}", pets)
    )
    builder.start()
    builder.join(60)
    assert builder.exitcode == -signal.SIGKILL
    folder = tmp_path / "cache/decoded/oxfordpets"
    assert not (folder / f"{name_of(pets)}.json").exists()
    assert open_split(pets, "oxfordpets", "val", 24).shape == (37, 3, 24, 24)
    assert {path.name for path in folder.iterdir()} == {
        f"{name_of(pets)}.{e}" for e in ("bytes", "json", "lock")
    }
