"""The linear probe is logistic regression; fine-tuning moves a copy; both are runs as every other."""

import copy
import csv
import json
import statistics

import pytest
import torch
from helpers import small_splits, tiny
from sklearn.linear_model import LogisticRegression

from adavipro import datasets, experiment, models
from adavipro.baselines import FILE, fine_tuning, probes
from adavipro.baselines.fine_tuning import FineTuning
from adavipro.checkpoints import CheckpointError
from adavipro.data import Split
from adavipro.evaluation import Evaluation, evaluate
from adavipro.experiment import Experiment
from adavipro.io import data_folder
from adavipro.models import MappedClassifier, Network
from adavipro.recipe import Recipe, SettingError
from adavipro.training import TrainingDiverged

PENALTIES = probes.PENALTIES
SHORT = Recipe(epochs=2, batch_size=16)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(probes, "PENALTIES", (1.0, 0.1, 0.01))
    with small_splits():
        yield


@pytest.fixture(scope="module")
def frozen():
    return models.load(Network(), datasets.find("letters").class_names)


@pytest.fixture
def splits():
    return datasets.load_split("letters", "train"), datasets.load_split("letters", "val")


def tuned(frozen, train, val, recipe=SHORT, seed=0):
    return fine_tuning.fine_tune(frozen, train, val, recipe, FineTuning(), seed)


def classifier_of(frozen, found):
    classifier = copy.deepcopy(frozen)
    classifier.load_state_dict(found.tensors, strict=False)
    return classifier


