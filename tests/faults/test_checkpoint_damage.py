"""Faults R2, R6, R7, R9 and S1: whatever happens to a sealed file, a load is right or says what is wrong."""

import io
import itertools
import multiprocessing
import os
import pathlib
import pickle
import random
import time

import own_network
import pytest
import torch
from safetensors.torch import save

from adavipro import checkpoints
from adavipro.checkpoints import CheckpointError
from adavipro.io import canonical_json

NAME = "step-{:08d}.safetensors"


def save_step(folder, step, size=16) -> None:
    settings = {"step": step, "classes": ["café"]}
    checkpoints.save_checkpoint(folder, step, {"x": torch.full((size,), float(step))}, settings)


def step_loaded(folder) -> int:
    """Load the newest checkpoint. Returns its step, once tensors and settings agree on it."""
    tensors, settings = checkpoints.load_newest(folder)
    assert (tensors["x"] == settings["step"]).all()
    return settings["step"]


@pytest.fixture
def folder(tmp_path):
    """Two generations, of steps 1 and 2."""
    save_step(tmp_path, 1)
    save_step(tmp_path, 2)
    return tmp_path


@pytest.mark.fault("a checkpoint cut short")
@pytest.mark.parametrize("share", [0, 0.01, 0.25, 0.5, 0.75, 0.95, "all but one byte"])
def test_r6_truncated_file_is_named_and_the_former_generation_is_used(folder, share):
    path = folder / NAME.format(2)
    content = path.read_bytes()
    path.write_bytes(content[:-1] if isinstance(share, str) else content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=path.name):
        checkpoints.read_sealed(path)
    with pytest.warns(UserWarning, match=rf"{path.name}.*going on from step 1"):
        assert step_loaded(folder) == 1


def test_r6_missing_file_is_named_and_the_former_generation_is_used(folder):
    (folder / NAME.format(2)).unlink()
    with pytest.raises(CheckpointError, match=NAME.format(2)):
        checkpoints.read_sealed(folder / NAME.format(2))
    assert step_loaded(folder) == 1


@pytest.mark.fault("asked to resume without a sound checkpoint")
def test_r6_no_sound_generation_is_an_error_that_names_every_problem(folder):
    for step in (1, 2):
        (folder / NAME.format(step)).write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"no checkpoint is sound.*{NAME.format(2)}.*{NAME.format(1)}"):
        checkpoints.load_newest(folder)


@pytest.mark.fault("one flipped bit in a checkpoint")
def test_r7_flipped_bit_is_found_in_every_byte(folder):
    path, chance = folder / NAME.format(2), random.Random(0)
    content = path.read_bytes()
    assert len(content) > 300
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=path.name):
            checkpoints.read_sealed(path)
    path.write_bytes(content)
    assert step_loaded(folder) == 2


@pytest.mark.fault("one flipped bit in a checkpoint")
def test_r7_bytes_that_are_added_moved_or_exchanged_are_found(folder):
    path = folder / NAME.format(2)
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    spaced = (header + 8).to_bytes(8, "little") + content[8 : 8 + header] + b" " * 8 + content[8 + header :]
    tensors = content[:-8] + content[-4:] + content[-8:-4]
    for damaged in (content + b"\0", b"\0" + content, spaced, content + content, tensors[:-4] + b"\0" * 4):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=path.name):
            checkpoints.read_sealed(path)


def sealed(manifest: str | None) -> bytes:
    return save({"x": torch.ones(2)}, None if manifest is None else {"manifest": manifest})


@pytest.mark.parametrize(
    "content",
    [
        *(b"\xff\xfe\x00\x80", b"null", b"[" * 100_000, b"\xff" * 64, bytes(64)),
        *map(sealed, (None, "", "null", "[]", '{"content": 7}', '{"content": "[]"}', "[" * 100_000)),
        sealed(canonical_json({"content": '{"format":2}', "sha256": "0"})),
        sealed(canonical_json({"content": '{"format":2,"settings":{}}', "sha256": "0"})),
    ],
    ids=lambda content: repr(content)[:24],
)
def test_file_that_is_no_sealed_file(folder, content):
    (folder / NAME.format(2)).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{NAME.format(2)} cannot be used"):
        checkpoints.read_sealed(folder / NAME.format(2))


