"""Files that are whole or not there, where things lie, and the one source of randomness."""

import errno
import hashlib
import json
import os
import threading

import pytest
import torch

from adavipro import io
from adavipro.io import canonical_json, file_sha256, generator, write_atomically, write_json

# --- Files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_r5_full_disk_leaves_the_former_file_and_says_what_was_needed(tmp_path, monkeypatch, call):
    path = tmp_path / "result.json"
    path.write_bytes(b"former")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"result\.json.*needs 5,000 bytes, [\d,]+ are free") as caught:
        write_atomically(path, bytes(5000))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"former"


def test_a_reader_sees_the_old_content_or_the_new_one(tmp_path):
    path, contents, seen = tmp_path / "file", [bytes([i]) * 300_000 for i in range(20)], set()
    write_atomically(path, contents[0])
    writer = threading.Thread(target=lambda: [write_atomically(path, content) for content in contents])
    writer.start()
    while writer.is_alive():
        seen.add(path.read_bytes())
    assert seen <= set(contents)


def test_json_is_for_people_and_canonical_json_has_one_spelling(tmp_path):
    value = {"b": [1, 2.5], "a": {"name": "é", "none": None}}
    write_json(tmp_path / "file.json", value)
    text = (tmp_path / "file.json").read_text()
    assert json.loads(text) == value
    assert text.count("\n") > 4
    assert canonical_json(value) == canonical_json({"a": {"none": None, "name": "é"}, "b": [1, 2.5]})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_sha256_of_a_file_is_of_what_it_holds_now(tmp_path):
    file = tmp_path / "file"
    for content in (b"some", b"more", b"other"):  # of one size, within one tick of a clock
        file.write_bytes(content)
        assert file_sha256(file) == hashlib.sha256(content).hexdigest()


def test_folders_are_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ADAVIPRO_CACHE")
    assert io.cache_folder() == tmp_path / ".cache" / "adavipro"
    monkeypatch.setenv("ADAVIPRO_CACHE", "~/kept")
    assert io.datasets_folder() == tmp_path / "kept" / "datasets"
    monkeypatch.setenv("ADAVIPRO_DATA", "~/pictures")
    assert io.datasets_folder() == tmp_path / "pictures"


# --- Randomness ---------------------------------------------------------------------------------------------------


def numbers(*key) -> list[int]:
    return torch.randint(2**31, (4,), generator=generator(*key)).tolist()


def test_every_part_of_the_key_changes_the_numbers():
    keys = [(0, "order"), (1, "order"), (0, "gumbel"), (0, "order", 0), (0, "order", 1)]
    keys += [(0, "order", 1, 23), (0, "order", 12, 3), (0, "order", 123), (0, "order", 3, 12)]
    assert len({tuple(numbers(*key)) for key in keys}) == len(keys)


def test_same_key_gives_the_same_numbers_whatever_was_drawn_before():
    first = numbers(7, "gumbel", 3)
    torch.manual_seed(1)
    torch.rand(100)
    numbers(7, "gumbel", 2)
    assert numbers(7, "gumbel", 3) == first


def test_scheme_is_pinned():
    """A change of the scheme would change every published run: sha256 of "7:gumbel:3", 8 bytes, halved."""
    assert generator(7, "gumbel", 3).initial_seed() == 2060628339392969661


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    numbers(0, "order", 5)
    assert torch.equal(torch.get_rng_state(), before)
