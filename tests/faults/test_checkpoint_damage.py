"""Faults R2, R6, R7, R9 and S1: whatever happens to a checkpoint's files, a load is right or says what is wrong."""

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import pathlib
import pickle
import random
import time
import warnings

import pytest
import torch

from adavipro import checkpoints
from adavipro.checkpoints import CheckpointError

TENSORS, MANIFEST = "step-{:08d}.safetensors", "step-{:08d}.json"
BOTH_FILES = pytest.mark.parametrize("file", [TENSORS, MANIFEST], ids=["tensors", "manifest"])


def save(folder, step, size=16) -> None:
    settings = {"step": step, "classes": ["café"]}
    checkpoints.save_checkpoint(folder, step, {"x": torch.full((size,), float(step))}, settings)


def step_loaded(folder) -> int:
    """Load the newest checkpoint. Returns its step, once tensors and settings agree on it."""
    tensors, settings = checkpoints.load_newest(folder)
    assert (tensors["x"] == settings["step"]).all()
    return settings["step"]


def forge(folder, step, **changes) -> None:
    """Rewrite a manifest, its own sha256 included, as someone who knows the format could."""
    path = folder / MANIFEST.format(step)
    manifest = {**json.loads(path.read_text()), **changes}
    manifest.pop("sha256")
    spell = {"sort_keys": True, "separators": (",", ":")}
    digest = hashlib.sha256(json.dumps(manifest, **spell).encode()).hexdigest()
    path.write_text(json.dumps({**manifest, "sha256": digest}, **spell))


