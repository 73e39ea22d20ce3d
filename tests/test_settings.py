from dataclasses import dataclass, fields

import numpy as np
import pytest

from adavipro.experiment import Experiment
from adavipro.presets import preset
from adavipro.settings import SettingError, from_mapping, setting, validate


@dataclass(frozen=True)
class Example:
    count: int = setting(1, "a whole number", low=0, high=10)
    rate: float = setting(1.0, "a number", above=0)
    end: float | None = setting(None, "a number or none", low=1)
    name: str = setting("a", "one of two", choices=("a", "b"))
    switch: bool = setting(True, "on or off")

    def __post_init__(self):
        validate(self)


@pytest.mark.parametrize(
    "values",
    [
        {"count": 0, "rate": 1e-9, "end": 1, "name": "b", "switch": False},
        {"count": 10, "rate": 3, "end": None},
        {"rate": np.float64(0.5)},
    ],
)
def test_right_values_are_kept_and_whole_numbers_become_floats(values):
    made = from_mapping(Example, values)
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
        from_mapping(Example, {name: value})
    told = str(caught.value)
    assert told.startswith(f"{name} is ")
    assert str(value) in told
    assert rule in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("promt_px", "prompt_px"), ("prompt_size", "prompt_kind"), ("generator_learning_rate", "generator_lr")],
)
def test_unknown_name_offers_the_nearest(name, nearest):
    with pytest.raises(SettingError, match=f"no setting '{name}': did you mean '{nearest}'"):
        preset("embedded", "vp", **{name: 8})


def test_name_that_is_like_none_lists_all():
    with pytest.raises(SettingError) as caught:
        preset("embedded", "vp", xyz=8)
    assert all(f.name in str(caught.value) for f in fields(Experiment))
