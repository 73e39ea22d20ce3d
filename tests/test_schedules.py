import math
from itertools import pairwise

import pytest

from adavipro.schedules import Recipe, learning_rate_factor, temperature_at, warmup_length
from adavipro.settings import SettingError


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
    ours = [temperature_at(epoch, Recipe()) for epoch in range(1000)]
    assert ours[:194] == pytest.approx([5 * 0.98**epoch for epoch in range(194)])
    assert ours[193] > 0.1
    assert set(ours[194:]) == {0.1}  # 5 x 0.98^194 is the first below it


def test_temperature_spread_over_the_run_goes_from_start_to_end_by_one_factor():
    recipe = Recipe(epochs=20, temperature_start=4, temperature_end=0.5, temperature_gamma=0.1)
    ours = [temperature_at(epoch, recipe) for epoch in range(20)]
    assert (ours[0], ours[-1]) == pytest.approx((4, 0.5))
    assert [b / a for a, b in pairwise(ours)] == pytest.approx([(1 / 8) ** (1 / 19)] * 19)


def test_spread_temperature_keeps_the_floor_and_a_run_of_one_epoch_its_start():
    assert temperature_at(9, Recipe(epochs=10, temperature_end=0.01)) == 0.1
    assert temperature_at(0, Recipe(epochs=1, temperature_end=0.5)) == 5


@pytest.mark.parametrize(
    ("settings", "steps", "length"),
    [
        ({}, 1001, 1000),
        ({"warmup_steps": 0}, 1, 0),
        ({"warmup_share": 0.05}, 640, 32),
        ({"warmup_share": 0.05, "warmup_steps": 10_000}, 100, 5),
        ({"warmup_share": 0.0}, 100, 0),
    ],
)
def test_warmup_is_given_in_steps_or_as_a_share_of_the_run(settings, steps, length):
    assert warmup_length(Recipe(**settings), steps) == length


@pytest.mark.parametrize("settings", [{}, {"warmup_steps": 100}, {"warmup_share": 1}])
def test_run_that_would_never_leave_its_warmup_is_an_error(settings):
    with pytest.raises(SettingError, match=r"warm-up takes \d+ steps.* 100 .*warmup_share"):
        warmup_length(Recipe(**settings), 100)
