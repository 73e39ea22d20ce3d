"""Folders of your own images: which class and split each file is in, and runs on them."""

import json
import shutil
from collections import Counter

import pytest
import torch
from helpers import draw_image, draw_splits, tiny

from adavipro import datasets, experiment
from adavipro.datasets import folders
from adavipro.datasets.images import to_tensor
from adavipro.recipe import SettingError

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")


@pytest.fixture
def pictures(tmp_path):
    """Three classes of 10, 7 and 3 images; plain order has "10" before "9"."""
    path = tmp_path / "my images"
    for start, (name, count) in enumerate({"9": 10, "10": 7, "Annual_Crop": 3}.items()):
        for i in range(count):
            draw_image(path / name / f"{i}.png", 100 * start + i)
    return path


@pytest.fixture
def arranged(tmp_path):
    return draw_splits(tmp_path / "arranged")


def names_of(path):
    files = folders.list_folder(path).files
    return {s: [str(f.path.relative_to(path)) for f in files if f.split == s] for s in folders.SPLITS}


def test_classes_are_in_plain_order_and_split_60_20_20_within_each(pictures):
    source = datasets.find(f"folder:{pictures}")
    assert source.class_names == ("10", "9", "annual crop")
    assert (datasets.slug(source.name), source.split) == ("folder-my-images", "dealt 60/20/20")
    assert source.counts == {"train": 12, "val": 4, "test": 4}
    counts = Counter((file.split, file.label) for file in source.listing.files)
    assert counts == {
        ("train", 0): 5, ("train", 1): 6, ("train", 2): 1, ("val", 0): 1, ("val", 1): 2, ("val", 2): 1,
        ("test", 0): 1, ("test", 1): 2, ("test", 2): 1,
    }  # fmt: skip
    assert sorted(file.path for file in source.listing.files) == sorted(pictures.glob("*/*"))
    for file in source.listing.files:
        assert file.path.parent.name == ["10", "9", "Annual_Crop"][file.label]


def test_split_hangs_on_names_alone_and_not_on_the_place_or_the_order_of_writing(pictures, tmp_path):
    other = tmp_path / "elsewhere"
    for file in sorted(pictures.glob("*/*"), reverse=True):
        draw_image(other / file.relative_to(pictures), 1)
    assert names_of(other) == names_of(pictures)
    assert names_of(pictures)["test"] == ["10/2.png", "9/2.png", "9/3.png", "Annual_Crop/2.png"]


def test_splits_that_are_given_are_kept_and_a_missing_val_is_held_out(arranged):
    source = datasets.find(f"folder:{arranged}")
    assert source.split == "its own folders"
    for split in folders.SPLITS:
        own = [file for file in source.listing.files if file.split == split]
        assert [file.path for file in own] == sorted((arranged / split).glob("*/*"))
        assert [file.label for file in own] == [0] * 5 + [1] * 5
    shutil.rmtree(arranged / "val")
    with pytest.warns(UserWarning, match="has no val: a fifth of train is held out"):
        sizes = [len(datasets.load_split(f"folder:{arranged}", s)) for s in folders.SPLITS]
    assert sizes == [8, 2, 10]
    assert datasets.find(f"folder:{arranged}").split == "its own folders, val held out of train"
    files = names_of(arranged)
    expected = sorted(str(file.relative_to(arranged)) for file in arranged.glob("train/*/*"))
    assert sorted(files["train"] + files["val"]) == expected


def test_split_holds_every_image_at_the_models_size_with_its_label(pictures):
    source = datasets.find(f"folder:{pictures}")
    train = [file for file in source.listing.files if file.split == "train"]
    for px in (56, 32):
        split = source.load("train", px)
        assert (split.images.shape, split.images.dtype, split.objects) == ((12, 3, px, px), torch.uint8, None)
        assert split.labels.tolist() == [file.label for file in train]
        for image, file in zip(split.images, train, strict=True):
            assert torch.equal(image, to_tensor(file.path.read_bytes(), px))


def test_folder_is_decoded_once_and_what_is_written_into_a_split_nobody_else_sees(pictures, monkeypatch):
    name = f"folder:{pictures}"
    first = datasets.load_split(name, "train")
    images, labels = first.images.clone(), first.labels.clone()
    first.images.zero_()
    first.labels.zero_()
    monkeypatch.setattr(folders, "decode_all", None)
    again = datasets.load_split(name, "train")
    assert torch.equal(again.images, images)
    assert torch.equal(again.labels, labels)
    assert len(datasets.load_split(name, "test")) == 4


def test_files_that_are_not_of_a_class_are_not_read(pictures):
    before = datasets.find(f"folder:{pictures}").version
    (pictures / "README.txt").write_text("words")
    (pictures / "9" / ".DS_Store").write_bytes(b"\0")
    (pictures / ".cache").mkdir()
    assert datasets.find(f"folder:{pictures}").version == before
    assert len(datasets.load_split(f"folder:{pictures}", "train")) == 12


def test_changed_content_is_another_version_and_other_images(pictures):
    def version():
        return datasets.find(f"folder:{pictures}").version

    versions, first = [version()], datasets.load_split(f"folder:{pictures}", "train")
    file = folders.list_folder(pictures).files[0].path
    content = file.read_bytes()
    draw_image(file, 999)
    assert file.stat().st_size == len(content)  # a change that the size does not tell
    versions.append(version())
    assert not torch.equal(datasets.load_split(f"folder:{pictures}", "train").images, first.images)
    file.rename(file.with_name("z.png"))
    versions.append(version())
    (pictures / "classes.json").write_text(json.dumps({"9": "Nine", "10": "ten", "Annual_Crop": "crop-land"}))
    versions.append(version())
    assert datasets.find(f"folder:{pictures}").class_names == ("ten", "nine", "crop land")
    assert len(set(versions)) == 4
    (pictures / "classes.json").unlink()
    file.with_name("z.png").unlink()
    file.write_bytes(content)
    assert version() == versions[0]


# --- Runs ---------------------------------------------------------------------------------------------------------


def test_run_on_a_folder_is_a_run_like_any_other_and_lists_it_twice(tmp_path, monkeypatch):
    arranged, listed, list_folder = (
        draw_splits(tmp_path / "my images", ("star", "moon")),
        [],
        folders.list_folder,
    )
    run, root = tiny("vp", dataset=f"folder:{arranged}", batch_size=4), tmp_path / "runs"
    monkeypatch.setattr(folders, "list_folder", lambda path: listed.append(path) or list_folder(path))
    result = experiment.run(run, root, progress_bar=False)
    assert len(listed) == 2  # before the run, and after it: did it change meanwhile?
    assert [p.name for p in root.iterdir()] == [f"folder-my-images-vp-8px-seed0-{run.key()}"]
    assert result["split"] == "its own folders"
    assert result["test_accuracy"] in {i / 10 for i in range(11)}
    assert experiment.run(run, root) == result
    draw_image(arranged / "train" / "star" / "0.png", 999)
    assert experiment.read_result(run, root) is None


def test_folder_that_changes_while_the_run_goes_on_is_an_error(tmp_path):
    arranged = draw_splits(tmp_path / "images", ("star", "moon"))
    run = tiny("vp", dataset=f"folder:{arranged}")
    with pytest.raises(SettingError, match="changed while the run went on"):
        experiment.run(
            run,
            tmp_path / "runs",
            progress_bar=False,
            watch=lambda *_: draw_image(arranged / "train/star/0.png", 999),
        )
    assert not list(tmp_path.glob("runs/*/result.json"))
