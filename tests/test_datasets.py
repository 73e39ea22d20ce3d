"""Data sets by name, the drawn ones, and data that is no data set by name."""

import itertools
import shutil

import nine_samples
import pytest
import torch
from helpers import draw_image, draw_splits
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from adavipro import datasets
from adavipro.data import Split
from adavipro.datasets import embedded, nine
from adavipro.datasets.embedded import drawing
from adavipro.datasets.embedded.vocabulary import CLASS_NAMES, LETTERS, TEXTURES
from adavipro.io import data_folder
from adavipro.models import clean_class_names
from adavipro.recipe import SettingError

SPLITS = ("train", "val", "test")
EACH = list(itertools.product(embedded.CLASS_NAMES, SPLITS))


# --- Drawn data sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "split"), EACH)
def test_drawn_split_is_the_one_that_the_shipped_results_are_on(name, split):
    source = datasets.find(name)
    found = source.load(split, 56)
    assert embedded.sha256(found) == embedded.drawn_sha256()[f"{name}-{split}"]
    assert len(found) == source.counts[split]
    assert found.labels.unique().tolist() == list(range(len(source.class_names))), "a class is missing"
    assert (found.objects is None) == (name == "textures")
    assert (datasets.slug(name), source.split, source.version) == (name, None, embedded.VERSION)


def test_every_split_has_its_hash_and_no_two_the_same():
    hashes = embedded.drawn_sha256()
    assert set(hashes) == {f"{name}-{split}" for name, split in EACH}
    assert len(set(hashes.values())) == 12


def test_what_is_written_into_a_split_nobody_else_sees():
    first = datasets.load_split("letters", "val")
    for tensor in (first.images, first.objects, first.labels):
        tensor.zero_()
    assert embedded.sha256(datasets.load_split("letters", "val")) == embedded.drawn_sha256()["letters-val"]


def test_a_split_is_drawn_once_and_again_where_its_file_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_CACHE", str(tmp_path))
    draw, expected = embedded.draw_split.__wrapped__, embedded.drawn_sha256()["letters-val"]
    assert embedded.sha256(draw("letters", "val")) == expected
    (file,) = tmp_path.rglob("*.*")
    assert file.name == "letters-val.safetensors"
    whole = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "generator", None)  # nothing is drawn
        assert embedded.sha256(draw("letters", "val")) == expected
    for damaged in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        assert embedded.sha256(draw("letters", "val")) == expected
        assert file.read_bytes() == whole
    monkeypatch.setenv("ADAVIPRO_CACHE", str(file))  # no folder
    assert embedded.sha256(draw("letters", "val")) == expected
    monkeypatch.setitem(embedded.SIZES, "val", 20)
    monkeypatch.setattr(embedded, "drawn_sha256", dict)
    assert len(draw("letters", "val")) == 20


def test_other_pictures_than_the_shipped_results_are_on_are_said(monkeypatch):
    monkeypatch.setattr(embedded, "drawn_sha256", lambda: {"letters-val": "another"})
    with pytest.warns(embedded.OtherPicturesWarning, match="letters, val, is drawn here with other pictures"):
        embedded.draw_split.__wrapped__("letters", "val")


def test_stored_digits_are_scikit_learns():
    stored, source = load_file(data_folder() / "handwritten_digits.safetensors"), load_digits()
    assert (stored["images"].numpy() == source.images).all()
    assert (stored["labels"].numpy() == source.target).all()


def distance(one, other) -> float:
    """Least mean difference between a glyph of one stack and a glyph of the other."""
    return (one[:, None] - other[None]).abs().mean((2, 3)).min().item()


def test_every_glyph_is_drawn_and_no_two_classes_share_one():
    """A font that lacks a symbol would draw the same box for all of them."""
    assert clean_class_names(CLASS_NAMES) == list(CLASS_NAMES)
    bank = drawing.glyph_bank()
    assert len(bank) == len(CLASS_NAMES) - len(TEXTURES)
    for variants in bank:
        ink = variants.mean((1, 2))
        assert ink.min() > 0.02
        assert ink.max() < 0.95
    for one, other in itertools.combinations(bank, 2):
        assert distance(one[:1], other[:4]) > 0.01


