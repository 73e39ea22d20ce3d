import resource

import pytest
import torch

from adavipro import checkpoints

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
    checkpoints.write_sealed(tmp_path / "one", tensors, SETTINGS)
    checkpoints.write_sealed(tmp_path / "two", dict(reversed(tensors.items())), SETTINGS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_two_generations_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (9, 10, 99, 100):
        checkpoints.save_checkpoint(tmp_path, step, {"x": torch.tensor(step)}, {"step": step})
    assert checkpoints.steps_saved(tmp_path) == [100, 99]
    assert len(files(tmp_path)) == 2
    tensors, settings = checkpoints.load_newest(tmp_path)
    assert int(tensors["x"]) == settings["step"] == 100


@pytest.mark.parametrize("keep_saved", [True, False])
def test_clearing_removes_leftovers_and_what_is_not_kept_and_nothing_else(tmp_path, keep_saved):
    checkpoints.save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {})
    saved = files(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "film.partial").write_text("another program's")
    (tmp_path / "step-00000002.safetensors.partial").write_bytes(b"half")
    checkpoints.clear(tmp_path, keep_saved)
    assert files(tmp_path) == sorted(["film.partial", "result.json", *(saved if keep_saved else [])])
    checkpoints.clear(tmp_path / "none", keep_saved)


def test_r5_write_that_stops_half_way_leaves_the_former_checkpoint(tmp_path):
    """By the system itself: files may not grow beyond 4 kB while the second save runs."""
    checkpoints.save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {})
    before = files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"step-00000002\.safetensors.*it needs 400,\d+ bytes"):
            checkpoints.save_checkpoint(tmp_path, 2, {"x": torch.ones(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == before
    assert torch.equal(checkpoints.load_newest(tmp_path)[0]["x"], torch.ones(2))


def test_settings_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        checkpoints.save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {"loss": float("nan")})
    assert files(tmp_path) == []


def test_every_difference_has_a_phrase_of_its_own():
    assert checkpoints.settings_that_differ({"a": 1, "b": 2}, {"b": 3, "c": None}) == [
        "a is 1 there and None here",
        "b is 2 there and 3 here",
    ]
    found = {
        "x": torch.ones(2),
        "y": torch.tensor([1.0, torch.nan]),
        "more": torch.ones(1),
    }
    wanted = {"x": torch.ones(3), "y": torch.ones(2), "z": torch.ones(1)}
    assert checkpoints.tensors_that_differ(found, wanted) == [
        "tensor x has shape (2,) there, (3,) here",
        "tensor y holds values that are not finite",
        "tensor z is missing",
        "tensor more is unknown",
    ]
