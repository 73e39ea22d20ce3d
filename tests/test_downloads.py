import os
import re
import shutil
from pathlib import Path

import pytest
from serving import Server, rows_of, tar_of

from adavipro import downloads, files, nine
from adavipro.downloads import MISSING, PARTLY, THERE
from adavipro.settings import SettingError
from adavipro.transfers import DownloadError

LABELS = {f"dtd/labels/{split}1.txt": b"a" for split in ("train", "val", "test")}
WHOLE = ["images/a.jpg", "labels/test1.txt", "labels/train1.txt", "labels/val1.txt"]  # of DTD
CONTENT = {
    "flowers.tgz": ("flowers102", "oxford_flowers/jpg", tar_of({"jpg/image_00001.jpg": b"a flower"})),
    "setid.mat": ("flowers102", "oxford_flowers/setid.mat", b"who is where"),
    "dtd.tar.gz": ("dtd", "dtd", tar_of({"dtd/images/a.jpg": b"a texture", **LABELS})),
    "SUN397.tar.gz": ("sun397", "sun397/SUN397", tar_of({"SUN397/a/abbey/1.jpg": b"an abbey"})),
    "videos.tar.gz": ("ucf101", "ucf101/UCF101", tar_of({"UCF101/v_Archery_g01_c01.avi": b"a video"})),
}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server({name: content for name, (_, _, content) in CONTENT.items()}) as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch, server):
    """Where to fetch to, with a small catalogue of the server's files; SUN397 has no address."""
    rows = rows_of(server.url, CONTENT)
    rows[3] |= {"url": "", "note": "its address is dead"}
    rows[4] |= {"instead": "ucf101/UCF-101-midframes"}
    (tmp_path / "downloads.csv").write_text(files.to_csv(rows))
    monkeypatch.setattr(downloads, "PATH", tmp_path / "downloads.csv")
    return tmp_path / "data"


def fetch(name: str, folder: Path, **how: object) -> Path:
    return downloads.fetch(name, folder, progress_bar=False, **how)


def state_of(name: str, folder: Path) -> str:
    return next(line["state"] for line in downloads.listing(folder) if line["data set"] == name)


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_every_file_that_ships_in_the_catalogue_can_be_checked_and_has_its_place():
    rows = downloads.read_catalogue()
    assert {row.dataset for row in rows} == set(nine.SPECS)
    assert len({row.file for row in rows}) == len({row.place for row in rows}) == len(rows)
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{64}", row.sha256), row.file
        assert row.bytes, row.file
        assert row.licence, row.file
        assert row.checksum_source, row.file
        assert row.place.split("/")[0] == nine.SPECS[row.dataset].places[0]
        assert re.fullmatch(r"https?://\S+/" + re.escape(row.file), row.url) or (not row.url and row.note)
    assert [row.dataset for row in rows if not row.url] == ["sun397"]


def test_pictures_go_where_the_data_sets_are_looked_for():
    places = {row.place for row in downloads.read_catalogue()} | {"ucf101/UCF-101-midframes"}
    for spec in nine.SPECS.values():
        lies = f"{spec.places[0]}/{spec.images}"
        assert any(lies == place or lies.startswith(place + "/") for place in places), lies


def test_a_data_set_is_fetched_once(folder, server):
    assert [state_of("flowers102", folder), state_of("dtd", folder)] == [MISSING, MISSING]
    for _ in range(2):
        assert fetch("flowers102", folder) == folder / "oxford_flowers"
        assert server.asked == [0, 0]
        assert (folder / "oxford_flowers/jpg/image_00001.jpg").read_bytes() == b"a flower"
        assert (folder / "oxford_flowers/setid.mat").read_bytes() == b"who is where"
        assert state_of("flowers102", folder) == THERE
    names = [f"{name}.{end}" for name in ("flowers.tgz", "setid.mat") for end in ("json", "lock")]
    assert sorted(p.name for p in (folder / "downloads").iterdir()) == names


def test_listing_tells_what_is_left_to_download(folder, server):
    line = {x["data set"]: x for x in downloads.listing(folder)}["ucf101"]
    host = server.url.removeprefix("http://")
    states = ("ucf101", MISSING, "0.00 GB", "free", host)
    assert line == dict(zip(("data set", "state", "to download", "licence", "source"), states, strict=True))
    fetch("flowers102", folder)
    shutil.rmtree(folder / "oxford_flowers" / "jpg")
    assert state_of("flowers102", folder) == PARTLY
    fetch("flowers102", folder)
    assert server.asked == [0, 0, 0]
    assert {x["data set"]: x for x in downloads.listing(folder)}["flowers102"]["to download"] == ""


def test_listing_of_what_ships_has_a_line_for_each_of_the_nine(tmp_path):
    lines = downloads.listing(tmp_path)
    assert [line["data set"] for line in lines] == list(nine.SPECS)
    assert {line["state"] for line in lines} == {MISSING}
    assert lines[5]["source"] == "your own copy"
    assert lines[4]["to download"] == "5.00 GB"
    assert list(tmp_path.iterdir()) == []


def test_a_split_file_that_was_there_first_stays(folder):
    split = folder / "dtd" / "split_zhou_DescribableTextures.json"
    split.parent.mkdir(parents=True)
    told = f"put CoOp's there, as most papers on CLIP use it: {split}"
    assert downloads.split_advice("dtd", folder).endswith(told)
    split.write_text("{}")
    assert state_of("dtd", folder) == MISSING
    fetch("dtd", folder)
    assert tree(folder / "dtd") == sorted([*WHOLE, split.name])
    shutil.rmtree(folder / "dtd" / "images")
    fetch("dtd", folder)
    assert tree(folder / "dtd") == sorted([*WHOLE, split.name])
    assert downloads.split_advice("dtd", folder) == f"dtd: the split is CoOp's, {split}"
    assert downloads.split_advice("cifar10", folder) == f"cifar10: the split is {nine.OURS}; CoOp has none"


