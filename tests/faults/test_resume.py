"""Faults R1, R3, R6, R8, R9 and T1: a run that was cut off goes on as if it had not been, or says why it cannot."""

import math
import multiprocessing
import shutil
import time
from pathlib import Path
from unittest import mock

import own_network
import pytest
import torch
from helpers import run_and_count, small_splits, tiny

from adavipro import checkpoints, experiment, training
from adavipro.checkpoints import CheckpointError
from adavipro.data import Split
from adavipro.method import AdaViPro
from adavipro.prompts import FramePrompt
from adavipro.recipe import Recipe
from adavipro.where import EdgeDetector, MaskGenerator

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")
RUNS = {"vp": tiny("vp", epochs=6), "adavipro": tiny("adavipro", epochs=6)}
STEPS_AN_EPOCH, STEPS = 3, 18
both_methods = pytest.mark.parametrize("name", list(RUNS))


@pytest.fixture(scope="module", autouse=True)
def _small_splits():
    with small_splits():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The root of both runs, never interrupted."""
    root = tmp_path_factory.mktemp("whole")
    for run in RUNS.values():
        experiment.run(run, root, progress_bar=False)
    return root


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """A copy of both runs."""
    return shutil.copytree(whole, tmp_path / "copy")


def content(run, root) -> dict[str, bytes]:
    """Every file of a run, but for the time that it took."""
    folder = run.folder(root)
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "timing.json"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def interrupt(run, root, steps) -> None:
    """Run, and stop as the step after `steps` steps begins."""
    step, done = training.train_step, 0

    def stop_after(*args):
        nonlocal done
        if done == steps:
            raise KeyboardInterrupt
        done += 1
        return step(*args)

    with mock.patch.object(training, "train_step", stop_after), pytest.raises(KeyboardInterrupt):
        experiment.run(run, root, progress_bar=False)


# --- R1 -----------------------------------------------------------------------------------------------------------


def start(target, *args) -> multiprocessing.Process:
    """Start a function in a process of its own; a fork server spares it the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(own_network.PRELOADED)
    process = context.Process(target=target, args=args)
    process.start()
    return process


@pytest.mark.fault("kill -9 of a training at random steps, again and again", long=100)
def test_r1_fit_killed_at_random_steps_ends_with_the_bits_of_the_uninterrupted_one(tmp_path, chance):
    steps, whole, file = (
        own_network.EPOCHS * own_network.STEPS_AN_EPOCH,
        tmp_path / "whole",
        tmp_path / "file",
    )
    own_network.fit(whole).save(tmp_path / "expected")
    log, kills = tmp_path / "steps", 0
    log.touch()
    while not file.exists():
        begun, wait_for = len(log.read_text()), chance.randint(1, 8)
        process = start(own_network.fit_and_count, tmp_path / "cut", log, file)
        if kills < 8:
            while process.is_alive() and len(log.read_text()) < begun + wait_for:
                time.sleep(0.0005)
            process.kill()
        process.join()
        assert process.exitcode in (0, -9)
        kills += process.exitcode == -9
    assert kills > 1
    assert file.read_bytes() == (tmp_path / "expected").read_bytes()
    for path in whole.iterdir():
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes()
    # A kill costs the epoch at hand, at most.
    assert steps < len(log.read_text()) <= steps + kills * own_network.STEPS_AN_EPOCH


@pytest.mark.fault("kill -9 while a run puts a file in its place")
def test_r1_run_killed_in_every_kind_of_save_ends_with_the_bits_of_the_uninterrupted_one(whole, tmp_path):
    run, log, taken = RUNS["adavipro"], tmp_path / "steps", []
    log.touch()
    cuts = "step-00000006.safetensors step-00000012.safetensors metrics.csv prompt.safetensors result.json".split()
    for file in (*cuts, None):
        before = len(log.read_text())
        process = start(run_and_count, run, tmp_path, log, file)
        process.join()
        assert process.exitcode == (-9 if file else 0)
        taken.append(len(log.read_text()) - before)
    assert taken == [6, 9, 9, 0, 0, 0]
    assert content(run, tmp_path) == content(run, whole)


