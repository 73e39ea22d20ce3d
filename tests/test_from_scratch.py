"""AdaViPro from scratch, in one file: it agrees with the module part by part, and runs without it."""

import ast
import importlib.util
import re
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from samples import TOP

from adavipro import datasets, models, where
from adavipro.classifier import FrozenClassifier
from adavipro.data import Split
from adavipro.evaluation import evaluate
from adavipro.io import generator
from adavipro.method import AdaViPro
from adavipro.models import Network
from adavipro.prompted import Masks, Prompt, build_method
from adavipro.recipe import Recipe, learning_rate_factor, lengths, temperature_at
from adavipro.training import train

FILE = TOP / "notebooks" / "adavipro_from_scratch.py"
SEED = 3


@pytest.fixture
def scratch() -> ModuleType:
    """The file as a module, loaded afresh, so that a test may change its constants."""
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def classifier() -> FrozenClassifier:
    return models.load(Network(), datasets.find("digits").class_names)


@pytest.fixture(scope="module")
def drawn() -> Split:
    """The first test images of `digits`."""
    test = datasets.load_split("digits", "test")
    return Split(test.images[:224], None, test.labels[:224])


def module_method(classifier: FrozenClassifier, kind: str = "adavipro", on_bias: float = 0.0) -> AdaViPro:
    return build_method(kind, Prompt(), Masks(on_bias=on_bias), classifier, SEED)


def scratch_method(scratch: ModuleType, kind: str = "adavipro") -> torch.nn.Module:
    masks = scratch.MaskGenerator(SEED) if kind == "adavipro" else None
    return scratch.AdaViPro(scratch.Template(scratch.PROMPT_PX, SEED), masks)


def assert_same_weights(ours: torch.nn.Module, theirs: AdaViPro, tolerance: float) -> None:
    for (name, value), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance, msg=name)


def test_its_recipe_is_the_modules_with_fewer_epochs(scratch):
    recipe, prompt, masks = Recipe(), Prompt(), Masks()
    for names, values in {
        "PROMPT_PX START_STD": (prompt.prompt_px, prompt.prompt_start_std),
        "REGION_PX WIDTH ON_BIAS": (masks.region_px, masks.generator_width, masks.on_bias),
        "BATCH_SIZE WARMUP_SHARE": (recipe.batch_size, recipe.warmup_share),
        "PROMPT_LR PROMPT_MOMENTUM": (recipe.prompt_lr, recipe.momentum),
        "GENERATOR_LR GENERATOR_MOMENTUM": (recipe.generator_lr, recipe.generator_momentum),
        "TEMPERATURE_START TEMPERATURE_END": (recipe.temperature_start, recipe.temperature_end),
    }.items():
        assert tuple(getattr(scratch, name) for name in names.split()) == values, names


def test_zero_shot_scores(scratch, classifier, drawn):
    images = classifier.normalise(drawn.images[:32])
    torch.testing.assert_close((drawn.images[:32] / 255 - scratch.MEAN) / scratch.STD, images)
    scores = scratch.load_clip(scratch.CLASSES)(images)
    assert scores.std() > 1
    torch.testing.assert_close(scores, classifier(images), rtol=1e-4, atol=1e-4)


def test_its_pictures_show_the_scans_of_digits_and_none_in_two_splits(scratch):
    for split, count in (("train", 2000), ("val", 594), ("test", 1000)):
        images, labels = scratch.load_split(split)
        assert images.shape == (count, 3, 56, 56)
        assert torch.equal(labels, datasets.load_split("digits", split).labels)
        pixels = images * scratch.STD + scratch.MEAN
        assert -1e-5 < pixels.min() < pixels.max() < 1 + 1e-5


@pytest.mark.parametrize("on_bias", [0.0, 1.5])
def test_template_edges_and_logits_start_as_the_modules(scratch, classifier, drawn, on_bias):
    scratch.ON_BIAS = on_bias
    ours, theirs = scratch_method(scratch), module_method(classifier, on_bias=on_bias)
    assert_same_weights(ours, theirs, 1e-6)
    torch.testing.assert_close(ours.template()[None], theirs.prompt())
    images = classifier.normalise(drawn.images[:8])
    edges = where.EdgeDetector()(images)
    torch.testing.assert_close(scratch.edges(images), edges)
    torch.testing.assert_close(ours.masks(edges), theirs.masks(edges), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [5.0, 0.1, None])
def test_decisions(scratch, rng, temperature):
    logits = 2 * torch.randn(4, 2, 7, 7, generator=rng)
    source = None if temperature is None else generator(SEED, "gumbel", 7)
    found = scratch.decide(logits, temperature, source and scratch.chance(SEED, "gumbel", 7))
    if temperature is None:
        assert torch.equal(found, where.choose(logits))
    else:
        expected = where.decide(logits, temperature, where.gumbel_noise(logits.shape, source))
        torch.testing.assert_close(found, expected)
    assert found.std() > 0.05


