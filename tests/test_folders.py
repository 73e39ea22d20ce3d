import json
import shutil
from collections import Counter
from dataclasses import asdict

import pytest
import torch
from helpers import draw_image, draw_splits, tiny

from adavipro import datasets, experiment, folders
from adavipro.settings import SettingError

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


def names_of(listing, path):
    return {s: [str(f.relative_to(path)) for f, _ in files] for s, files in listing.files.items()}


def test_classes_are_in_plain_order_and_split_60_20_20_within_each(pictures):
    listing = folders.list_folder(pictures)
    assert listing.class_names == ["10", "9", "annual crop"]
    assert datasets.class_names(f"folder:{pictures}") == ("10", "9", "annual crop")
    counts = {split: Counter(label for _, label in files) for split, files in listing.files.items()}
    assert counts == {"train": {0: 5, 1: 6, 2: 1}, "val": {0: 1, 1: 2, 2: 1}, "test": {0: 1, 1: 2, 2: 1}}
    files = [f for split in listing.files.values() for f, _ in split]
    assert sorted(files) == sorted(pictures.glob("*/*"))
    for split in listing.files.values():
        assert all(["10", "9", "Annual_Crop"][label] == file.parent.name for file, label in split)


def test_split_hangs_on_names_alone_and_not_on_the_place_or_the_order_of_writing(pictures, tmp_path):
    other = tmp_path / "elsewhere"
    for file in sorted(pictures.glob("*/*"), reverse=True):
        draw_image(other / file.relative_to(pictures), 1)
    assert names_of(folders.list_folder(other), other) == names_of(folders.list_folder(pictures), pictures)
    test = names_of(folders.list_folder(pictures), pictures)["test"]
    assert test == ["10/2.png", "9/2.png", "9/3.png", "Annual_Crop/2.png"]


def test_splits_that_are_given_are_kept(arranged):
    listing = folders.list_folder(arranged)
    for split, files in listing.files.items():
        assert [file for file, _ in files] == sorted((arranged / split).glob("*/*"))
        assert [label for _, label in files] == [0] * 5 + [1] * 5
    assert not listing.held_out


def test_missing_val_is_held_out_of_train_and_said_so(arranged):
    shutil.rmtree(arranged / "val")
    with pytest.warns(UserWarning, match="has no val: a fifth of train is held out"):
        sizes = [len(datasets.load_split(f"folder:{arranged}", s)) for s in ("train", "val", "test")]
    assert sizes == [8, 2, 10]
    files = names_of(folders.list_folder(arranged), arranged)
    assert sorted(files["train"] + files["val"]) == sorted(
        str(f.relative_to(arranged)) for f in arranged.glob("train/*/*")
    )


def test_split_holds_every_image_at_the_models_size_with_its_label(pictures):
    listing = folders.list_folder(pictures)
    for px in (56, 32):
        split = datasets.load_split(f"folder:{pictures}", "train", px)
        assert (split.images.shape, split.images.dtype, split.objects) == ((12, 3, px, px), torch.uint8, None)
        assert split.labels.tolist() == [label for _, label in listing.files["train"]]
        for image, (file, _) in zip(split.images, listing.files["train"], strict=True):
            assert torch.equal(image, folders.to_tensor(file.read_bytes(), px))


def test_files_that_are_not_of_a_class_are_not_read(pictures):
    before = folders.fingerprint(pictures)
    (pictures / "README.txt").write_text("words")
    (pictures / "9" / ".DS_Store").write_bytes(b"\0")
    (pictures / ".cache").mkdir()
    assert folders.fingerprint(pictures) == before
    assert len(datasets.load_split(f"folder:{pictures}", "train")) == 12


def test_changed_content_is_another_run_and_other_images(pictures):
    name = f"folder:{pictures}"
    run = tiny("vp", dataset=name)
    keys, first = [run.key()], datasets.load_split(name, "train")
    assert datasets.load_split(name, "train").images is first.images  # from memory
    file = folders.list_folder(pictures).files["train"][0][0]
    content = file.read_bytes()
    draw_image(file, 999)
    assert file.stat().st_size == len(content)  # a change that the size does not tell
    keys.append(run.key())
    assert not torch.equal(datasets.load_split(name, "train").images, first.images)
    file.rename(file.with_name("z.png"))
    keys.append(run.key())
    (pictures / "classes.json").write_text(json.dumps({"9": "nine", "10": "ten", "Annual_Crop": "crop"}))
    keys.append(run.key())
    assert len(set(keys)) == 4
    (pictures / "classes.json").unlink()
    file.with_name("z.png").unlink()
    file.write_bytes(content)
    assert run.key() == keys[0]


def test_file_that_stays_is_read_once(pictures, monkeypatch):
    monkeypatch.setattr("adavipro.files.time.time_ns", lambda: 2**63)
    first = folders.fingerprint(pictures)
    monkeypatch.setattr(folders.Path, "read_bytes", None)
    assert folders.fingerprint(pictures) == first


def test_classes_json_names_the_classes(pictures):
    (pictures / "classes.json").write_text(json.dumps({"9": "Nine", "10": "ten", "Annual_Crop": "crop-land"}))
    assert folders.list_folder(pictures).class_names == ["ten", "nine", "crop land"]


# --- Runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zero-shot", "adavipro"])
def test_run_on_a_folder_is_a_run_like_any_other(pictures, tmp_path, method):
    run, root = tiny(method, dataset=f"folder:{pictures}", batch_size=4), tmp_path / "runs"
    result = experiment.run(run, root, progress_bar=False)
    folder = run.folder(root)
    size = "" if method == "zero-shot" else "-8px"
    assert [p.name for p in root.iterdir()] == [f"folder-my-images-{method}{size}-seed0-{run.key()}"]
    assert json.loads((folder / "config.json").read_text()) == asdict(run)
    assert result["test_accuracy"] in {i / 4 for i in range(5)}
    assert experiment.load_classifier(run).class_names == ["10", "9", "annual crop"]
    assert experiment.run(run, root) == result
    draw_image(pictures / "9" / "0.png", 999)
    assert experiment.read_result(run, root) is None


def test_folder_that_changes_while_the_run_goes_on_is_an_error(pictures, tmp_path, monkeypatch):
    report = experiment.report_test

    def report_and_change(*args):
        draw_image(pictures / "9" / "0.png", 999)
        return report(*args)

    monkeypatch.setattr(experiment, "report_test", report_and_change)
    run = tiny("vp", dataset=f"folder:{pictures}")
    with pytest.raises(SettingError, match="changed while the run went on"):
        experiment.run(run, tmp_path / "runs", progress_bar=False)
    assert not list(tmp_path.glob("runs/*/result.json"))


def test_folder_without_classes_or_no_folder_is_one_sentence(tmp_path):
    draw_image(tmp_path / "1.png", 1)
    with pytest.raises(SettingError, match=r"no class folders, expected PATH/class/image\.jpg"):
        datasets.class_names(f"folder:{tmp_path}")
    for name in ("folder:", f"folder:{tmp_path}/none", f"folder:{tmp_path}/1.png"):
        with pytest.raises(SettingError, match="needs the path of a folder that is there"):
            tiny(dataset=name)


def test_embedded_data_have_one_size_and_folders_any(pictures):
    with pytest.raises(
        SettingError, match="takes images of 224 px, but data set 'letters' has images of 56 px"
    ):
        datasets.load_split("letters", "train", 224)
    assert datasets.load_split(f"folder:{pictures}", "val", 224).images.shape == (4, 3, 224, 224)