@pytest.mark.fault("killed after the last checkpoint, before the result", quick=0, long=30)
def test_r3_run_killed_after_its_last_checkpoint_takes_no_further_step(whole, tmp_path, chance):
    run, log = RUNS[chance.choice(list(RUNS))], tmp_path / "steps"
    for file in (chance.choice("metrics.csv prompt.safetensors result.json".split()), None):
        process = start(run_and_count, run, tmp_path, log, file)
        process.join()
        assert process.exitcode == (-9 if file else 0)
        assert len(log.read_text()) == STEPS
    assert content(run, tmp_path) == content(run, whole)


@pytest.mark.fault("kill -9 while a run puts a file in its place", quick=0, long=60)
def test_r1_run_killed_in_random_saves_ends_with_the_bits_of_the_uninterrupted_one(whole, tmp_path, chance):
    run, log = RUNS[chance.choice(list(RUNS))], tmp_path / "steps"
    files = [f"step-{step:08d}.safetensors" for step in range(STEPS_AN_EPOCH, STEPS + 1, STEPS_AN_EPOCH)]
    files += "config.json timing.json metrics.csv prompt.safetensors result.json".split()
    for file in (*chance.sample(files, 3), None):
        process = start(run_and_count, run, tmp_path, log, file)
        process.join()
        assert process.exitcode in ((-9, 0) if file else (0,))  # it may be past this file already
    assert content(run, tmp_path) == content(run, whole)


@pytest.mark.fault("two processes on one run", quick=0, long=50)
def test_two_processes_do_a_run_once_and_one_takes_over_when_the_other_is_killed(whole, tmp_path, chance):
    run, log, killed = RUNS["adavipro"], tmp_path / "steps", chance.random() < 0.5
    log.touch()
    first, wait_for = start(run_and_count, run, tmp_path, log), chance.randint(1, STEPS - 1)
    time.sleep(chance.uniform(0, 0.2))
    second = start(run_and_count, run, tmp_path, log)
    while killed and first.is_alive() and len(log.read_text()) < wait_for:
        time.sleep(0.0005)
    if killed:
        first.kill()
    for process in (first, second):
        process.join()
    assert first.exitcode in ((-9, 0) if killed else (0,))
    assert second.exitcode == 0
    steps = len(log.read_text())
    assert steps == STEPS or (killed and steps <= STEPS + STEPS_AN_EPOCH)
    assert content(run, tmp_path) == content(run, whole)


# --- R3, R6, T1 ---------------------------------------------------------------------------------------------------


@pytest.mark.fault("killed after the last checkpoint, before the result")
@both_methods
def test_r3_run_that_lacks_its_result_only_takes_no_further_step(whole, copy, monkeypatch, name):
    run = RUNS[name]
    for file in ("result.json", "prompt.safetensors", "metrics.csv", "timing.json"):
        (run.folder(copy) / file).unlink()
    monkeypatch.setattr(training, "train_step", None)
    experiment.run(run, copy, progress_bar=False)
    assert content(run, copy) == content(run, whole)


@pytest.mark.fault("a checkpoint cut short")
@both_methods
@pytest.mark.parametrize(
    "damage", [lambda c: c[:-100], lambda c: c[:-1] + bytes([c[-1] ^ 1])], ids=["cut", "flip"]
)
def test_r6_damaged_checkpoint_costs_an_epoch_and_a_warning(whole, copy, name, damage):
    run = RUNS[name]
    (run.folder(copy) / "result.json").unlink()
    newest = run.folder(copy) / "checkpoints" / f"step-{STEPS:08d}.safetensors"
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match=rf"{newest.name}.*going on from step {STEPS - STEPS_AN_EPOCH}"):
        experiment.run(run, copy, progress_bar=False)
    assert content(run, copy) == content(run, whole)


def test_run_that_starts_anew_keeps_no_checkpoint_of_the_former_one(copy):
    run = RUNS["vp"]
    (run.folder(copy) / "result.json").unlink()
    step = training.train_step

    def stop_in_the_second_epoch(*args):
        if "epoch 2" in args[7]:
            raise KeyboardInterrupt
        return step(*args)

    with (
        mock.patch.object(training, "train_step", stop_in_the_second_epoch),
        pytest.raises(KeyboardInterrupt),
    ):
        experiment.run(run, copy, resume=False, progress_bar=False)
    assert checkpoints.steps_saved(run.folder(copy) / "checkpoints") == [STEPS_AN_EPOCH]