def test_content_of_another_file_under_its_own_hash_is_found(folder):
    """The metadata of one file before the tensors of another."""
    one, two = ((folder / NAME.format(step)).read_bytes() for step in (1, 2))
    (folder / NAME.format(2)).write_bytes(two[:-64] + one[-64:])
    with pytest.raises(CheckpointError, match=r"does not match its sha256"):
        checkpoints.read_sealed(folder / NAME.format(2))


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_other_format_version(tmp_path, monkeypatch, version):
    monkeypatch.setattr(checkpoints, "FORMAT", version)
    checkpoints.write_sealed(tmp_path / "file", {"x": torch.ones(2)}, {})
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError, match=rf"file has format version {version}, but this release reads 2"
    ):
        checkpoints.read_sealed(tmp_path / "file")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.fault("a pickle that runs code, in the place of a file that is read")
@pytest.mark.parametrize("how", ["alone", "torch.save", "as manifest", "as tensors"])
def test_s1_pickle_is_not_executed(folder, how):
    path, target = folder / NAME.format(2), folder / "executed"
    payload = pickle.dumps(Bomb(target))
    content = path.read_bytes()
    if how == "torch.save":
        torch.save({"x": Bomb(target)}, path)
    else:
        forged = {
            "alone": payload,
            "as manifest": sealed(payload.decode("latin-1")),
            "as tensors": content[:-64] + payload,
        }
        path.write_bytes(forged[how])
    with pytest.raises(CheckpointError, match=path.name):
        checkpoints.read_sealed(path)
    assert not target.exists()
    pickle.loads(payload)
    assert target.exists()  # the payload would have done it


@pytest.mark.fault("asked to resume without a sound checkpoint")
@pytest.mark.parametrize("found", ["no folder", "nothing", "leftovers"])
def test_r9_resume_without_a_checkpoint_is_an_error(tmp_path, found):
    folder = tmp_path / "run"
    if found != "no folder":
        folder.mkdir()
    if found == "leftovers":
        (folder / (NAME.format(1) + ".partial")).write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*run to resume from"):
        checkpoints.load_newest(folder)


class Killed(BaseException):
    """Stands for kill -9: nothing in the code may catch it."""


def test_r2_death_at_any_call_of_a_save_leaves_a_checkpoint_that_loads(tmp_path, monkeypatch):
    """A save is cut after its first call to the system, then after its second, and so on to the last."""
    outcomes = []
    for last in itertools.count():
        folder = tmp_path / str(last)
        save_step(folder, 1)
        save_step(folder, 2)
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
                save_step(folder, 3)
                break
            except Killed:
                pass
        outcomes.append(step_loaded(folder))
        checkpoints.clear(folder, keep_saved=True)
        assert len(list(folder.iterdir())) == len(checkpoints.steps_saved(folder))
        assert step_loaded(folder) == outcomes[-1]
    assert len(outcomes) >= 5  # open, sync, replace, sync of the folder; the oldest: unlink
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {2, 3}


SAVE_BACK_TO_BACK = """
import itertools, pathlib, torch
from adavipro import checkpoints
folder = pathlib.Path(folder)
checkpoints.clear(folder, keep_saved=True)
newest = max(checkpoints.steps_saved(folder), default=0)
for step in itertools.count(newest + 1):
    checkpoints.save_checkpoint(folder, step, {"x": torch.full((250_000,), float(step))}, {"step": step})
"""


@pytest.mark.fault("kill -9 while a checkpoint is being saved", quick=6, long=150)
def test_r2_kill_while_saving_back_to_back(tmp_path, chance):
    """Both processes are killed at a random time after their first save; a fork server spares them the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(own_network.PRELOADED)
    newest = 0
    for _ in range(2):
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
        checkpoints.clear(tmp_path, keep_saved=True)
        assert len(list(tmp_path.iterdir())) == len(checkpoints.steps_saved(tmp_path))
        assert step_loaded(tmp_path) == loaded
        newest = loaded
