import copy
import csv
import dataclasses
import json
import statistics

import pytest
import torch
from helpers import small_splits
from sklearn.linear_model import LogisticRegression

from adavipro import baselines, configuration, datasets, effects, experiment, figures, presets, probes, tables
from adavipro.baselines import LEARNING_RATES, Baseline
from adavipro.cli import main
from adavipro.probes import PENALTIES
from adavipro.settings import SettingError
from adavipro.training import TrainingDiverged


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(probes, "PENALTIES", (1.0, 0.1, 0.01))
    with small_splits():
        yield


def tiny(method="fine-tune", **changes):
    return Baseline(**{"dataset": "letters", "method": method, "epochs": 2, "batch_size": 16, **changes})


@pytest.fixture(scope="module")
def frozen():
    return experiment.load_classifier(tiny().frozen())


@pytest.fixture
def splits():
    return datasets.load_split("letters", "train"), datasets.load_split("letters", "val")


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
    ours = probes.fit_probe(inputs, labels, 3, penalty)
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


def test_probe_leaves_torchs_own_randomness_alone():
    before = torch.get_rng_state()
    probes.fit_probe(*gaussians(), 3, 0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_features_are_the_towers_own_before_they_are_scaled(frozen, splits):
    found = probes.features(frozen, splits[0])
    assert found.shape == (48, 64)
    assert not torch.allclose(found.norm(dim=1), torch.ones(48))
    scores = frozen.scale * torch.nn.functional.normalize(found, dim=1) @ frozen.class_embeddings.T
    with torch.no_grad():
        torch.testing.assert_close(scores, frozen(frozen.normalise(splits[0].images)))


def test_validation_picks_the_penalty_and_of_equals_the_largest(frozen, splits):
    train, val = splits
    picked = probes.linear_probe(frozen, train, val)
    inputs, shown = probes.features(frozen, train), probes.features(frozen, val)
    accuracies = {}
    for penalty in probes.PENALTIES:
        probe = probes.fit_probe(inputs, train.labels, 24, penalty)
        accuracies[penalty] = probes.accuracy_of(probe, shown, val.labels)
    best = max(accuracies.values())
    assert picked.val_accuracy == best > min(accuracies.values())
    assert picked.penalty == max(p for p, accuracy in accuracies.items() if accuracy == best)


# --- Full fine-tuning ------------------------------------------------------------------------------------------


def test_fine_tuning_changes_its_copy_and_not_a_bit_of_the_frozen_classifier(frozen, splits):
    before = weights_of(frozen)
    tuned = baselines.fine_tune(frozen, *splits, tiny())
    assert same(weights_of(frozen), before)
    assert not any(p.requires_grad or p.grad is not None for p in frozen.parameters())
    after = weights_of(tuned.classifier)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {k for k in before if k.startswith("visual.")}  # class embeddings and scale are kept
    assert not any(p.requires_grad for p in tuned.classifier.parameters())


def test_fine_tuning_is_the_same_for_a_seed_and_another_for_another(frozen, splits):
    first, again, other = (
        weights_of(baselines.fine_tune(frozen, *splits, tiny(seed=s)).classifier) for s in (0, 0, 1)
    )
    assert same(first, again)
    assert not same(first, other)


def test_fine_tuning_ends_with_the_weights_of_the_epoch_that_validation_picked(frozen, splits, monkeypatch):
    seen, accuracies = [], iter([0.5, 0.75, 0.25])

    def evaluate(classifier, method, split):
        assert method is None
        assert split is splits[1]
        seen.append(weights_of(classifier))
        return dataclasses.replace(experiment.Evaluation(0.0), accuracy=next(accuracies))

    monkeypatch.setattr(baselines, "evaluate", evaluate)
    tuned = baselines.fine_tune(frozen, *splits, tiny(epochs=3))
    assert (tuned.best_epoch, tuned.val_accuracy) == (1, 0.75)
    assert same(weights_of(tuned.classifier), seen[1])
    assert not same(seen[1], seen[2])


def test_fine_tuning_learns(frozen, splits):
    train, _ = splits
    before = experiment.evaluate(frozen, None, train).accuracy
    tuned = baselines.fine_tune(frozen, train, train, tiny(epochs=8))
    assert experiment.evaluate(tuned.classifier, None, train).accuracy > before + 0.2


def test_what_is_not_finite_stops_before_the_step_and_says_where(frozen, splits):
    broken = copy.deepcopy(frozen)
    broken.scale.fill_(float("nan"))
    with pytest.raises(
        TrainingDiverged, match=r"at step 0 \(epoch 0, images \[.*lower learning_rate, which is 0.003"
    ):
        baselines.fine_tune(broken, *splits, tiny())


# --- Runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", baselines.METHODS)
def test_a_run_writes_its_row_last_and_is_not_repeated(tmp_path, monkeypatch, method):
    wanted = tiny(method)
    row = baselines.run(wanted, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder == wanted.folder(tmp_path)
    assert json.loads((folder / "result.json").read_text()) == row
    assert row["parameters"] == {"linear-probe": 64 * 24 + 24, "fine-tune": 219840}[method]
    assert row["study"] == "main"
    assert 0 <= row["test_accuracy"] <= 1
    monkeypatch.setattr(probes, "linear_probe", None)
    monkeypatch.setattr(baselines, "fine_tune", None)
    assert baselines.run(wanted, tmp_path) == row


def test_a_finished_fine_tuning_is_restored_and_nothing_else(tmp_path, frozen, splits):
    wanted = tiny()
    with pytest.raises(SettingError, match=r"there is no finished fine-tuning in .*: run it first"):
        baselines.restore(wanted, tmp_path)
    baselines.run(wanted, tmp_path)
    trained = baselines.fine_tune(frozen, *splits, wanted).classifier
    assert same(weights_of(baselines.restore(wanted, tmp_path)), weights_of(trained))
    baselines.run(tiny("linear-probe"), tmp_path)
    with pytest.raises(SettingError, match="no finished fine-tuning"):
        baselines.restore(tiny("linear-probe"), tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"key": "another"}', '{"study": '])
def test_a_result_that_is_damaged_or_of_another_run_is_made_anew(tmp_path, content):
    wanted = tiny("linear-probe")
    row = baselines.run(wanted, tmp_path)
    path = wanted.folder(tmp_path) / "result.json"
    path.write_text(content)
    again = baselines.run(wanted, tmp_path)
    measured = {"seconds": 0, "memory_mb": 0}  # what it took is measured anew
    assert {**again, **measured} == {**row, **measured}
    assert json.loads(path.read_text()) == again


def test_the_key_changes_with_settings_weights_and_data(monkeypatch):
    keys = {tiny().key(), tiny(seed=1).key(), tiny(learning_rate=1e-4).key(), tiny("linear-probe").key()}
    monkeypatch.setattr(datasets, "VERSION", datasets.VERSION + 1)
    keys.add(tiny().key())
    monkeypatch.setattr(configuration, "weights_sha256", lambda model: "other weights")
    keys.add(tiny().key())
    assert len(keys) == 6


@pytest.mark.parametrize("method", baselines.METHODS)
def test_a_seed_of_the_search_never_sees_the_test_split(tmp_path, monkeypatch, method):
    load = datasets.load_split
    seen = []

    def watched(name, split, *size):
        seen.append(split)
        return load(name, split, *size)

    monkeypatch.setattr(datasets, "load_split", watched)
    row = baselines.run(tiny(method, seed=presets.SEARCH_SEEDS[0]), tmp_path)
    assert row["test_accuracy"] is None
    assert row["study"] == "search"
    assert set(seen) == {"train", "val"}
    baselines.run(tiny(method), tmp_path)
    assert seen.count("test") == 1
    assert seen[-1] == "test"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"method": "lora"}, "method is 'lora', but it must be one of: linear-probe, fine-tune"),
        ({"dataset": "cifar11"}, "dataset is 'cifar11'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, but it must be above 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
    ],
)
def test_a_wrong_setting_is_refused_with_one_sentence(change, told):
    with pytest.raises(SettingError, match=told):
        tiny(**change)


