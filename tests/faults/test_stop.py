"""Fault R4: a run that is asked to stop finishes its step, saves, and ends as was asked; no step is lost."""

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from helpers import run_and_count, small_splits, tiny

from adavipro import checkpoints, experiment, training
from adavipro.signals import REQUESTS, StopRequest

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")
RUN, STEPS = tiny("adavipro", epochs=6), 18
LAST = (
    "checkpoints/step-00000018.json",
    "checkpoints/step-00000018.safetensors",
    "metrics.csv",
    "result.json",
)


@pytest.fixture(scope="module", autouse=True)
def _small_splits():
    with small_splits():
        yield


@pytest.fixture(autouse=True)
def _interruptible():
    """As in a terminal: a job in the background of a shell inherits an ignored SIGINT."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    experiment.run(RUN, root, progress_bar=False)
    return RUN.folder(root)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_r4_run_that_is_asked_to_stop_at_random_times_repeats_no_step(whole, tmp_path, number, code):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers"])
    chance, log, stops = random.Random(code), tmp_path / "steps", 0
    log.touch()
    while experiment.read_result(RUN, tmp_path) is None:
        before = len(log.read_text())
        process = context.Process(target=run_and_count, args=(RUN, tmp_path, log))
        process.start()
        if stops < 3:
            while process.is_alive() and len(log.read_text()) == before:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.05))
            asked = time.perf_counter()
            if process.is_alive():
                os.kill(process.pid, number)
            process.join()
            assert time.perf_counter() - asked < 10  # a step, a save and the end of a process
        process.join()
        assert process.exitcode in (0, code)  # multiprocessing ends with 1 after a KeyboardInterrupt
        if process.exitcode:
            saved = max(checkpoints.steps_saved(RUN.folder(tmp_path) / "checkpoints"))
            assert saved == len(log.read_text())  # each step that began is in the checkpoint
            stops += 1
    assert stops > 0
    assert len(log.read_text()) == STEPS
    for name in LAST:
        assert (RUN.folder(tmp_path) / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("number", REQUESTS)
def test_r4_handlers_are_what_they_were(number, tmp_path, monkeypatch):
    before = [signal.getsignal(s) for s in REQUESTS]
    step = training.train_step

    def asked(*args):
        signal.raise_signal(number)
        return step(*args)

    monkeypatch.setattr(training, "train_step", asked)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
        experiment.run(RUN, tmp_path, progress_bar=False)
    assert [signal.getsignal(s) for s in REQUESTS] == before
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    assert checkpoints.steps_saved(RUN.folder(tmp_path) / "checkpoints") == [1]


def test_r4_second_request_ends_at_once():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_another_thread_leaves_the_handlers_alone():
    seen = []

    def work() -> None:
        with StopRequest() as stop:
            seen.extend([*map(signal.getsignal, REQUESTS), stop.asked])

    before = [signal.getsignal(s) for s in REQUESTS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [*before, None]


def test_a_request_after_the_last_step_is_answered_too():
    with pytest.raises(SystemExit), StopRequest():
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_was_ignored_stays_ignored():
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.asked is None
    finally:
        signal.signal(signal.SIGINT, former)
