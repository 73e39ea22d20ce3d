"""Settings that check themselves, and the schedules of learning rate and temperature."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from adavipro.recipe import (
    Recipe,
    SettingError,
    Settings,
    check_names,
    learning_rate_factor,
    lengths,
    setting,
    temperature_at,
)

# --- Settings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example(Settings):
    count: int = setting(1, "a whole number", low=0, high=10)
    rate: float = setting(1.0, "a number", above=0)
    end: float | None = setting(None, "a number or none", low=1)
    name: str = setting("a", "one of two", choices=("a", "b"))
    switch: bool = setting(True, "on or off")


@pytest.mark.parametrize(
    "values",
    [
        {"count": 0, "rate": 1e-9, "end": 1, "name": "b", "switch": False},
        {"count": 10, "rate": 3, "end": None},
        {"rate": np.float64(0.5)},
    ],
)
def test_right_values_are_kept_and_whole_numbers_become_floats(values):
    made = Example(**values)
    for name, value in values.items():
        assert getattr(made, name) == value
    assert isinstance(made.rate, float)
    assert made.end is None or isinstance(made.end, float)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("count", 2.0, "must be int"),
        ("count", "2", "must be int"),
        ("count", True, "must be int"),
        ("count", None, "must be int"),
        ("count", -1, "at least 0"),
        ("count", 11, "at most 10"),
        ("rate", 0, "above 0"),
        ("rate", "1e-4", "must be float (YAML reads 1e-4 as text: write 1.0e-4)"),
        ("rate", float("nan"), "a finite number"),
        ("rate", float("inf"), "a finite number"),
        ("rate", False, "must be float"),
        ("rate", [1.0], "must be float"),
        ("end", 0.5, "at least 1"),
        ("end", "none", "must be float or none"),
        ("name", "c", "one of: a, b"),
        ("switch", 1, "must be bool"),
        ("switch", "true", "must be bool"),
    ],
)
def test_wrong_value_is_one_sentence_with_name_value_and_rule(name, value, rule):
    with pytest.raises(SettingError) as caught:
        Example(**{name: value})
    told = str(caught.value)
    assert told.startswith(f"{name} is ")
    assert str(value) in told
    assert rule in told
    assert "\n" not in told


def test_unknown_name_offers_the_nearest_or_all():
    check_names(["rate", "end"], ["count", "rate", "end"])
    with pytest.raises(SettingError, match=r"^there is no setting 'rates': did you mean 'rate'\?$"):
        check_names(["end", "rates"], ["count", "rate", "end"])
    with pytest.raises(SettingError, match=r"no setting 'xyz': the settings are: count, rate, end$"):
        check_names(["xyz"], ["count", "rate", "end"])


# --- Schedules ----------------------------------------------------------------------------------------------------


def vp_learning_rate(step: int, base: float, warmup: int, steps: int) -> float:
    """VP's published schedule."""
    if step < warmup:
        return base * (step + 1) / warmup
    e, es = step - warmup, steps - warmup
    return 0.5 * (1 + math.cos(math.pi * e / es)) * base


@pytest.mark.parametrize(("steps", "warmup"), [(12_000, 1000), (640, 32), (100, 99), (7, 0), (1, 0)])
def test_learning_rate_is_vps_at_every_step(steps, warmup):
    ours = [40 * learning_rate_factor(step, steps, warmup) for step in range(steps)]
    assert ours == pytest.approx([vp_learning_rate(step, 40, warmup, steps) for step in range(steps)])
    assert max(ours) == 40


def test_temperature_falls_by_a_factor_an_epoch_down_to_the_floor():
    ours = [temperature_at(epoch, Recipe(temperature_gamma=0.98)) for epoch in range(1000)]
    assert ours[:194] == pytest.approx([5 * 0.98**epoch for epoch in range(194)])
    assert ours[193] > 0.1
    assert set(ours[194:]) == {0.1}  # 5 x 0.98^194 is the first below it


def test_temperature_spread_over_the_run_goes_from_start_to_end_by_one_factor():
    recipe = Recipe(epochs=20, temperature_start=4, temperature_end=0.5)
    ours = [temperature_at(epoch, recipe) for epoch in range(20)]
    assert (ours[0], ours[-1]) == pytest.approx((4, 0.5))
    assert [b / a for a, b in pairwise(ours)] == pytest.approx([(1 / 8) ** (1 / 19)] * 19)


def test_spread_temperature_ends_under_the_floor_where_asked_and_a_run_of_one_epoch_keeps_its_start():
    assert temperature_at(9, Recipe(epochs=10, temperature_end=0.01)) == pytest.approx(0.01)
    assert temperature_at(0, Recipe(epochs=1, temperature_end=0.5)) == 5


def test_a_factor_is_instead_of_an_end_and_one_of_the_two_is_needed():
    assert Recipe(temperature_gamma=0.9).temperature_end is None
    with pytest.raises(SettingError, match="temperature_end and temperature_gamma are both none: give one"):
        Recipe(temperature_end=None)


@pytest.mark.parametrize(
    ("name", "other"), [("temperature_end", {}), ("temperature_floor", {"temperature_gamma": 0.98})]
)
def test_temperature_that_rises_is_refused(name, other):
    with pytest.raises(SettingError, match=rf"{name} is 6.0, but a temperature falls.* is 5.0: lower"):
        Recipe(**{name: 6}, **other)
    Recipe(temperature_start=0.05, temperature_end=0.01)  # the floor is not asked


@pytest.mark.parametrize(
    ("settings", "steps", "length"),
    [
        ({}, 640, 32),
        ({"warmup_steps": 1000}, 1001, 1000),
        ({"warmup_steps": 0}, 1, 0),
        ({"warmup_share": 0.1}, 640, 64),
        ({"warmup_share": 0.1, "warmup_steps": 7}, 640, 7),
        ({"warmup_share": 0.0}, 100, 0),
    ],
)
def test_warmup_is_a_share_of_the_run_or_the_steps_that_are_asked_for(settings, steps, length):
    assert lengths(Recipe(batch_size=1, epochs=1, **settings), steps) == (steps, steps, length)


@pytest.mark.parametrize("settings", [{"warmup_steps": 1000}, {"warmup_steps": 100}, {"warmup_share": 1}])
def test_run_that_would_never_leave_its_warmup_is_an_error(settings):
    with pytest.raises(SettingError, match=r"warm-up takes \d+ steps.* 100 .*warmup_share"):
        lengths(Recipe(batch_size=1, epochs=1, **settings), 100)


def test_no_warmup_has_to_be_said():
    with pytest.raises(
        SettingError, match=r"warmup_share and warmup_steps are both none: give one, 0 for no warm-up"
    ):
        Recipe(warmup_share=None)


def test_last_step_of_an_epoch_may_have_fewer_images():
    assert [lengths(Recipe(batch_size=16), n)[0] for n in (1, 16, 17, 40)] == [1, 1, 2, 3]


def test_lengths_are_steps_of_an_epoch_of_the_run_and_of_its_warmup():
    assert lengths(Recipe(batch_size=16, epochs=5, warmup_share=0.2), 40) == (3, 15, 3)
    with pytest.raises(SettingError, match="would never leave it"):
        lengths(Recipe(batch_size=16, epochs=5, warmup_steps=15), 40)