def test_command_writes_the_rows_in_order_and_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    wanted = [tiny("linear-probe"), tiny("linear-probe", dataset="textures")]
    rows = [baselines.run(run, tmp_path) for run in wanted]
    monkeypatch.setattr(baselines, "runs_of_results", lambda: wanted)
    out = tmp_path / "made" / "baselines.csv"
    main(["baselines", "--root", str(tmp_path), "--workers", "1", "--out", str(out)])
    assert capsys.readouterr().out == f"{out}\n"
    with out.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert found == [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]


# --- What ships ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return tables.read_rows(tables.BASELINES)


def test_shipped_results_hold_every_run_under_todays_settings_and_weights(shipped):
    assert [r["key"] for r in shipped] == [run.key() for run in baselines.runs_of_results()]


def test_the_rate_of_fine_tuning_is_the_best_of_the_search_and_none_at_its_ends(shipped):
    means = {
        rate: statistics.fmean(
            float(r["val_accuracy"])
            for r in shipped
            if r["study"] == "search" and r["setting"] == f"learning_rate={rate:g}"
        )
        for rate in LEARNING_RATES
    }
    best = max(means, key=means.__getitem__)
    assert Baseline().learning_rate == best
    assert LEARNING_RATES[0] < best < LEARNING_RATES[-1]


