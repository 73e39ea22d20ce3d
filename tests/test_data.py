import time

import numpy as np
import pytest
import torch
from helpers import noisy_split
from torch.utils.data import Subset, TensorDataset

from adavipro import data
from adavipro.data import Split, batches
from adavipro.datasets import from_dataset
from adavipro.recipe import SettingError

IMAGE = torch.zeros(3, 8, 8)


def test_batches_cover_a_split_in_order(clip, monkeypatch):
    monkeypatch.setattr(data, "EVALUATION_BATCH", 8)
    split = noisy_split(20, seed=0)
    found = list(batches(split, clip))
    assert [batch.part for batch in found] == [slice(0, 8), slice(8, 16), slice(16, 24)]
    assert torch.equal(torch.cat([batch.images for batch in found]), clip.normalise(split.images))
    assert torch.equal(torch.cat([batch.labels for batch in found]), split.labels)
    assert torch.equal(torch.cat([batch.objects for batch in found]), split.objects)


def test_large_images_come_a_few_at_a_time_on_a_cpu(clip, monkeypatch):
    monkeypatch.setattr(data, "CPU_BYTES", 3 * 4 * 3 * 56 * 56)
    assert [len(batch.labels) for batch in batches(noisy_split(8, seed=0), clip)] == [3, 3, 2]
    monkeypatch.setattr(data, "CPU_BYTES", 1)
    assert [len(batch.labels) for batch in batches(noisy_split(3, seed=0), clip)] == [1, 1, 1]


@pytest.mark.parametrize("ahead", [None, False, True])
def test_batches_of_indices_have_the_bits_of_a_loop_that_reads_them_one_after_the_other(clip, ahead):
    split = noisy_split(20, seed=0)
    parts = torch.randperm(20, generator=torch.Generator().manual_seed(0)).split(6)
    for (index, images, labels, _), part in zip(batches(split, clip, parts, ahead), parts, strict=True):
        assert torch.equal(index, part)
        assert torch.equal(images, (split.images[part].float() / 255 - clip.mean) / clip.std)
        assert torch.equal(labels, split.labels[part])


@pytest.mark.parametrize("ahead", [False, True])
def test_the_next_batch_is_read_while_one_is_worked_on_and_no_other(clip, ahead):
    read = []

    class Recording:
        def __getitem__(self, part):
            read.append(part)
            return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

    split = Split(Recording(), None, torch.zeros(9, dtype=torch.int64))
    parts = [torch.tensor([i]) for i in range(9)]
    for i, _ in enumerate(batches(split, clip, parts, ahead)):
        time.sleep(0.02)
        assert {int(part) for part in read} == set(range(min(i + 1 + ahead, 9)))


@pytest.mark.parametrize("ahead", [False, True])
def test_a_pixel_that_is_out_of_range_is_refused_when_its_batch_comes(clip, ahead):
    images = torch.rand(6, 3, 8, 8)
    images[4, 0, 0, 0] = float("nan")
    given = batches(Split(images, None, torch.zeros(6)), clip, torch.arange(6).split(2), ahead)
    assert [len(next(given).images) for _ in range(2)] == [2, 2]
    with pytest.raises(ValueError, match="pixels lie from nan to nan, expected floats in"):
        next(given)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_any_dataset_of_image_and_label_becomes_a_split(dtype):
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8).to(dtype)
    labels = torch.tensor([2, 0, 1, 1, 0])
    for dataset in (
        TensorDataset(images, labels),
        list(zip(images, labels.tolist(), strict=True)),
        list(zip(images, labels.numpy(), strict=True)),
    ):
        split = from_dataset(dataset)
        assert torch.equal(split.images, images)
        assert split.images.dtype == dtype
        assert torch.equal(split.labels, labels)
        assert split.objects is None
    assert torch.equal(from_dataset(Subset(dataset, [3, 0])).labels, torch.tensor([1, 2]))


def test_images_that_are_no_tensors_are_decoded():
    split = from_dataset(
        [("a", 1), (IMAGE, 0), ("b", 2)], lambda name: torch.full((3, 8, 8), float(ord(name)))
    )
    assert split.images[:, 0, 0, 0].tolist() == [97, 0, 98]


def refuse(image):
    raise ValueError("it is no picture")


@pytest.mark.parametrize(
    ("items", "decode", "told"),
    [
        ([], None, "the data set is empty"),
        ([(IMAGE, 0), ("x", 1)], None, r"image 1 of the data set is of type str: .*image_px=224"),
        ([(IMAGE, 0), ("x", 1)], refuse, r"item 1 of the data, label 1, .*: it is no picture"),
        ([(IMAGE[0], 0)], None, r"image 0 of the data set is \(8, 8\), expected \(3, h, w\)"),
        (
            [(IMAGE.permute(1, 2, 0), 0)],
            None,
            r"image 0 of the data set is \(8, 8, 3\), expected \(3, h, w\)",
        ),
        (
            [(IMAGE, 0), (torch.zeros(3, 8, 9), 0)],
            None,
            r"image 1 .*\(3, 8, 9\), but the first is .*\(3, 8, 8\)",
        ),
        ([(IMAGE, 0), (IMAGE.byte(), 0)], None, r"image 1 .*uint8 .*, but the first is torch.float32"),
        ([(IMAGE, 0), (IMAGE, "cat")], None, r"item 1 of the data, label 'cat', cannot be used"),
        ([(IMAGE, 1.5)], None, r"item 0 of the data, label 1.5, cannot be used"),
        ([(IMAGE, None)], None, r"item 0 of the data, label None, cannot be used"),
        ([(IMAGE, torch.eye(3)[0])], None, r"item 0 of the data, label tensor.*, cannot be used"),
        ([(IMAGE, np.float32(2))], None, r"item 0 of the data, label .*2.0.*, cannot be used"),
    ],
)
def test_first_item_that_does_not_fit_is_named(items, decode, told):
    with pytest.raises(SettingError, match=told) as caught:
        from_dataset(items, decode)
    assert "\n" not in str(caught.value)