def test_unseen_letters_are_in_no_style_that_pretraining_shows():
    seen = drawing.glyph_bank()[10 : 10 + len(LETTERS)]
    for letter, ours, theirs in zip(LETTERS, drawing.unseen_letter_bank(), seen, strict=True):
        assert distance(ours, theirs) > 0.01, letter


# --- By name ------------------------------------------------------------------------------------------------------


def test_unknown_name_lists_those_there_are():
    with pytest.raises(
        SettingError,
        match=r"dataset is 'cifar', but .*: digits, .*textures, solar-cells, .*cifar10, .*, folder:PATH",
    ):
        datasets.find("cifar")
    with pytest.raises(SettingError, match="split is 'dev', but the splits are: train, val, test"):
        datasets.load_split("digits", "dev")
    with pytest.raises(
        SettingError, match="takes images of 224 px, but data set 'letters' has images of 56 px"
    ):
        datasets.load_split("letters", "train", 224)


def test_name_of_one_of_the_nine_is_known_before_its_data_are_there(monkeypatch, tmp_path):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path))
    for name in nine.SPECS:
        datasets.check_name(name)
        with pytest.raises(SettingError, match=f"dataset is '{name}', but .*: there is no such folder"):
            datasets.find(name)


@pytest.mark.filterwarnings("ignore::adavipro.datasets.nine.PartialDataWarning")
def test_each_kind_of_data_set_says_its_size_and_decodes_nothing_to_find_out(monkeypatch, tmp_path):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path / "data"))
    nine_samples.write("eurosat", tmp_path / "data")
    draw_splits(tmp_path / "own")
    for module in (datasets.folders, nine):
        monkeypatch.setattr(module, "decode_all", None)
    for name, sizes in {
        "digits": (2000, 594, 1000),
        "eurosat": (30, 10, 20),
        f"folder:{tmp_path}/own": (10, 10, 10),
    }.items():
        assert tuple(datasets.find(name).counts[split] for split in SPLITS) == sizes


# --- What people have ---------------------------------------------------------------------------------------------


class Pairs(torch.utils.data.Dataset):
    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i]


def test_folder_of_classes_is_one_split(tmp_path):
    for i, name in enumerate(("b", "A_c", "a")):
        for k in range(2):
            draw_image(tmp_path / name / f"{k}.png", 10 * i + k)
    split = datasets.as_split(str(tmp_path), 32)
    assert (split.images.shape, split.labels.tolist()) == ((6, 3, 32, 32), [0, 0, 1, 1, 2, 2])
    assert datasets.folder_class_names(tmp_path) == ["a c", "a", "b"]
    with pytest.raises(SettingError, match="are of any size: say which"):
        datasets.as_split(tmp_path)
    with pytest.raises(SettingError, match="there is no folder"):
        datasets.as_split(tmp_path / "none", 32)
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "b" / "0.png").write_bytes(b"")
    (tmp_path / "A_c" / "1.png").write_bytes(b"<html>")
    with pytest.raises(
        SettingError, match=r"2 of 4 files in .*A_c/1.png: the file is HTML.*; b/0.png: the file is empty"
    ):
        datasets.as_split(tmp_path, 32)


def test_dataset_of_tensors_is_a_split_as_it_is_and_of_one_square_size():
    images = torch.rand(3, 3, 8, 8)
    split = datasets.as_split(Pairs([(image, 1) for image in images]))
    assert torch.equal(split.images, images)
    assert datasets.as_split(split, 8) is split
    with pytest.raises(SettingError, match="images are 8 x 8 px, expected 16 x 16 px: resize"):
        datasets.as_split(split, 16)
    with pytest.raises(SettingError, match="images are 8 x 9 px, expected square ones: resize"):
        datasets.as_split(Pairs([(torch.rand(3, 8, 9), 0)]))
    assert datasets.folder_class_names(split) is None


def test_a_fifth_is_held_out_the_same_for_everyone():
    whole = Split(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), None, torch.arange(10))
    parts = [datasets.held_out(whole) for _ in range(2)]
    left, out = parts[0]
    assert (len(left), len(out)) == (8, 2)
    assert sorted(left.labels.tolist() + out.labels.tolist()) == list(range(10))
    assert torch.equal(out.labels, parts[1][1].labels)
    assert torch.equal(out.images.flatten(), out.labels)
    with pytest.raises(SettingError, match="give val as well"):
        datasets.held_out(Split(whole.images[:1], None, whole.labels[:1]))
