import pytest

from adavipro import datasets, presets, studies

SEARCH = [
    {"prompt_px": str(px), "prompt_lr": str(rate), "val_accuracy": str(accuracy)}
    for px, rate, accuracy in [
        (1, 1.0, 0.5), (1, 1.0, 0.7), (1, 2.0, 0.61), (1, 2.0, 0.61), (8, 1.0, 0.2), (8, 2.0, 0.3), (15, 4.0, 0.4),
        (15, 1.0, 0.3), (23, 1.0, 0.5), (28, 1.0, 0.5),
    ]
]  # fmt: skip


def test_best_rate_of_each_width_is_that_of_the_best_mean_on_validation():
    assert studies.best_rates(SEARCH) == {1: 2.0, 8: 2.0, 15: 4.0, 23: 1.0, 28: 1.0}


def test_vp_tuned_for_each_width_differs_from_vp_in_its_rate_alone():
    runs = studies.runs_of("vp-tuned", [], SEARCH)
    assert len(runs) == len({run.key() for _, run in runs}) == 4 * 5 * len(studies.ABLATION_SEEDS)
    for rate, run in runs:
        cell = {"dataset": run.dataset, "prompt_px": run.prompt_px, "seed": run.seed}
        assert rate == studies.best_rates(SEARCH)[run.prompt_px]
        assert run == presets.preset("embedded", "vp", **cell, prompt_lr=rate)


@pytest.mark.parametrize("study", studies.ABLATIONS)
def test_ablation_changes_one_setting_and_has_the_recipes_own_value(study):
    runs = studies.runs_of(study, [], [])
    assert studies.own_value(study) in map(str, studies.ABLATIONS[study])
    assert len({run.key() for _, run in runs}) == len(runs)
    for value, run in runs:
        cell = {"dataset": run.dataset, "prompt_px": run.prompt_px, "seed": run.seed}
        assert run == presets.preset("embedded", "adavipro", **cell, **{study: value})


def test_random_masks_have_the_share_of_the_learned_ones_of_the_same_cell():
    main = [
        {"dataset": d, "method": m, "prompt_px": str(px), "seed": str(s), "share_on": share}
        for d in datasets.CLASS_NAMES
        for px in (8, 28)
        for s in presets.REPORT_SEEDS
        for m, share in (("vp", "1.0"), ("adavipro", "0.4567" if s else "0.999"))
    ]
    for share, run in studies.runs_of("random_share", main, []):
        assert share == run.random_share == (0.46 if run.seed else 0.99)
    one = [r for r in main if (r["dataset"], r["seed"]) == ("digits", "1")]
    assert [(run.dataset, run.seed) for _, run in studies.runs_of("random_share", one, [])] == [("digits", 1)]


@pytest.mark.parametrize("study", studies.SENSITIVITY)
def test_sensitivity_is_that_of_both_methods_at_full_cover(study):
    own = presets.preset("embedded", "adavipro")
    runs = studies.runs_of(study, [], [])
    cells = {(value, getattr(run, study), run.method, run.prompt_px) for value, run in runs}
    values = studies.SENSITIVITY[study]
    assert cells == {(v, v, m, 28) for v in values for m in ("vp", "adavipro")}
    assert {getattr(presets.preset("embedded", m), study) for m in ("vp", "adavipro")} == {values[0]}
    for _, run in runs:
        if run.method == "adavipro":  # the last epoch is as cold, whatever their number
            assert run.temperature_gamma**run.epochs == pytest.approx(
                own.temperature_gamma**own.epochs, rel=0.01
            )
