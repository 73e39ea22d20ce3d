import numpy as np
import pytest
import torch
from helpers import noisy_split
from torch.utils.data import Subset, TensorDataset

from adavipro.data import batches, from_dataset
from adavipro.recipe import SettingError

IMAGE = torch.zeros(3, 8, 8)


def test_batches_cover_a_split_in_order():
    split = noisy_split(20, seed=0)
    parts = list(batches(split, 8))
    assert [len(split.labels[part]) for part in parts] == [8, 8, 4]
    assert torch.equal(torch.cat([split.images[part] for part in parts]), split.images)


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
