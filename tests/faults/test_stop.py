"""Fault R4: a run that is stopped by a signal keeps every saved epoch, and the next call goes on with the same bits."""

import contextlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import own_network
import pytest
from helpers import small_splits, tiny

from adavipro import checkpoints, experiment, training

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")
RUN = tiny("adavipro", epochs=6)
LAST = ("checkpoints/step-00000018.safetensors", "metrics.csv", "prompt.safetensors", "result.json")


@pytest.fixture(scope="module", autouse=True)
def _small_splits():
    with small_splits():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    experiment.run(RUN, root, progress_bar=False)
    return RUN.folder(root)


def goes_on_to_the_same_bits(root, whole) -> None:
    experiment.run(RUN, root, progress_bar=False)
    for name in LAST:
        assert (RUN.folder(root) / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.fault("SIGTERM or SIGINT in the middle of a training", long=30)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 1)])
def test_r4_fit_that_is_stopped_at_random_times_loses_the_epoch_at_hand_at_most(
    tmp_path, number, code, chance
):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(own_network.PRELOADED)
    log, folder = tmp_path / "steps", tmp_path / "kept"
    log.touch()
    stops = 0
    while stops < 3 and not (tmp_path / "file").exists():
        before, newest = len(log.read_text()), max(checkpoints.steps_saved(folder), default=0)
        process = context.Process(target=own_network.fit_and_count, args=(folder, log, tmp_path / "file"))
        process.start()
        wait_for = chance.randint(6, 9)
        while len(log.read_text()) < before + wait_for and process.is_alive():
            time.sleep(0.0005)
        asked = time.perf_counter()
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(process.pid, number)
        process.join()
        assert time.perf_counter() - asked < 5  # a step and the end of a process
        assert process.exitcode in (0, code)  # multiprocessing ends with 1 after a KeyboardInterrupt
        stops += process.exitcode == code
        begun, saved = len(log.read_text()) - before, max(checkpoints.steps_saved(folder))
        assert saved >= newest + 5 * ((begun - 1) // 5) > newest  # each epoch that was ended is saved
    assert stops > 0
    own_network.fit(folder).save(tmp_path / "file")
    own_network.fit(None).save(tmp_path / "expected")
    assert (tmp_path / "file").read_bytes() == (tmp_path / "expected").read_bytes()


@pytest.mark.fault("SIGTERM or SIGINT in the middle of a training")
def test_r4_interrupt_in_a_notebook_is_a_keyboard_interrupt_and_handlers_stay(whole, tmp_path, monkeypatch):
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
    try:
        step = training.train_step

        def asked(*args):
            if "step 7 " in args[7]:
                signal.raise_signal(signal.SIGINT)
            return step(*args)

        with monkeypatch.context() as patch:
            patch.setattr(training, "train_step", asked)
            with pytest.raises(KeyboardInterrupt):
                experiment.run(RUN, tmp_path, progress_bar=False)
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, former)
    assert checkpoints.steps_saved(RUN.folder(tmp_path) / "checkpoints") == [6, 3]
    goes_on_to_the_same_bits(tmp_path, whole)