@pytest.fixture
def folder(tmp_path):
    """Two generations, of steps 1 and 2."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    return tmp_path


@BOTH_FILES
@pytest.mark.parametrize("share", [0, 0.01, 0.25, 0.5, 0.75, 0.95, "all but one byte"])
def test_r6_truncated_file_is_named_and_the_former_generation_is_used(folder, file, share):
    path = folder / file.format(2)
    content = path.read_bytes()
    path.write_bytes(content[:-1] if isinstance(share, str) else content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=path.name):
        checkpoints.load_checkpoint(folder, 2)
    with pytest.warns(UserWarning, match=rf"{path.name}.*step 1"):
        assert step_loaded(folder) == 1


@BOTH_FILES
def test_r6_missing_file_is_named_and_the_former_generation_is_used(folder, file):
    (folder / file.format(2)).unlink()
    with pytest.raises(CheckpointError, match=file.format(2)):
        checkpoints.load_checkpoint(folder, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a manifest there is nothing to warn of
        assert step_loaded(folder) == 1


def test_r6_no_sound_generation_is_an_error_that_names_every_problem(folder):
    for step, file in ((1, MANIFEST), (2, TENSORS)):
        (folder / file.format(step)).write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"{TENSORS.format(2)}.*{MANIFEST.format(1)}"):
        checkpoints.load_newest(folder)


@BOTH_FILES
def test_r7_every_flipped_bit_is_found(folder, file):
    path = folder / file.format(2)
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=path.name):
            checkpoints.load_checkpoint(folder, 2)
    path.write_bytes(content)
    assert step_loaded(folder) == 2


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00\x80", b"\x80\x81", b"null", b"[]", b"7", b'{"sha256": NaN}', b"[" * 100_000, b"{}" * 2],
    ids=["utf-16", "not utf-8", "null", "list", "number", "nan", "deep", "twice"],
)
def test_manifest_that_is_no_manifest(folder, content):
    (folder / MANIFEST.format(2)).write_bytes(content)
    with pytest.raises(CheckpointError, match=MANIFEST.format(2)):
        checkpoints.load_checkpoint(folder, 2)


def test_tensors_of_another_generation(folder):
    os.replace(folder / TENSORS.format(1), folder / TENSORS.format(2))
    with pytest.raises(CheckpointError, match=TENSORS.format(2)):
        checkpoints.load_checkpoint(folder, 2)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_format_version(folder, version):
    forge(folder, 2, format=version)
    with pytest.raises(CheckpointError, match=rf"{MANIFEST.format(2)} has format version {version}.*reads 1"):
        checkpoints.load_checkpoint(folder, 2)


@pytest.mark.parametrize("missing", ["format", "tensors_sha256", "settings"])
def test_manifest_that_lacks_an_entry(folder, missing):
    path = folder / MANIFEST.format(2)
    manifest = json.loads(path.read_text())
    del manifest[missing]
    path.write_text(json.dumps(manifest))
    forge(folder, 2)
    with pytest.raises(CheckpointError, match=MANIFEST.format(2)):
        checkpoints.load_checkpoint(folder, 2)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("forged", [False, True], ids=["hash as it was", "hash forged"])
@BOTH_FILES
def test_s1_pickle_is_not_executed(folder, file, forged):
    payload = pickle.dumps(Bomb(folder / "executed"))
    (folder / file.format(2)).write_bytes(payload)
    if forged and file == TENSORS:
        forge(folder, 2, tensors_sha256=hashlib.sha256(payload).hexdigest())
    with pytest.raises(CheckpointError, match=file.format(2)):
        checkpoints.load_checkpoint(folder, 2)
    assert not (folder / "executed").exists()
    pickle.loads(payload)
    assert (folder / "executed").exists()  # the payload would have done it


@pytest.mark.parametrize("found", ["no folder", "nothing", "leftovers"])
def test_r9_resume_without_a_checkpoint_is_an_error(tmp_path, found):
    folder = tmp_path / "run"
    if found != "no folder":
        folder.mkdir()
    if found == "leftovers":
        (folder / TENSORS.format(1)).write_bytes(b"its manifest never came")
        (folder / (MANIFEST.format(1) + ".partial")).write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*run"):
        checkpoints.load_newest(folder)


class Killed(BaseException):
    """Stands for kill -9: nothing in the code may catch it."""


def test_r2_death_at_any_call_of_a_save_leaves_a_checkpoint_that_loads(tmp_path, monkeypatch):
    """A save is cut after its first call to the system, then after its second, and so on to the last."""
    outcomes = []
    for last in itertools.count():
        folder = tmp_path / str(last)
        save(folder, 1)
        save(folder, 2)
        calls = itertools.count()

        def mortal(function, calls=calls, last=last):
            def call(*args, **kwargs):
                result = function(*args, **kwargs)
                if next(calls) == last:
                    if isinstance(result, io.IOBase):
                        result.close()  # empty, as at a death before the first write
                    raise Killed
                return result

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace"):
                patch.setattr(os, name, mortal(getattr(os, name)))
            for name in ("open", "unlink"):
                patch.setattr(pathlib.Path, name, mortal(getattr(pathlib.Path, name)))
            try:
                save(folder, 3)
                break
            except Killed:
                pass
        outcomes.append(step_loaded(folder))
        checkpoints.sweep_partial_files(folder)
        assert len(list(folder.iterdir())) == 2 * len(checkpoints.steps_saved(folder))
        assert step_loaded(folder) == outcomes[-1]
    assert len(outcomes) >= 10  # two files: open, sync, replace, sync of the folder; two old ones: unlink
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {2, 3}


SAVE_BACK_TO_BACK = """
import itertools, pathlib, torch
from adavipro import checkpoints
folder = pathlib.Path(folder)
checkpoints.sweep_partial_files(folder)
newest = max(checkpoints.steps_saved(folder), default=0)
for step in itertools.count(newest + 1):
    checkpoints.save_checkpoint(folder, step, {"x": torch.full((250_000,), float(step))}, {"step": step})
"""


def test_r2_kill_while_saving_back_to_back(tmp_path):
    """Each process is killed at a random time after its first save; a fork server spares them the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["adavipro.checkpoints"])
    chance = random.Random(0)
    newest = 0
    for _ in range(12):
        process = context.Process(target=exec, args=(SAVE_BACK_TO_BACK, {"folder": str(tmp_path)}))
        process.start()
        deadline = time.monotonic() + 300
        while max(checkpoints.steps_saved(tmp_path), default=0) <= newest:
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()

        loaded = step_loaded(tmp_path)
        assert loaded > newest
        checkpoints.sweep_partial_files(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2 * len(checkpoints.steps_saved(tmp_path))
        assert step_loaded(tmp_path) == loaded
        newest = loaded