def test_no_penalty_that_was_picked_lies_at_an_end_of_the_grid(shipped):
    picked = [float(r["setting"].removeprefix("penalty=")) for r in shipped if r["method"] == "linear-probe"]
    assert len(picked) == len(datasets.CLASS_NAMES)
    assert PENALTIES[-1] < min(picked)
    assert max(picked) < PENALTIES[0]


def test_price_table_counts_what_the_modules_hold():
    lines = {line["method"]: line for line in effects.price_table(tables.read_results())}
    counts = {name: line["parameters at the paper's sizes"] for name, line in lines.items()}
    assert counts == {
        "zero-shot": "0",
        "linear probe": "5,130 to 203,661",
        "full fine-tuning": "87,849,216",
        "VP": "69,840",
        "AdaViPro": "202,706",  # 69,840 + 132,866
    }
    # 65 K for 10 to 30 classes; a frame of 8 px of 56; with 2 x (16 x 64 + 1) + 16 x 28 of the mask generator
    here = {name: line["parameters"] for name, line in lines.items()}
    assert here == {
        "zero-shot": "0",
        "linear probe": "650 to 1,950",
        "full fine-tuning": "219,840",
        "VP": "4,608",
        "AdaViPro": "7,106",
    }
    assert {name: line["published"] for name, line in lines.items() if line["published"]} == {
        "VP": "0.07 M",
        "AdaViPro": "VP's + 0.13 M",
    }


def test_table_1_stands_beside_the_matrix_of_widths():
    lines = effects.main_table(tables.read_results())
    assert [line["method"] for line in lines] == list(tables.TABLE_1.values())
    assert list(lines[0]) == ["method", *sorted(datasets.CLASS_NAMES), "mean"]
    assert all(cell for line in lines for cell in line.values())
    matrix = tables.accuracy_matrix(tables.of_studies(tables.read_results(), "main"))
    for line in matrix:
        if line["method"] != "zero-shot":
            title = tables.TABLE_1[line["method"]]
            (row,) = (r for r in lines if r["method"] == title)
            assert row[line["dataset"]] == line["8 px"]


def test_price_figure_has_a_panel_a_data_set_and_every_method_at_its_count(shipped):
    rows = effects.with_baselines(tables.read_results())
    drawn = figures.price_figure(rows)
    names = [axes.get_title() for axes in drawn.axes]
    assert names == [*sorted(datasets.CLASS_NAMES), "mean"]
    heights = {
        (r["dataset"], r["method"]): float(r["mean"]) for r in tables.summarise(tables.with_mean(rows))
    }
    for axes, classes in zip(drawn.axes, (10, 24, 30, 12, 19), strict=True):  # 19: the mean of the four
        assert axes.get_xscale() == "log"
        points = {
            container.get_label(): container.lines[0].get_xydata()[0].tolist()
            for container in axes.containers
        }
        counts = {"linear-probe": 65 * classes, "fine-tune": 219840, "vp": 4608, "adavipro": 7106}
        assert points == {
            figures.STYLE[method]["label"]: [count, heights[axes.get_title(), method]]
            for method, count in counts.items()
        }
        (dotted,) = (line for line in axes.lines if line.get_label() == "zero-shot")
        assert dotted.get_ydata()[0] == heights[axes.get_title(), "zero-shot"]


@pytest.mark.parametrize("number", ["1", "3"])
def test_tables_1_and_3_are_printed(capsys, number):
    main(["table", number, "--world", "embedded"])
    assert capsys.readouterr().out == tables.to_markdown(effects.TABLES[number](tables.read_results()))


def test_data_that_change_while_a_baseline_learns_are_not_recorded(tmp_path, monkeypatch):
    keys = iter([*5 * ["before"], "after"])
    monkeypatch.setattr(Baseline, "key", lambda self: next(keys, "after"))
    with pytest.raises(SettingError, match=r"^letters changed while .* ran: run it again$"):
        baselines.run(tiny("linear-probe"), tmp_path)
    assert not list(tmp_path.rglob("result.json"))
