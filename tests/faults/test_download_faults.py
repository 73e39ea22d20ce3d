"""Fault S3: a download that goes wrong leaves no file, says so in one sentence, and the next call mends it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
from serving import Server, certificate, rows_of, tar_of

from adavipro import downloads, files
from adavipro.transfers import PART, DownloadError, download, part_of

NAME = "dtd-r1.0.1.tar.gz"
PICTURE = random.Random(0).randbytes(400_000)
LABELS = {f"dtd/labels/{split}1.txt": b"banded/banded.jpg" for split in ("train", "val", "test")}
ARCHIVE = tar_of({"dtd/images/banded.jpg": PICTURE, **LABELS})


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with Server({NAME: ARCHIVE}) as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch, server):
    """Where DTD is to be fetched to, from the server."""
    offer(tmp_path, monkeypatch, server.url)
    return tmp_path / "data"


def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, **changes: object) -> None:
    """Put a catalogue with one file in place of the one that ships."""
    path = tmp_path / "downloads.csv"
    path.write_text(files.to_csv(rows_of(url, {NAME: ("dtd", "dtd", ARCHIVE)}, **changes)))
    monkeypatch.setattr(downloads, "PATH", path)


def fetch(folder: Path) -> Path:
    return downloads.fetch("dtd", folder, progress_bar=False)


def fails(folder: Path, told: str) -> str:
    """Fetch in vain; nothing is in its place. Returns the sentence."""
    with pytest.raises(DownloadError, match=told) as caught:
        fetch(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "dtd").exists()
    assert not (folder / "downloads" / NAME).exists()
    return str(caught.value)


def succeeds(folder: Path) -> None:
    assert (fetch(folder) / "images" / "banded.jpg").read_bytes() == PICTURE
    assert sorted(p.name for p in (folder / "downloads").iterdir()) == [f"{NAME}.json", f"{NAME}.lock"]


def test_s3_wrong_hash_is_told_with_both_hashes(folder, server):
    server.files[NAME] = ARCHIVE[:-1] + b"?"
    told = fails(folder, "the sha256 of .* is [0-9a-f]{64}, but it must be [0-9a-f]{64}")
    assert downloads.read_catalogue()[0].sha256 in told
    assert not part_of(folder / "downloads" / NAME).exists()
    server.files[NAME] = ARCHIVE
    succeeds(folder)
    assert server.asked == [0, 0]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("tells_length", [True, False])
def test_s3_short_body_is_kept_and_the_next_call_goes_on(folder, server, ranges, tells_length):
    server.ranges, server.tells_length, server.cut = ranges, tells_length, 100_000
    fails(folder, f"ended after 100,000 of {len(ARCHIVE):,} bytes, which are kept")
    assert part_of(folder / "downloads" / NAME).read_bytes() == ARCHIVE[:100_000]
    assert downloads.listing(folder)[0]["state"] == downloads.PARTLY
    server.cut = None
    succeeds(folder)
    assert server.asked == [0, 100_000 if ranges else 0]
    assert server.sent == len(ARCHIVE) + (0 if ranges else 100_000)


def test_s3_web_page_is_said_to_be_one_and_costs_no_bytes_that_came_before(folder, server):
    server.cut = 50_000
    fails(folder, "ended after 50,000")
    server.cut, server.ranges = None, False
    for page in (b"\n<!DOCTYPE html><title>Log in</title>", b"<html><body>moved</body></html>"):
        server.files[NAME] = page
        fails(folder, f"{server.url}/{NAME} sends a web page, not the file")
    server.files[NAME], server.ranges = ARCHIVE, True
    succeeds(folder)
    assert server.asked[-1] == 50_000


def test_s3_redirect_from_https_to_http_is_refused(tmp_path, monkeypatch, server):
    own = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))
    with Server({NAME: ARCHIVE}, own) as secure:
        offer(tmp_path, monkeypatch, secure.url)
        secure.redirect = f"{server.url}/{NAME}"
        fails(tmp_path / "data", f"redirects from https to {secure.redirect}")
        assert server.asked == []
        secure.redirect = ""
        succeeds(tmp_path / "data")


def test_s3_two_at_once_download_once(folder, server):
    server.pause = 0.01
    both = [threading.Thread(target=fetch, args=(folder,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    succeeds(folder)
    assert server.asked == [0]
    assert server.sent == len(ARCHIVE)


def test_s3_killed_midway_goes_on_from_where_it_was(folder, server):
    server.pause = 0.03
    archive = folder / "downloads" / NAME
    archive.parent.mkdir(parents=True)
    code = "import sys, pathlib; from adavipro.transfers import download; "
    code += "download(sys.argv[1], pathlib.Path(sys.argv[2]), sha256='0' * 64, progress_bar=False)"
    process = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/{NAME}", str(archive)])
    while not part_of(archive).exists() or part_of(archive).stat().st_size < 100_000:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = part_of(archive).stat().st_size
    assert 100_000 <= kept < len(ARCHIVE)
    server.sent = server.pause = 0
    time.sleep(0.1)  # what the server still sends to the dead one
    server.sent = 0
    succeeds(folder)
    assert server.asked == [0, kept]
    assert server.sent == len(ARCHIVE) - kept


def test_a_file_of_another_length_is_refused_before_it_is_taken(folder, server):
    server.files[NAME] = ARCHIVE + b"more"
    fails(folder, f"offers {len(ARCHIVE) + 4:,} bytes, but the file has {len(ARCHIVE):,}")
    server.tells_length = False
    fails(folder, "the sha256 of")
    server.files[NAME] = ARCHIVE
    succeeds(folder)


def test_a_body_without_end_is_not_taken_to_its_end(folder, server):
    server.files[NAME], server.tells_length = bytes(100 * len(ARCHIVE)), False
    fails(folder, "the sha256 of")
    assert server.sent < 50 * len(ARCHIVE)  # what the sockets buffered


def test_a_part_that_is_longer_than_the_file_is_thrown_away(folder, server):
    part = folder / "downloads" / (NAME + PART)
    part.parent.mkdir(parents=True)
    part.write_bytes(ARCHIVE + b"of another day")
    fails(folder, "416")
    succeeds(folder)


def test_a_part_that_was_whole_when_its_process_died_is_not_asked_for_again(folder, server):
    part = folder / "downloads" / (NAME + PART)
    part.parent.mkdir(parents=True)
    part.write_bytes(ARCHIVE)
    succeeds(folder)
    assert server.asked == []


def test_a_server_that_is_not_there_is_one_sentence(folder, server):
    server.shutdown()
    server.server_close()
    told = fails(folder, f"{NAME} cannot be had: {server.url}/{NAME}: .*refused")
    assert str(folder / "downloads" / NAME) in told
    assert str(folder / "dtd") in told


def test_a_full_disk_is_told_before_the_download(folder, server, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 0, 1000))
    fails(folder, f"need {2 * len(ARCHIVE):,} bytes, 1,000 are free")
    assert server.asked == []


def test_a_file_whose_hash_nobody_published_comes_by_https_only_and_its_hash_is_told(
    tmp_path, monkeypatch, server
):
    with pytest.raises(DownloadError, match="must begin with https, since there is no sha256"):
        download(f"{server.url}/{NAME}", tmp_path / NAME, progress_bar=False)
    assert server.asked == []
    own = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))
    with Server({NAME: ARCHIVE}, own) as secure:
        offer(tmp_path, monkeypatch, secure.url, sha256="", note="nobody published it")
        sha256 = rows_of("", {NAME: ("", "", ARCHIVE)})[0]["sha256"]
        with pytest.warns(UserWarning, match=f"no published sha256 to compare with; it has {sha256}"):
            succeeds(tmp_path / "data")


def test_what_fails_does_not_keep_back_the_other_files_and_all_of_it_is_told_at_once(
    tmp_path, monkeypatch, server
):
    """UCF101's lists come from a server whose certificate many cannot verify; its videos from another."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    pages = {"lists.tar.gz": ("ucf101", "ucf101/ucfTrainTestlist", b"lists")}
    videos = {"videos.tar.gz": ("ucf101", "ucf101/UCF101", tar_of({"UCF101/v_YoYo_g01_c01.avi": b"a video"}))}
    odd = {"odd.tar.gz": ("ucf101", "ucf101/odd", tar_of({"other/1.txt": b"1"}))}
    server.files = {name: content for name, (_, _, content) in (videos | odd).items()}
    data = tmp_path / "data"
    with Server({"lists.tar.gz": b"lists"}, certificate(tmp_path)) as secure:
        rows = [*rows_of(secure.url, pages), *rows_of(server.url, videos), *rows_of(server.url, odd)]
        (tmp_path / "downloads.csv").write_text(files.to_csv(rows))
        monkeypatch.setattr(downloads, "PATH", tmp_path / "downloads.csv")
        with pytest.raises(DownloadError) as caught:
            downloads.fetch("ucf101", data, progress_bar=False)
    told = str(caught.value)
    assert f"lists.tar.gz cannot be had: {secure.url}/lists.tar.gz: " in told
    assert "certificate verify failed" in told
    assert f"save by hand may lie at {data}/downloads/lists.tar.gz, or unpacked at {data}/ucf101/ucf" in told
    assert "holds no folder 'odd'" in told
    assert (data / "ucf101/UCF101/v_YoYo_g01_c01.avi").read_bytes() == b"a video"
