"""Fault S2: an archive with a member that could do harm is refused whole, and nothing of it is left."""

import io
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from adavipro.archives import ArchiveError, unpack

LIMIT = 1_000_000
GOOD = ("set/a.txt", b"good")


def tar(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    """Write a .tar.gz: files by name and content, others as they are."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def packed(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    """Write a .zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def special(kind: bytes, name: str = "set/bad", target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zipped(mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("set/bad")
    info.external_attr = (mode | 0o777) << 16
    return info


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that lies below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


ESCAPES = "leads out of its folder"
CASES = {
    "parent": (lambda p: tar(p / "x.tar.gz", GOOD, ("set/../../bad", b"x")), ESCAPES),
    "absolute": (lambda p: tar(p / "x.tar.gz", GOOD, (f"{p}/bad", b"x")), "absolute name"),
    "drive": (lambda p: tar(p / "x.tar.gz", GOOD, (r"C:\bad", b"x")), "absolute name"),
    "symbolic link": (
        lambda p: tar(p / "x.tar.gz", GOOD, special(tarfile.SYMTYPE, "set/bad", ".."), ("set/bad/x", b"x")),
        "is a symbolic link",
    ),
    "hard link": (
        lambda p: tar(p / "x.tar.gz", GOOD, special(tarfile.LNKTYPE, "set/bad", "set/a.txt")),
        "is a hard link",
    ),
    "device": (lambda p: tar(p / "x.tar.gz", GOOD, special(tarfile.CHRTYPE)), "is a device"),
    "fifo": (lambda p: tar(p / "x.tar.gz", GOOD, special(tarfile.FIFOTYPE)), "is a fifo"),
    "twice": (lambda p: tar(p / "x.tar.gz", GOOD, ("set/bad", b"x"), ("set/./bad", b"y")), "is there twice"),
    "tar bomb": (lambda p: tar(p / "x.tar.gz", GOOD, ("set/bad", bytes(LIMIT))), "more than its data set can"),
    "zip bomb": (lambda p: packed(p / "x.zip", GOOD, ("set/bad", bytes(LIMIT))), "more than its data set can"),
    "zip of empty files": (
        lambda p: packed(p / "x.zip", *((f"set/{i}", b"") for i in range(244)), ("set/bad", b"")),
        "more than its data set can",
    ),
    "zip with a link": (lambda p: packed(p / "x.zip", GOOD, (zipped(stat.S_IFLNK), b"..")), "a symbolic link"),
    "zip with a fifo": (lambda p: packed(p / "x.zip", GOOD, (zipped(stat.S_IFIFO), b"")), "is a fifo"),
    "zip parent": (lambda p: packed(p / "x.zip", GOOD, (r"set\..\..\bad", b"x")), ESCAPES),
    "zip absolute": (lambda p: packed(p / "x.zip", GOOD, (f"{p}/bad", b"x")), "absolute name"),
    "zip share": (lambda p: packed(p / "x.zip", GOOD, (r"\\host\share\bad", b"x")), "absolute name"),
    "file and folder": (
        lambda p: tar(p / "x.tar.gz", GOOD, ("set/a.txt/bad", b"x")),
        "a file in one place and a folder in another",
    ),
}  # fmt: skip


@pytest.mark.parametrize("there", [False, True], ids=["new", "over a former one"])
@pytest.mark.parametrize("case", CASES)
def test_s2_harmful_archive_is_refused_whole_and_leaves_nothing(tmp_path, case, there):
    make, told = CASES[case]
    archive, place = make(tmp_path), tmp_path / "data" / "set"
    place.parent.mkdir()
    if there:
        place.mkdir()
        (place / "a.txt").write_text("mine")
    (tmp_path / "data" / "set.unpacking").mkdir()  # as a killed process leaves it
    (tmp_path / "data" / "set.unpacking" / "rest").write_text("of a killed process")
    before = tree(tmp_path)
    with pytest.raises(ArchiveError, match=r"refused whole: its member .*bad' ") as caught:
        unpack(archive, place, LIMIT)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    swept = {name: content for name, content in before.items() if "unpacking" not in name}
    assert tree(tmp_path) == swept


def test_s2_archive_that_the_disk_cannot_hold_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000, 5_000, 5_000))
    archive = packed(tmp_path / "x.zip", GOOD, ("set/bad", b"x"))
    with pytest.raises(ArchiveError, match=r"'set/bad' brings .* more than the free disk \(5,000\)"):
        unpack(archive, tmp_path / "set", LIMIT)
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip"])
def test_s2_damaged_archive_leaves_nothing(tmp_path, name):
    archive = tmp_path / name
    whole = (packed if name == "x.zip" else tar)(archive, GOOD, ("set/b", bytes(range(256)))).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no archive", b""):
        archive.write_bytes(damaged)
        with pytest.raises(ArchiveError, match="is damaged"):
            unpack(archive, tmp_path / "set", LIMIT)
        assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("make", [tar, packed])
def test_a_good_archive_is_unpacked_and_files_of_the_reader_stay(tmp_path, make):
    archive = tmp_path / ("x.zip" if make is packed else "x.tar.gz")
    make(archive, GOOD, ("set/deep/b.txt", b"b"), ("__MACOSX/set/a.txt", b"left out"))
    place = tmp_path / "data" / "set"
    for _ in range(2):
        unpack(archive, place, LIMIT)
        assert (place / "a.txt").read_bytes() == b"good"
        assert (place / "deep" / "b.txt").read_bytes() == b"b"
        assert [p.name for p in place.parent.iterdir()] == ["set"]
        (place / "a.txt").write_bytes(b"worn")
        (place / "split_zhou_Mine.json").write_text("{}")
    assert (place / "split_zhou_Mine.json").read_text() == "{}"


def test_a_file_that_is_there_twice_with_the_same_content_does_no_harm(tmp_path):
    unpack(tar(tmp_path / "x.tar.gz", GOOD, GOOD), tmp_path / "set", LIMIT)
    assert tree(tmp_path / "set") == {"a.txt": b"good"}


def test_an_archive_without_its_folder_is_one_sentence(tmp_path):
    archive = tar(tmp_path / "x.tar.gz", ("other/a", b"a"), ("b", b"b"))
    with pytest.raises(ArchiveError, match=r"holds no folder 'set'; at its top are: b, other"):
        unpack(archive, tmp_path / "set", LIMIT)
    assert list(tmp_path.iterdir()) == [archive]
