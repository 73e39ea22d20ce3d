"""A training is the paper's loop, picks by validation, and stops where a value is not finite."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import noisy_split, tiny

from adavipro import checkpoints, training
from adavipro.evaluation import Evaluation
from adavipro.io import generator
from adavipro.prompted import build_method
from adavipro.recipe import Recipe, SettingError
from adavipro.training import METRICS, MaskCollapseWarning, TrainingDiverged

RECIPE = Recipe(
    epochs=7, batch_size=16, prompt_lr=2.0, generator_lr=0.2, generator_momentum=0.5, warmup_steps=5,
    temperature_gamma=0.8,
)  # fmt: skip
# 40 images: 21 steps, the last of an epoch with 8 images.
MOMENTUM = {"prompt": 0.9, "masks": 0.5}
no_collapse_warning = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")


@pytest.fixture
def train():
    return noisy_split(40, seed=1)


@pytest.fixture
def val():
    return noisy_split(12, seed=2)


def build(clip, name="adavipro", **changes):
    run = tiny(name, **changes)
    return build_method(name, run.prompt, run.masks, clip)


def copies(method) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in method.named_parameters()}


def fit(clip, method, train, val, folder=None, recipe=RECIPE, **settings):
    return training.train(clip, method, train, val, recipe, 3, folder, progress_bar=False, **settings)


def on_or_off(images, p, tau, step):
    """Masks (b, 1, 56, 56) of AdaViPro from its parameters, restated; tau is None at inference."""
    laplacian = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).repeat(3, 1, 1, 1)
    edges = F.conv2d(images, laplacian, padding=1, groups=3)
    hidden = F.conv2d(edges, p["masks.convergence.weight"], p["masks.convergence.bias"], padding=1).relu()
    std = hidden.var((2, 3), correction=0, keepdim=True).add(1e-5).sqrt()
    hidden = (hidden - hidden.mean((2, 3), keepdim=True)) / std
    e = F.conv2d(hidden, p["masks.policy.weight"], p["masks.policy.bias"], stride=8)
    if tau is not None:
        u = torch.rand(e.shape, generator=generator(3, "gumbel", step), dtype=torch.float64)
        e = e - (-u.log()).log().float()
    on = e.argmax(1, keepdim=True).float() if tau is None else (e / tau).softmax(1)[:, 1:]
    return F.interpolate(on, scale_factor=8, mode="nearest")


def scores(clip, images, p, tau=None, step=None):
    """Class scores of uint8 images with their prompt, restated."""
    x = (images.float() / 255 - clip.mean) / clip.std
    template = torch.zeros(3, 56, 56)
    inside = torch.zeros(56, 56, dtype=torch.bool)
    inside[8:48, 8:48] = True
    template[:, ~inside] = p["prompt.values"]
    if len(p) > 1:
        template = template * on_or_off(x, p, tau, step)
    features = clip.network(x + template)
    return clip.scale * features / features.norm(dim=1, keepdim=True) @ clip.class_embeddings.T


def plain_loop(clip, p, train, val):
    """Train as the paper says, in the open. Returns weights, momenta and a row of figures an epoch."""
    momenta, history, step = {}, [], 0
    for epoch in range(7):
        order = torch.randperm(40, generator=generator(3, "order", epoch))
        tau, losses, right = 5 * 0.8**epoch, 0.0, 0
        for index in order.split(16):
            p = {name: value.detach().requires_grad_() for name, value in p.items()}
            found = scores(clip, train.images[index], p, tau, step)
            truth = train.labels[index]
            loss = -found.log_softmax(1)[torch.arange(len(index)), truth].mean()
            gradients = dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))
            rate = (step + 1) / 5 if step < 5 else 0.5 * (1 + math.cos(math.pi * (step - 5) / 16))
            with torch.no_grad():
                for name, gradient in gradients.items():
                    part = name.split(".")[0]
                    momenta[name] = MOMENTUM[part] * momenta.get(name, 0) + gradient
                    p[name] = p[name] - {"prompt": 2.0, "masks": 0.2}[part] * rate * momenta[name]
            losses += loss.item() * len(index)
            right += int((found.argmax(1) == truth).sum())
            step += 1
        with torch.no_grad():
            accuracy = (scores(clip, val.images, p).argmax(1) == val.labels).float().mean().item()
        history.append((step, losses / 40, right / 40, accuracy, tau))
    return p, momenta, history


@no_collapse_warning
@pytest.mark.parametrize("name", ["vp", "adavipro"])
def test_training_is_the_plain_loop_and_n2_leaves_the_classifier_alone(clip, train, val, tmp_path, name):
    method = build(clip, name)
    frozen = {key: value.clone() for key, value in clip.state_dict().items()}
    weights, momenta, history = plain_loop(clip, copies(method), train, val)
    clip.train()
    assert not clip.training
    state = fit(clip, method, train, val, tmp_path)

    saved, _ = checkpoints.load_newest(tmp_path)
    for key, value in weights.items():
        torch.testing.assert_close(saved[f"now.{key}"], value.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(saved[f"momentum.{key}"], momenta[key], rtol=1e-3, atol=1e-4)
    columns = ("step", "loss", "train_accuracy", "val_accuracy", "temperature")
    assert [row["epoch"] for row in state.history] == list(range(7))
    for row, expected in zip(state.history, history, strict=True):
        assert list(row) == METRICS
        assert [row[c] for c in columns] == pytest.approx(expected, rel=1e-4)
    for key, value in clip.state_dict().items():
        assert torch.equal(value, frozen[key]), key


@no_collapse_warning
def test_method_ends_with_the_weights_of_the_first_best_epoch(clip, train, val, monkeypatch):
    accuracies, seen = [0.25, 0.5, 0.75, 0.75, 0.5, 0.75, 0.5], []

    def evaluate(_, method, split, temperature):
        assert split is val
        assert temperature > 0
        seen.append(copies(method))
        return Evaluation(accuracies[len(seen) - 1], 0.5, 0.5)

    monkeypatch.setattr(training, "evaluate", evaluate)
    method = build(clip)
    state = fit(clip, method, train, val)
    assert (state.best_epoch, state.best_accuracy) == (2, 0.75)
    for name, p in method.named_parameters():
        assert torch.equal(p, seen[2][name])
        assert not torch.equal(p, seen[3][name])


@no_collapse_warning
def test_without_a_folder_nothing_is_written_and_all_is_the_same(clip, train, val, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved, unsaved = build(clip), build(clip)
    assert fit(clip, saved, train, val, tmp_path / "kept") == fit(clip, unsaved, train, val)
    for p, q in zip(saved.parameters(), unsaved.parameters(), strict=True):
        assert torch.equal(p, q)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["pixel", "prompt.values", "masks.policy.weight"])
def test_n1_value_that_is_not_finite_stops_the_run_before_the_step(
    clip, train, val, tmp_path, monkeypatch, where, value
):
    """Fault N1, in step 4: the second of the second epoch."""
    method = build(clip)
    before, calls = {}, 0

    def spoil(tensor):
        nonlocal calls
        calls += 1
        if calls < 5:
            return tensor
        before.update(copies(method))
        tensor = tensor.clone()
        tensor[(-1,) * tensor.ndim] = value
        return tensor

    if where == "pixel":
        step = training.train_step
        monkeypatch.setattr(
            training, "train_step", lambda c, m, o, images, *rest: step(c, m, o, spoil(images), *rest)
        )
    else:
        dict(method.named_parameters())[where].register_hook(spoil)
    index = torch.randperm(40, generator=generator(3, "order", 1))[16:32].tolist()
    with pytest.raises(TrainingDiverged) as caught:
        fit(clip, method, train, val, tmp_path)
    told = str(caught.value)
    assert f"the {'loss' if where == 'pixel' else f'gradient of {where}'} is not finite" in told
    assert f"step 4 (epoch 2, images {index})" in told
    assert calls == 5
    for name, p in method.named_parameters():
        assert torch.equal(p, before[name])
    assert checkpoints.steps_saved(tmp_path) == [3]


def test_n1_learning_rate_that_is_far_too_large(clip, train, val):
    recipe = Recipe(epochs=7, batch_size=16, prompt_lr=1e38, warmup_steps=0)
    with pytest.raises(TrainingDiverged, match=r"not finite at step \d+ .*lower the learning rates"):
        fit(clip, build(clip, "vp"), train, val, recipe=recipe)


def test_reading_ahead_changes_no_bit_of_a_training(clip, train, val, monkeypatch):
    here = fit(clip, one := build(clip), train, val)
    monkeypatch.setattr(training, "batches", functools.partial(training.batches, ahead=True))
    ahead = fit(clip, other := build(clip), train, val)
    assert ahead == here
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_warmup_as_long_as_the_run_is_refused_before_anything_is_removed(clip, train, val, tmp_path):
    checkpoints.save_checkpoint(tmp_path, 3, {"x": torch.ones(1)}, {})
    with pytest.raises(SettingError, match="warm-up takes 21 steps, but the run has 21"):
        fit(clip, build(clip), train, val, tmp_path, Recipe(epochs=7, batch_size=16, warmup_steps=21))
    assert checkpoints.steps_saved(tmp_path) == [3]


@pytest.mark.parametrize(
    ("start", "same_images", "told"),
    [
        ({"on_bias": -200.0}, False, r"\b0\.0 % of the regions are on.*become zero-shot"),
        ({"on_bias": 200.0}, False, r"100\.0 % of the regions are on.*become VP"),
        ({}, True, r"masks hardly differ between images \(diversity 0\.000\)"),
    ],
    ids=["all off", "all on", "all the same"],
)
def test_collapsed_masks_are_told(clip, train, val, start, same_images, told):
    recipe = Recipe(epochs=1, batch_size=16, generator_lr=0.0, warmup_steps=0)
    if same_images:
        val.images[:] = val.images[:1].clone()
    with pytest.warns(MaskCollapseWarning, match=f"at epoch 1, .*{told}"):
        fit(clip, build(clip, **start), train, val, recipe=recipe)


def test_masks_that_are_mixed_are_not_told(clip, train, val):
    """Warnings are errors in tests."""
    recipe = Recipe(epochs=1, batch_size=16, generator_lr=0.0, warmup_steps=0)
    model = build(clip)
    with torch.no_grad():
        model.masks.policy.weight.mul_(4.0)
    state = fit(clip, model, train, val, recipe=recipe)
    assert 0.05 < state.history[0]["share_on"] < 0.95
    assert state.history[0]["mask_diversity"] > 0.02


@no_collapse_warning
def test_a_watch_sees_every_epoch_before_it_is_saved(clip, train, val, tmp_path):
    seen = []

    def watch(method, history):
        seen.append((len(history), max(checkpoints.steps_saved(tmp_path), default=0), copies(method)))

    fit(clip, build(clip), train, val, tmp_path, watch=watch)
    assert [(epochs, saved) for epochs, saved, _ in seen] == [(i + 1, 3 * i) for i in range(7)]
    assert len({bytes(weights["prompt.values"].numpy()) for *_, weights in seen}) == 7


@no_collapse_warning
def test_finished_training_is_loaded_and_not_repeated_without_momentum_too(
    clip, train, val, tmp_path, monkeypatch
):
    recipe = Recipe(epochs=2, batch_size=16, momentum=0.0, generator_momentum=0.0, warmup_steps=0)
    first, again = build(clip), build(clip)
    state = fit(clip, first, train, val, tmp_path, recipe)
    monkeypatch.setattr(training, "train_step", None)
    assert fit(clip, again, train, val, tmp_path, recipe, resume=True) == state
    for p, q in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