def weights_of(classifier):
    return {k: v.clone() for k, v in classifier.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def gaussians(n=300, d=5, k=3):
    g = torch.Generator().manual_seed(3)
    labels = torch.randint(k, (n,), generator=g)
    return torch.randn(k, d, generator=g)[labels] + torch.randn(n, d, generator=g), labels


# --- Linear probe ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.1, 1e-3, 1e-5])
def test_probe_is_scikit_learns_logistic_regression(penalty):
    inputs, labels = gaussians()
    state = torch.get_rng_state()
    ours = probes.fit_probe(inputs, labels, 3, penalty)
    assert torch.equal(torch.get_rng_state(), state)
    theirs = LogisticRegression(C=1 / (len(inputs) * penalty), tol=1e-10, max_iter=10000)
    theirs.fit(inputs.double().numpy(), labels.numpy())
    torch.testing.assert_close(ours.weight, torch.from_numpy(theirs.coef_), rtol=1e-3, atol=1e-4)
    # a common shift of the biases changes nothing
    torch.testing.assert_close(
        ours.bias - ours.bias.mean(),
        torch.from_numpy(theirs.intercept_ - theirs.intercept_.mean()),
        rtol=1e-3,
        atol=1e-4,
    )


def test_features_are_the_towers_own_before_they_are_scaled(frozen, splits):
    found = probes.features(frozen, splits[0])
    assert found.shape == (48, 64)
    assert not torch.allclose(found.norm(dim=1), torch.ones(48))
    scores = frozen.scale * torch.nn.functional.normalize(found, dim=1) @ frozen.class_embeddings.T
    with torch.no_grad():
        torch.testing.assert_close(scores, frozen(frozen.normalise(splits[0].images)))


def test_validation_picks_the_penalty_and_of_equals_the_largest(frozen, splits):
    train, val = splits
    found = probes.linear_probe(frozen, train, val)
    inputs, shown = probes.features(frozen, train), probes.features(frozen, val)
    accuracies = {}
    for penalty in probes.PENALTIES:
        probe = probes.fit_probe(inputs, train.labels, 24, penalty)
        accuracies[penalty] = probes.accuracy_of(probe, shown, val.labels)
    best = max(accuracies.values())
    assert found.val_accuracy == found.accuracy(val) == best > min(accuracies.values())
    assert found.picked == f"penalty={max(p for p, accuracy in accuracies.items() if accuracy == best):g}"


# --- Full fine-tuning ------------------------------------------------------------------------------------------


def test_fine_tuning_changes_its_copy_and_not_a_bit_of_the_frozen_classifier(frozen, splits):
    before = weights_of(frozen)
    found = tuned(frozen, *splits)
    assert same(weights_of(frozen), before)
    assert not any(p.requires_grad or p.grad is not None for p in frozen.parameters())
    after = weights_of(classifier_of(frozen, found))
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {k for k in before if k.startswith("network.")}  # class embeddings and scale are kept


def test_fine_tuning_is_the_same_for_a_seed_and_another_for_another(frozen, splits):
    first, again, other = (tuned(frozen, *splits, seed=s).tensors for s in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


def test_fine_tuning_ends_with_the_weights_of_the_epoch_that_validation_picked(frozen, splits, monkeypatch):
    seen, accuracies = [], iter([0.5, 0.75, 0.25])

    def told(classifier, method, split):
        assert method is None
        assert split is splits[1]
        seen.append(weights_of(classifier))
        return Evaluation(next(accuracies))

    monkeypatch.setattr(fine_tuning, "evaluate", told)
    found = tuned(frozen, *splits, Recipe(epochs=3, batch_size=16))
    assert (found.best_epoch, found.val_accuracy, found.picked) == (1, 0.75, "learning_rate=0.003")
    assert same(weights_of(classifier_of(frozen, found)), seen[1])
    assert not same(seen[1], seen[2])


def test_fine_tuning_learns(frozen, splits):
    train, _ = splits
    found = tuned(frozen, train, train, Recipe(epochs=8, batch_size=16))
    assert found.accuracy(train) > evaluate(frozen, None, train).accuracy + 0.2


def test_what_is_not_finite_stops_before_the_step_and_says_where(frozen, splits):
    broken = copy.deepcopy(frozen)
    broken.scale.fill_(float("nan"))
    with pytest.raises(
        TrainingDiverged, match=r"at step 0 \(epoch 1, images \[.*lower learning_rate, which is 0.003"
    ):
        tuned(broken, *splits)


def test_fine_tuning_of_a_network_with_classes_of_its_own_starts_from_its_mapping_and_keeps_it():
    images = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
    images[::2] = 255
    train = Split(images, None, torch.arange(12) % 2)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[4] += 1  # bright pictures look like class 4, dark ones like class 2
        network[1].bias.copy_(torch.tensor([0.0, 0, 1, 0, 0]))
    classifier = MappedClassifier(network, "frequency", class_names=["bright", "dark"], image_px=8)
    found = tuned(classifier, train, train)
    assert classifier.mapping_index() == [0, 1]
    assert found.tensors["index"].tolist() == [4, 2]
    assert found.accuracy(train) == 1


# --- Runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "count"), [("linear-probe", 64 * 24 + 24), ("fine-tune", 219_840)])
def test_a_run_writes_its_result_last_and_is_not_repeated(tmp_path, monkeypatch, method, count):
    wanted = tiny(method)
    result = experiment.run(wanted, tmp_path)
    folder = wanted.folder(tmp_path)
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["parameters"] == count
    assert 0 <= result["test_accuracy"] <= 1
    assert json.loads((folder / "timing.json").read_text())["seconds"] > 0
    monkeypatch.setattr(experiment, "linear_probe", None)
    monkeypatch.setattr(experiment, "fine_tune", None)
    assert experiment.run(wanted, tmp_path) == result


def test_a_finished_fine_tuning_is_restored_and_nothing_else(tmp_path, frozen, splits):
    wanted, probe = tiny("fine-tune", epochs=2), tiny("linear-probe")
    folder = wanted.folder(tmp_path)
    with pytest.raises(SettingError, match=r"there is no finished fine-tuning in .*: run it first"):
        fine_tuning.restore(folder, frozen)
    result = experiment.run(wanted, tmp_path)
    trained = tuned(frozen, *splits)
    before = weights_of(frozen)
    restored = fine_tuning.restore(folder, frozen)
    assert same(weights_of(restored), weights_of(classifier_of(frozen, trained)))
    assert same(weights_of(frozen), before)
    test = datasets.load_split("letters", "test")
    assert evaluate(restored, None, test).accuracy == result["test_accuracy"]
    experiment.run(probe, tmp_path)
    with pytest.raises(SettingError, match=r"is no fine-tuning, but: .*linear-probe"):
        fine_tuning.restore(probe.folder(tmp_path), frozen)
    file = folder / FILE
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cannot be used"):
        fine_tuning.restore(folder, frozen)


def test_the_key_holds_what_a_baseline_depends_on_and_no_more():
    def keys(method, **changes):
        return {tiny(method).key(), *(tiny(method, **{name: value}).key() for name, value in changes.items())}

    assert (
        len(keys("fine-tune", learning_rate=1e-4, weight_decay=0.1, epochs=4, seed=1, dataset="textures"))
        == 6
    )
    assert len(keys("fine-tune", prompt_px=4, region_px=14, prompt_lr=1.0, temperature_start=2.0)) == 1
    assert len(keys("linear-probe", pretrained="random", dataset="textures")) == 3
    assert len(keys("linear-probe", seed=1, epochs=4, learning_rate=1e-4, prompt_px=4)) == 1


# --- What ships ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    with (data_folder() / "results" / "baselines.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_rate_of_fine_tuning_is_near_the_best_of_the_search(shipped):
    """It was picked under the first small CLIP; docs/choices.md says what the present one would take."""
    found: dict[float, list[float]] = {}
    for row in shipped:
        if row["study"] == "search":
            rate = float(row["setting"].removeprefix("learning_rate="))
            found.setdefault(rate, []).append(float(row["val_accuracy"]))
    means = {rate: statistics.fmean(accuracies) for rate, accuracies in found.items()}
    assert max(means.values()) - means[Experiment().fine_tuning.learning_rate] < 0.02


def test_no_penalty_that_was_picked_lies_at_the_large_end_of_the_grid(shipped):
    picked = [float(r["setting"].removeprefix("penalty=")) for r in shipped if r["method"] == "linear-probe"]
    assert len(picked) == 4
    assert max(picked) < PENALTIES[0]