def test_t1_same_seed_gives_the_same_bits_and_another_seed_others(whole, tmp_path):
    run = RUNS["adavipro"]
    experiment.run(run, tmp_path, progress_bar=False)
    assert content(run, tmp_path) == content(run, whole)

    weights = []
    for seed in (0, 1):
        run = tiny("adavipro", epochs=1, seed=seed)
        experiment.run(run, tmp_path, progress_bar=False)
        weights.append(checkpoints.load_newest(run.folder(tmp_path) / "checkpoints")[0])
    for key, value in weights[0].items():
        assert not torch.equal(value, weights[1][key]), key


# --- R8 -----------------------------------------------------------------------------------------------------------

IDENTITY = {"region_px": 4, "seed": 0, "model": "small-clip", "class_names": ["a", "b"]}
RECIPE = Recipe(epochs=1, batch_size=2, warmup_steps=0)


class Mean(torch.nn.Module):
    """A classifier of two classes by the mean colour; all that a training asks of one."""

    mean = torch.zeros(1)

    def forward(self, images):
        return images.mean((2, 3))[:, :2]

    def normalise(self, images, checked=False):
        return images

    def use_mapping(self, index):
        pass

    def refresh_mapping(self, method, train, epoch):
        pass

    def mapping_index(self):
        return None


def train(
    folder, seed, identity=IDENTITY, resume=False, region_px=4, width=2
) -> tuple[AdaViPro, training.Progress]:
    """Train a method of 8 px for a step, or load the finished training. Returns it and its progress."""
    g = torch.Generator().manual_seed(seed)
    masks = MaskGenerator(8, region_px, width, generator=g)
    method = AdaViPro(FramePrompt(8, 2, generator=g), EdgeDetector(), masks)
    split = Split(torch.rand(2, 3, 8, 8, generator=g), None, torch.tensor([0, 1]))
    before = [p.detach().clone() for p in method.parameters()]
    try:
        state = training.train(
            Mean(), method, split, split, RECIPE, 0, folder, identity, resume, progress_bar=False
        )
    except CheckpointError:  # nothing may be loaded
        for p, value in zip(method.parameters(), before, strict=True):
            assert torch.equal(p, value)
        raise
    return method, state


@pytest.fixture
def saved(tmp_path):
    """A folder with a checkpoint of step 1, its tensors and its settings."""
    train(tmp_path, seed=1)
    return tmp_path, *checkpoints.load_newest(tmp_path)


def refused(folder, identity=IDENTITY, **sizes) -> str:
    with pytest.raises(CheckpointError) as caught:
        train(folder, 2, identity, True, **sizes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_r8_right_checkpoint_is_loaded(saved):
    folder, tensors, settings = saved
    method, state = train(folder, seed=2, resume=True)
    assert state == training.Progress(**settings["progress"])
    for name, p in method.named_parameters():
        assert torch.equal(p, tensors[f"best.{name}"])


@pytest.mark.fault("a checkpoint of another run, or with wrong tensors")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1),
        ("model", "ViT-B-32"),
        ("class_names", ["b", "a"]),
        ("class_names", ["a", "b", "c"]),
        ("new", True),
    ],
)
def test_r8_checkpoint_of_another_run(saved, name, value):
    told = refused(saved[0], {**IDENTITY, name: value})
    assert f"{name} is {IDENTITY.get(name)!r} there and {value!r} here" in told
    assert told.count(" there and ") == 1


@pytest.mark.fault("a checkpoint of another run, or with wrong tensors")
def test_r8_every_difference_is_told(saved):
    told = refused(saved[0], {**IDENTITY, "region_px": 2, "seed": 1}, region_px=2, width=3)
    assert "region_px is 4 there and 2 here; seed is 0 there and 1 here" in told
    for prefix in ("now", "best"):
        assert f"{prefix}.masks.policy.weight has shape (2, 2, 4, 4) there, (2, 3, 2, 2) here" in told
        assert f"{prefix}.masks.convergence.bias has shape (2,) there, (3,) here" in told


