import errno
import os
import resource

import pytest
import torch

from adavipro import checkpoints
from adavipro.files import write_atomically

SETTINGS = {"name": "é", "classes": ["a", "b"], "rates": {"prompt": 40, "masks": 0.1}, "best": None}


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_keeps_every_bit(tmp_path, rng):
    tensors = {
        "prompt": torch.randn(3, 7, generator=rng),
        "turned": torch.randn(3, 7, generator=rng).T,
        "half": torch.randn(5, generator=rng).half(),
        "steps": torch.tensor(12),
        "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
        "odd": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "learned": torch.nn.Parameter(torch.ones(2)),
    }
    checkpoints.save_checkpoint(tmp_path / "new" / "folder", 12, tensors, SETTINGS)
    loaded, settings = checkpoints.load_newest(tmp_path / "new" / "folder")
    assert settings == SETTINGS
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].dtype == value.dtype
        assert loaded[name].shape == value.shape
        assert loaded[name].numpy().tobytes() == value.detach().contiguous().numpy().tobytes(), name


def test_same_state_gives_the_same_bytes(tmp_path, rng):
    tensors = {"b": torch.randn(3, generator=rng), "a": torch.randn(2, generator=rng)}
    checkpoints.save_checkpoint(tmp_path / "one", 1, tensors, SETTINGS)
    checkpoints.save_checkpoint(tmp_path / "two", 1, dict(reversed(tensors.items())), SETTINGS)
    for name in files(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_two_generations_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (9, 10, 99, 100):
        checkpoints.save_checkpoint(tmp_path, step, {"x": torch.tensor(step)}, {"step": step})
    assert checkpoints.steps_saved(tmp_path) == [100, 99]
    assert len(files(tmp_path)) == 4
    tensors, settings = checkpoints.load_newest(tmp_path)
    assert int(tensors["x"]) == settings["step"] == 100


def test_sweep_removes_leftovers_and_nothing_else(tmp_path):
    checkpoints.save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {})
    wanted = [*files(tmp_path), "result.json"]
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "step-00000002.safetensors").write_bytes(b"without a manifest")
    (tmp_path / "step-00000003.safetensors.partial").write_bytes(b"half")
    (tmp_path / "step-00000001.json.partial").write_bytes(b"half")
    checkpoints.sweep_partial_files(tmp_path)
    assert files(tmp_path) == sorted(wanted)
    checkpoints.load_newest(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_former_file_and_says_what_was_needed(tmp_path, monkeypatch, call):
    """Fault R5."""
    path = tmp_path / "result.json"
    path.write_bytes(b"former")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"result\.json.*needs 5,000 bytes, [\d,]+ are free") as caught:
        write_atomically(path, bytes(5000))
    assert caught.value.errno == errno.ENOSPC
    assert files(tmp_path) == ["result.json"]
    assert path.read_bytes() == b"former"


def test_write_that_stops_half_way_leaves_the_former_checkpoint(tmp_path):
    """Fault R5, by the system itself: files may not grow beyond 4 kB while the second save runs."""
    checkpoints.save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {})
    before = files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"step-00000002\.safetensors"):
            checkpoints.save_checkpoint(tmp_path, 2, {"x": torch.ones(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == before
    assert torch.equal(checkpoints.load_newest(tmp_path)[0]["x"], torch.ones(2))


def test_settings_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        checkpoints.save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {"loss": float("nan")})
    assert files(tmp_path) == []