@pytest.mark.parametrize("temperature", [1.3, None])
@pytest.mark.parametrize("kind", ["vp", "adavipro"])
def test_prompted_images(scratch, classifier, drawn, kind, temperature):
    ours, theirs = scratch_method(scratch, kind), module_method(classifier, kind)
    images = classifier.normalise(drawn.images[:16])
    prompted, decisions = ours(images, temperature, scratch.chance(SEED, "gumbel", 0))
    expected = theirs(images, temperature, generator(SEED, "gumbel", 0))
    assert (prompted != images).any()
    torch.testing.assert_close(prompted, expected.images, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decisions, expected.decisions.expand_as(decisions), rtol=1e-4, atol=1e-4)


def test_learning_rate_of_each_step(scratch):
    _, total, warmup = lengths(Recipe(), 2000)
    assert 1 < warmup < total
    expected = [learning_rate_factor(step, total, warmup) for step in range(total)]
    assert [scratch.learning_rate_factor(step, total) for step in range(total)] == expected


@pytest.mark.parametrize("epochs", [1, 2, 5, 12])
@pytest.mark.parametrize("end", [0.1, 0.5])
def test_temperature_of_each_epoch(scratch, epochs, end):
    scratch.TEMPERATURE_END = end
    recipe = Recipe(epochs=epochs, temperature_end=end)
    expected = [temperature_at(epoch, recipe) for epoch in range(epochs)]
    assert [scratch.temperature_of(epoch, epochs) for epoch in range(epochs)] == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["vp", "adavipro"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_training_ends_at_the_modules_weights(scratch, classifier, drawn, kind, epochs, capsys):
    """One step of 64 images; and nine, of batches of 48 and 32, with a warm-up and other settings than by default."""
    recipe, on_bias = Recipe(epochs=1, batch_size=64), 0.0
    if epochs > 1:
        recipe, on_bias = Recipe(epochs=3, batch_size=48, warmup_share=0.3, temperature_end=0.5), 1.0
    scratch.BATCH_SIZE, scratch.WARMUP_SHARE = recipe.batch_size, recipe.warmup_share
    scratch.TEMPERATURE_END, scratch.ON_BIAS = recipe.temperature_end, on_bias
    count = 64 if epochs == 1 else 128
    learn, val = (
        Split(drawn.images[part], None, drawn.labels[part]) for part in (slice(count), slice(128, 224))
    )
    ours, theirs = scratch_method(scratch, kind), module_method(classifier, kind, on_bias)
    start = [value.detach().clone() for value in theirs.parameters()]
    progress = train(classifier, theirs, learn, val, recipe, SEED, progress_bar=False)
    assert all(
        (value - old).abs().max() > 1e-5 for value, old in zip(theirs.parameters(), start, strict=True)
    )

    clip = scratch.load_clip(scratch.CLASSES)
    normalised = [(classifier.normalise(split.images), split.labels) for split in (learn, val)]
    scratch.train(clip, ours, *normalised, epochs, SEED)
    assert_same_weights(ours, theirs, 1e-3)
    found = evaluate(classifier, theirs, val)
    assert scratch.evaluate(clip, ours, normalised[1]) == pytest.approx((found.accuracy, found.share_on))
    told = [float(x) for x in re.findall(r"validation (\S+)%", capsys.readouterr().out)]
    assert told == pytest.approx([100 * row["val_accuracy"] for row in progress.history], abs=0.06)


def test_it_runs_by_itself_without_the_module_and_prints_a_table(scratch, classifier, tmp_path):
    without = (
        "import runpy, sys; sys.modules['adavipro'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", without, FILE, "--epochs", "2", "--images", "200"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(zero-shot|VP|AdaViPro) +([\d.]+)%(?: +(\d+)%)?$", done.stdout, re.MULTILINE)
    accuracy = {name: float(percent) for name, percent, _ in rows}
    on = {name: share and int(share) for name, _, share in rows}
    assert list(on) == ["zero-shot", "VP", "AdaViPro"], done.stdout
    assert done.stdout.count("epoch 2:") == 2
    images, labels = (part[:200] for part in scratch.load_split("test"))
    expected = (classifier(images).argmax(1) == labels).float().mean().item()
    assert accuracy["zero-shot"] == pytest.approx(100 * expected, abs=0.06)
    assert min(accuracy.values()) > 25  # a guess is 10
    assert max(accuracy.values()) < 90
    assert (on["zero-shot"], on["VP"]) == ("", 100)
    assert 5 < on["AdaViPro"] < 95
    assert list(tmp_path.iterdir()) == []


def test_it_is_short_and_needs_nothing_of_ours():
    text = FILE.read_text()
    assert len(text.splitlines()) <= 200
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None  # a relative import
            found.add(node.module)
    packages = {name.partition(".")[0] for name in found}
    assert packages - sys.stdlib_module_names == {"open_clip", "safetensors", "torch"}
