import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import noisy_split, tiny
from safetensors.torch import load_file

from adavipro import masks
from adavipro.building import build_method
from adavipro.evaluation import batches
from adavipro.parallel import Rows, Team
from adavipro.seeds import generator

COMMAND = ["-m", "adavipro", "train", "--dataset", "letters", "--prompt-px", "28"]
# 2,000 images: the last batch has 598. Few steps, since training makes the last bits' differences grow.
SMALL = "-s batch_size=701 -s epochs=2 -s generator_width=8".split()  # 2,000 images: the last batch has 200


def train(root, processes, *more):
    """Start a training on several processes, as torchrun does, or on one."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*start, *COMMAND, *SMALL, *more, "--root", str(root)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    assert out.count("folder: ") == 1  # one process tells
    return out


def outcome(root):
    (folder,) = (p for p in root.iterdir() if p.is_dir())
    newest = max((folder / "checkpoints").glob("*.safetensors"))
    return json.loads((folder / "result.json").read_text()), load_file(newest), folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    finished(train(root, 1))
    return outcome(root)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("images", [1, 2, 7, 256])
def test_rows_of_all_processes_are_the_batch_and_weights_make_its_mean(size, images):
    rows = [Team(rank, size).rows(images) for rank in range(size)]
    taken = [i for r in rows if r.weight for i in range(images)[r.part]]
    assert taken == list(range(images))
    values = torch.arange(images, dtype=torch.float64)
    mean = sum(values[r.part].mean() * r.weight for r in rows) / size
    assert mean.item() == pytest.approx(values.mean().item())
    split = noisy_split(images, 0)
    shared = [
        i for rank in range(size) for part in batches(split, 5, Team(rank, size)) for i in range(images)[part]
    ]
    assert sorted(shared) == list(range(images))


def test_noise_of_rows_is_that_of_the_whole_batch(clip, images):
    method = build_method(tiny(), clip)
    whole = method(images, 1.0, generator(0, "gumbel", 0)).decisions
    part = Rows(slice(1, 3), 4, 1.0)
    some = method(images[part.part], 1.0, generator(0, "gumbel", 0), rows=part).decisions
    torch.testing.assert_close(some, whole[1:3])
    assert not torch.equal(some, method(images[1:3], 1.0, generator(0, "gumbel", 0)).decisions)
    assert masks.gumbel_noise(torch.Size((1,)), generator(0, "x")).shape == (1,)


def test_two_processes_end_with_the_weights_of_one(alone, tmp_path):
    finished(train(tmp_path, 2))
    result, tensors, folder = outcome(tmp_path)
    expected, wanted, _ = alone
    assert tensors.keys() == wanted.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(
            value, wanted[name], rtol=1e-6, atol=1e-6, msg=lambda told, n=name: n + told
        )
    assert result["key"] == expected["key"]
    assert result["test_accuracy"] == expected["test_accuracy"]  # each image counted once
    assert result["val_accuracy"] == expected["val_accuracy"]
    assert result["object_cover"] == pytest.approx(expected["object_cover"], rel=1e-5)
    timing = json.loads((folder / "timing.json").read_text())
    assert timing["processes"] == 2
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert len(lines) == 3


def test_two_processes_asked_to_stop_save_and_go_on_to_the_same_weights(alone, tmp_path):
    long = train(tmp_path, 2, "-s", "epochs=2")
    while not list(tmp_path.glob("*/checkpoints/*.json")):
        assert long.poll() is None, long.communicate()[1][-3000:]
        time.sleep(0.05)
    long.send_signal(signal.SIGTERM)  # torchrun hands it on to its processes
    long.communicate(timeout=120)
    assert not list(tmp_path.glob("*/result.json"))
    finished(train(tmp_path, 2))
    _, tensors, _ = outcome(tmp_path)
    for name, value in tensors.items():
        torch.testing.assert_close(value, alone[1][name], rtol=1e-6, atol=1e-6)
