import hashlib
import itertools
import json
import shutil
import sys

import open_clip
import pytest
import torch

from adavipro.classifiers import clean_class_names
from adavipro.embedded import drawing, pretrain, scenes
from adavipro.embedded.vocabulary import CLASS_NAMES, COLOURS, LETTERS, TEXTURES


def distance(one, other) -> float:
    """Least mean difference between a glyph of one stack and a glyph of the other."""
    return (one[:, None] - other[None]).abs().mean((2, 3)).min().item()


# --- What is drawn -------------------------------------------------------------------------------------------------


def test_class_names_are_76_clean_and_different_ones():
    assert clean_class_names(CLASS_NAMES) == list(CLASS_NAMES)
    assert len(CLASS_NAMES) == 76


def test_every_glyph_is_drawn_and_no_two_classes_share_one():
    """A font that lacks a symbol would draw the same box for all of them."""
    bank = drawing.glyph_bank()
    assert len(bank) == 64
    for variants in bank:
        ink = variants.mean((1, 2))
        assert ink.min() > 0.02
        assert ink.max() < 0.95
        assert variants.amax((1, 2)).min() > 0.9
    for one, other in itertools.combinations(bank, 2):
        assert distance(one[:1], other) > 0.01


def test_every_texture_is_drawn(rng):
    for kind in range(len(TEXTURES)):
        patterns = drawing.texture(torch.full((8,), kind), rng)
        assert 0 <= patterns.min() <= patterns.max() <= 1
        assert patterns.std((1, 2, 3)).min() > 0.15, TEXTURES[kind]


def test_unseen_letters_are_in_no_style_that_pretraining_shows():
    seen = drawing.glyph_bank()[10 : 10 + len(LETTERS)]
    for style, name in enumerate(drawing.UNSEEN_LETTER_STYLES):
        for letter, ours, theirs in zip(LETTERS, drawing.unseen_letter_bank(), seen, strict=True):
            assert distance(ours[style : style + 1], theirs) > 0.01, f"{letter} in {name}"


def test_pretraining_pictures_depend_on_the_key_alone_and_mark_their_object():
    def pictures():
        return scenes.pretraining_pictures(64, torch.Generator().manual_seed(1))

    drawn = pictures()
    assert all(torch.equal(a, b) for a, b in zip(drawn, pictures(), strict=True))
    images, label, colour, coverage = drawn
    assert 0 <= images.min() <= images.max() <= 1
    assert 0 <= colour.min() <= colour.max() < len(COLOURS)
    has_object = label < 64
    assert 0 < has_object.sum() < 64
    assert torch.equal(coverage.flatten(1).any(1), has_object)


def test_disturbing_never_reaches_a_region_with_object(rng):
    images, label, _, coverage = scenes.pretraining_pictures(128, rng)
    changed = (scenes.disturb(images, coverage, rng, share=1.0) != images).any(1)
    hits = 0
    for picture, (i, j) in itertools.product(range(128), itertools.product(range(7), range(7))):
        rows, columns = slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8)
        share_of_object = coverage[picture, 0, rows, columns].mean()
        inner_of_texture = label[picture] >= 64 and {i, j}.isdisjoint({0, 6})
        if share_of_object >= 0.02 or inner_of_texture:
            assert not changed[picture, rows, columns].any()
        hits += bool(changed[picture, rows, columns].all())
    assert hits > 128
    assert torch.equal(scenes.disturb(images, coverage, rng, share=0.0), images)


# --- Pretraining ---------------------------------------------------------------------------------------------------


@pytest.fixture
def train(monkeypatch, small_clip_folder, tmp_path):
    """Run a training of two rounds in a folder of this name; returns the folder."""
    monkeypatch.setattr(pretrain.Trainer, "accuracy", lambda *_: {"clean": 0.5, "disturbed": 0.5})

    def run(name):
        folder, work = tmp_path / name, tmp_path / f"{name}-work"
        folder.mkdir(exist_ok=True)
        shutil.copy(small_clip_folder / "open_clip_config.json", folder)
        options = "--rounds 2 --pictures 64 --passes 1 --batch 32 --device cpu".split()
        monkeypatch.setattr(sys, "argv", ["pretrain", "--folder", str(folder), "--work", str(work), *options])
        pretrain.main()
        return folder

    return run


def test_stopped_pretraining_goes_on_to_the_same_bits_and_open_clip_loads_them(train, tmp_path, monkeypatch):
    whole = train("whole")

    losses, calls = pretrain.Trainer.losses, 0

    def stop_in_the_second_round(*args):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return losses(*args)

    monkeypatch.setattr(pretrain.Trainer, "losses", stop_in_the_second_round)
    with pytest.raises(KeyboardInterrupt):
        train("stopped")
    monkeypatch.setattr(pretrain.Trainer, "losses", losses)
    assert not (tmp_path / "stopped" / "open_clip_model.safetensors").exists()
    stopped = train("stopped")
    weights = "open_clip_model.safetensors"
    assert (stopped / weights).read_bytes() == (whole / weights).read_bytes()
    for folder in (whole, stopped):
        log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
        assert [(row["round"], row["pictures"]) for row in log] == [(1, 64), (2, 128)]

    model = open_clip.create_model(f"local-dir:{whole}", require_pretrained=True)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{whole}")
    with torch.no_grad():
        text = model.encode_text(tokenizer(["This is a photo of a digit zero", "something red"]))
        image = model.encode_image(torch.zeros(1, 3, 56, 56))
    assert text.isfinite().all()
    assert image.isfinite().all()
    assert hashlib.sha256((whole / weights).read_bytes()).hexdigest() in (whole / "README.md").read_text()


def test_exported_text_tower_is_the_one_that_was_trained(small_clip_folder, tmp_path):
    """Training uses a vocabulary of the few words that occur; the export goes back to CLIP's own."""
    shutil.copy(small_clip_folder / "open_clip_config.json", tmp_path)
    name = f"local-dir:{tmp_path}"
    captions = pretrain.Captions(open_clip.get_tokenizer(name))
    trained = pretrain.build(tmp_path, len(captions.used)).eval()
    pretrain.export(trained, captions, tmp_path)
    loaded = open_clip.create_model(name, require_pretrained=True).eval()
    tokens = open_clip.get_tokenizer(name)([f"a drawing of a {name}" for name in CLASS_NAMES])
    with torch.no_grad():
        ours = trained.encode_text(captions.names[:, 1], normalize=True)
        torch.testing.assert_close(loaded.encode_text(tokens, normalize=True), ours, atol=5e-3, rtol=0)
        assert (ours @ ours.T - torch.eye(76)).max() < 0.9999


# --- What ships ----------------------------------------------------------------------------------------------------


def test_shipped_weights_are_small_and_those_of_the_model_card(small_clip_folder):
    weights = (small_clip_folder / "open_clip_model.safetensors").read_bytes()
    assert len(weights) <= 8_000_000
    card = (small_clip_folder / "README.md").read_text()
    assert hashlib.sha256(weights).hexdigest() in card
    assert f"{len(weights) / 1e6:.1f} MB" in card
