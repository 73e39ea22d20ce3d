"""Faults D1, D2 and D4: a folder of images that would train, or be measured, on something else than it seems."""

import shutil

import pytest
from helpers import draw_image, draw_splits, tiny
from PIL import Image

from adavipro import datasets, experiment, folders, training
from adavipro.settings import SettingError


@pytest.fixture
def pictures(tmp_path):
    """Two classes of four images that are not split yet."""
    for i, name in enumerate(("Annual_Crop", "forest")):
        for k in range(4):
            draw_image(tmp_path / "pictures" / name / f"{k}.png", 10 * i + k)
    return tmp_path / "pictures"


@pytest.fixture
def arranged(tmp_path):
    return draw_splits(tmp_path / "arranged")


def test_d1_all_bad_files_are_named_at_once_before_training(pictures, tmp_path, monkeypatch):
    listing = folders.list_folder(pictures)
    chosen = [listing.files[split][0][0] for split in ("train", "val", "test")]
    for file, content in zip(chosen, (b"", b"<html>", chosen[2].read_bytes()[:-500]), strict=True):
        file.write_bytes(content)
    monkeypatch.setattr(training, "fit", None)
    with pytest.raises(SettingError) as caught:
        experiment.run(tiny(dataset=f"folder:{pictures}"), tmp_path / "runs")
    assert str(caught.value).startswith(f"3 of 8 files in {pictures} cannot be used: ")
    reasons = ("the file is empty", "the file is HTML", "image file is truncated")
    for file, reason in zip(chosen, reasons, strict=True):
        assert f"{file.relative_to(pictures)}: {reason}" in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", ["train", "val"])
def test_d4_test_image_in_another_split_is_refused_with_both_names(arranged, place):
    image = Image.open(arranged / "test" / "dog" / "3.png")
    image.save(arranged / place / "cat" / "copy.bmp")  # the same picture in other bytes
    told = rf"{place}/cat/copy\.bmp \({place}\) and test/dog/3\.png \(test\)"
    with pytest.raises(SettingError, match=told):
        datasets.load_split(f"folder:{arranged}", "train")


def both_lists(*lists):
    return ".*".join(str(names).replace("[", r"\[") for names in lists)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: shutil.rmtree(p / "test" / "cat"), both_lists(["cat", "dog"], ["dog"])),
        (
            lambda p: draw_image(p / "val" / "cow" / "1.png", 1),
            both_lists(["cat", "dog"], ["cat", "cow", "dog"]),
        ),
        (
            lambda p: (p / "test" / "dog").rename(p / "test" / "Dog"),
            both_lists(["cat", "dog"], ["Dog", "cat"]),
        ),
        (lambda p: [f.unlink() for f in (p / "test" / "cat").iterdir()], "test/cat has 0, needs 1"),
        (lambda p: shutil.rmtree(p / "test"), r"\['train', 'val'\], expected train, test"),
        (lambda p: (p / "val").rename(p / "valid"), r"\['test', 'train', 'valid'\], expected train, test"),
        (
            lambda p: draw_image(p / "train" / "cat" / "more" / "1.png", 1),
            "folders in class folders .cat/more.",
        ),
        (
            lambda p: (p / "classes.json").write_text('{"cat": "a", "cow": "b"}'),
            both_lists(["cat", "cow"], ["cat", "dog"]),
        ),
        (
            lambda p: (p / "classes.json").write_text('{"cat": "Fox_", "dog": "fox"}'),
            r"\['fox'\] occur more than once",
        ),
        (lambda p: (p / "classes.json").write_text('{"cat": 1, "dog": "fox"}'), "must map each class folder"),
        (lambda p: (p / "classes.json").write_text("cat"), "is no JSON"),
    ],
)
def test_d2_classes_that_do_not_fit_are_one_sentence(arranged, change, told):
    change(arranged)
    with pytest.raises(ValueError, match=told) as caught:
        tiny("vp", dataset=f"folder:{arranged}").key()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: [(p / "Annual_Crop" / f"{i}.png").unlink() for i in (0, 3)], "Annual_Crop has 2, needs 3"),
        (lambda p: draw_image(p / "annual-crop" / "1.png", 1), "annual-crop has 1, needs 3"),
        (
            lambda p: [draw_image(p / "annual-crop" / f"{i}.png", i) for i in range(3)],
            r"\['annual crop'\] occur more",
        ),
        (lambda p: draw_image(p / "train" / "cat" / "1.png", 1), "expected train, test"),
    ],
)
def test_d2_classes_of_a_plain_folder(pictures, change, told):
    change(pictures)
    with pytest.raises(ValueError, match=told):
        folders.list_folder(pictures)


def test_d1_files_that_cannot_be_read_are_named_together(pictures):
    for name in ("a.png", "b.png"):
        (pictures / "forest" / name).symlink_to("nowhere.png")
    with pytest.raises(
        SettingError, match=r"cannot be read: forest/a\.png \(No such.*\), forest/b\.png \(No such"
    ):
        folders.fingerprint(pictures)