def test_an_unpacking_that_was_killed_is_done_again(folder, server):
    fetch("dtd", folder)
    (folder / "dtd.unpacking" / "dtd").mkdir(parents=True)
    (folder / "dtd" / "images" / "a.jpg").unlink()
    assert state_of("dtd", folder) == PARTLY
    fetch("dtd", folder)
    assert tree(folder / "dtd") == WHOLE
    assert not (folder / "dtd.unpacking").exists()


def test_another_published_archive_is_fetched_again(folder, server):
    fetch("dtd", folder)
    newer = tar_of({"dtd/images/a.jpg": b"a better texture"})
    server.files["dtd.tar.gz"] = newer
    downloads.PATH.write_text(files.to_csv(rows_of(server.url, {"dtd.tar.gz": ("dtd", "dtd", newer)})))
    fetch("dtd", folder)
    assert (folder / "dtd/images/a.jpg").read_bytes() == b"a better texture"


def test_what_has_no_address_takes_a_copy_of_the_readers_own(folder, server):
    archive = folder / "downloads" / "SUN397.tar.gz"
    told = "its address is dead; a copy that you save by hand may lie at "
    told += f"{archive}, or unpacked at {folder}/sun397/SUN397"
    with pytest.raises(DownloadError, match=re.escape(told)):
        fetch("sun397", folder)
    archive.write_bytes(b"another file")
    with pytest.raises(DownloadError, match=r"the sha256 of .* but it must be"):
        fetch("sun397", folder)
    assert archive.read_bytes() == b"another file"
    archive.write_bytes(CONTENT["SUN397.tar.gz"][2])
    fetch("sun397", folder)
    assert (folder / "sun397/SUN397/a/abbey/1.jpg").read_bytes() == b"an abbey"
    assert archive.exists()
    assert server.asked == []


def test_a_data_set_that_the_reader_unpacked_is_there(folder, server):
    dtd = [f"dtd/{place}" for place in ("dtd/images/a.jpg", *LABELS)]
    flowers = ("flowers-102/jpg/1.jpg", "flowers-102/setid.mat")
    for place in ("sun397/SUN397/a/1.jpg", *dtd, "ucf101/UCF-101-midframes/Archery/1.jpg", *flowers):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()
    homes = {"sun397": "sun397", "dtd": "dtd/dtd", "ucf101": "ucf101", "flowers102": "flowers-102"}
    for name, place in homes.items():
        assert state_of(name, folder) == THERE
        assert fetch(name, folder) == folder / place
        assert f" {folder / place}/split_zhou_" in downloads.split_advice(name, folder)
    assert server.asked == []
    assert not (folder / "downloads").exists()


def test_a_mirror_takes_the_place_of_every_address(folder, server, tmp_path):
    fetch("sun397", folder, mirror=f"{server.url}/copies/")
    assert server.asked == [0]
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "dtd.tar.gz").write_bytes(CONTENT["dtd.tar.gz"][2])
    fetch("dtd", folder, mirror=(tmp_path / "copies").as_uri())
    assert server.asked == [0]
    assert state_of("sun397", folder) == state_of("dtd", folder) == THERE


@pytest.mark.parametrize(
    ("home", "lost"),
    [("dtd", "labels"), ("dtd", "images"), ("dtd/dtd", "labels"), ("dtd/dtd", "labels/val1.txt")],
)
def test_lists_or_pictures_that_are_missing_are_fetched_to_the_others(lost, home, folder):
    fetch("dtd", folder)
    base = folder / home
    if home != "dtd":  # the layout of torchvision
        (folder / "dtd").rename(folder / "moved")
        base.parent.mkdir()
        (folder / "moved").rename(base)
    (shutil.rmtree if (base / lost).is_dir() else os.remove)(base / lost)
    assert state_of("dtd", folder) == PARTLY
    assert fetch("dtd", folder) == base
    assert tree(base) == WHOLE


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("ucf101", "ucf101/UCF-101-midframes/Archery"),
        ("ucf101", "ucf101/UCF101"),
        ("sun397", "sun397/SUN397"),
    ],
)
def test_empty_folders_are_not_there_and_links_to_full_ones_are(name, place, folder):
    (folder / place).mkdir(parents=True)
    assert state_of(name, folder) == MISSING
    (folder / place / ".directory").touch()
    assert state_of(name, folder) == MISSING
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "1.jpg").touch()
    (folder / place / "link").symlink_to(folder / "elsewhere")
    assert state_of(name, folder) == THERE


def test_an_archive_stays_where_that_is_asked_for_and_where_the_reader_has_it(folder, server):
    archive = folder / "downloads" / "dtd.tar.gz"
    for keep in (True, False):  # what was kept is the reader's own from then on
        fetch("dtd", folder, keep=keep)
        assert tree(folder / "dtd") == WHOLE
        assert archive.read_bytes() == CONTENT["dtd.tar.gz"][2]
        shutil.rmtree(folder / "dtd")
    assert server.asked == [0]


@pytest.mark.parametrize(
    ("name", "mirror", "told"),
    [
        (
            "imagenet",
            None,
            "data set is 'imagenet', but those that can be fetched are: cifar10, .*oxfordpets",
        ),
        ("dtd", "/copies", "mirror is '/copies', but it must begin with https://, http:// or file://"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(tmp_path, name, mirror, told):
    with pytest.raises(SettingError, match=told):
        fetch(name, tmp_path, mirror=mirror)
    assert list(tmp_path.iterdir()) == []