@pytest.mark.fault("a checkpoint of another run, or with wrong tensors")
@pytest.mark.parametrize("kind", ["now", "best", "momentum"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda value: None, "is missing"),
        (lambda value: value * math.nan, "not finite"),
        (lambda value: value + math.inf, "not finite"),
        (lambda value: value[:, 1:], r"has shape"),
    ],
    ids=["missing", "nan", "inf", "shape"],
)
def test_r8_checkpoint_with_a_wrong_tensor(saved, kind, wrong, told):
    folder, tensors, settings = saved
    name = f"{kind}.prompt.values"
    tensors[name] = wrong(tensors[name])
    tensors = {k: v for k, v in tensors.items() if v is not None}
    checkpoints.save_checkpoint(folder, 1, tensors, settings)
    message = refused(folder)
    assert name in message
    assert told in message


@pytest.mark.fault("a checkpoint of another run, or with wrong tensors")
def test_r8_checkpoint_with_a_tensor_too_many(saved):
    folder, tensors, settings = saved
    checkpoints.save_checkpoint(folder, 1, {**tensors, "now.other": torch.ones(2)}, settings)
    assert "tensor now.other is unknown" in refused(folder)


@pytest.mark.fault("a checkpoint of another run, or with wrong tensors")
def test_r8_sealed_file_that_is_no_checkpoint_or_of_another_format(saved, monkeypatch):
    folder, *_ = saved
    checkpoints.save_checkpoint(folder, 1, {"x": torch.ones(1)}, {"kind": "prompted classifier"})
    told = refused(folder)
    assert "tensor now.prompt.values is missing" in told
    assert "tensor x is unknown" in told
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "FORMAT", 3)
        checkpoints.save_checkpoint(folder, 1, {"x": torch.ones(1)}, {})
    assert "format version 3, but this release reads 2" in refused(folder)


def test_r8_run_names_the_settings_that_differ_and_no_others(copy):
    there, here = RUNS["adavipro"], tiny(epochs=6, region_px=14, seed=1)
    here.folder(copy).mkdir()
    shutil.copytree(there.folder(copy) / "checkpoints", here.folder(copy) / "checkpoints")
    with pytest.raises(CheckpointError) as caught:
        experiment.run(here, copy, resume=True, progress_bar=False)
    told = str(caught.value)
    assert "region_px is 8 there and 14 here" in told
    assert "seed is 0 there and 1 here" in told
    assert "now.masks.policy.weight has shape (2, 8, 8, 8) there, (2, 8, 14, 14) here" in told
    assert "batch_size" not in told


# --- R9 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leftover", [None, "step-00000003.safetensors.partial", "step-3.json"])
def test_r9_resume_without_a_checkpoint_is_an_error(tmp_path, monkeypatch, leftover):
    run = RUNS["vp"]
    folder = run.folder(tmp_path) / "checkpoints"
    if leftover:
        folder.mkdir(parents=True)
        (folder / leftover).write_bytes(b"half")
    monkeypatch.setattr(training, "train_step", None)
    with pytest.raises(CheckpointError, match=r"no checkpoint .* to resume from"):
        experiment.run(run, tmp_path, resume=True, progress_bar=False)
    assert folder.exists() == (leftover is not None)


@pytest.mark.fault("asked to resume without a sound checkpoint")
def test_r9_no_checkpoint_that_is_sound_is_an_error_and_no_silent_restart(copy, monkeypatch):
    run = RUNS["vp"]
    (run.folder(copy) / "result.json").unlink()
    for file in (run.folder(copy) / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    monkeypatch.setattr(training, "train_step", None)
    for resume in (None, True):
        with pytest.raises(CheckpointError, match=r"no checkpoint is sound: .*step-00000018.*step-00000015"):
            experiment.run(run, copy, resume=resume, progress_bar=False)


def test_interrupted_run_goes_on_from_its_checkpoint_when_asked(whole, tmp_path):
    run = RUNS["vp"]
    interrupt(run, tmp_path, steps=8)
    assert checkpoints.steps_saved(run.folder(tmp_path) / "checkpoints") == [6, 3]
    log = tmp_path / "steps"
    run_and_count(run, tmp_path, log)
    assert len(log.read_text()) == STEPS - 6
    assert content(run, tmp_path) == content(run, whole)
