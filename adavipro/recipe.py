"""How to train: settings that check themselves, the recipe, and its schedules of learning rate and temperature."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class SettingError(ValueError):
    """A setting has an unknown name, a wrong type or a value out of range; the message is one sentence."""


def setting(default: Any, doc: str, **rule: Any) -> Any:
    """Declare a dataclass field with its meaning, one sentence that the command line shows, and what it may be.

    Args:
        rule: at least `low` and at most `high`, or larger than `above`; or one of `choices`.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, **rule})


class Settings:
    """A group of settings: a frozen dataclass of `setting` fields, checked when it is made.

    Raises:
        SettingError: naming the field, its value and the rule.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _checked(field.name, getattr(self, field.name), hints[field.name], field.metadata)
            object.__setattr__(self, field.name, value)


def _checked(name: str, value: Any, annotation: Any, rule: typing.Mapping[str, Any]) -> Any:
    """The value of a field if it is of the right type and in range; whole numbers become floats where these are due."""
    optional = isinstance(annotation, types.UnionType)
    if optional and value is None:
        return None
    wanted = next(t for t in typing.get_args(annotation) if t is not type(None)) if optional else annotation
    if wanted is float and type(value) is int:
        value = float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        word = f"{wanted.__name__} or none" if optional else wanted.__name__
        yaml = " (YAML reads 1e-4 as text: write 1.0e-4)" if (wanted, type(value)) == (float, str) else ""
        raise SettingError(f"{name} is {value!r} of type {type(value).__name__}, but it must be {word}{yaml}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{name} is {value}, but it must be a finite number")
    if rule.get("choices") and value not in rule["choices"]:
        raise SettingError(f"{name} is {value!r}, but it must be one of: {', '.join(rule['choices'])}")
    for words, limit, holds in (
        ("at least", rule.get("low"), lambda limit: value >= limit),
        ("at most", rule.get("high"), lambda limit: value <= limit),
        ("above", rule.get("above"), lambda limit: value > limit),
    ):
        if limit is not None and not holds(limit):
            raise SettingError(f"{name} is {value!r}, but it must be {words} {limit}")
    return value


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a SettingError where there is no setting of a name; the message offers the nearest one."""
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the settings are: {', '.join(known)}"
            raise SettingError(f"there is no setting {name!r}: {hint}")


@dataclass(frozen=True)
class Recipe(Settings):
    """How to train. The defaults are ours, found on validation in the small world; the paper's are in `experiment`."""

    epochs: int = setting(20, "passes over the training images (VP: 1000)", low=1)
    batch_size: int = setting(64, "images in a step (the paper: 256)", low=1)
    prompt_lr: float = setting(4.0, "learning rate of the template (the paper: 40)", low=0)
    generator_lr: float = setting(0.01, "learning rate of the mask generator (the paper: 1)", low=0)
    momentum: float = setting(0.9, "momentum of SGD for the template", low=0, high=0.9999)
    generator_momentum: float = setting(0.9, "momentum of SGD for the mask generator", low=0, high=0.9999)
    warmup_share: float | None = setting(0.05, "warm-up as a share of the run; none: by steps", low=0, high=1)
    warmup_steps: int | None = setting(None, "steps of warm-up, instead of a share (VP: 1000)", low=0)
    temperature_start: float = setting(5.0, "Gumbel-Softmax temperature of the first epoch", above=0)
    temperature_end: float | None = setting(
        0.1, "temperature of the last epoch: the fall is spread over the run; none: by a factor", above=0
    )
    temperature_gamma: float | None = setting(
        None, "its factor after each epoch, instead of an end (the paper: 0.98)", above=0, high=1
    )
    temperature_floor: float = setting(0.1, "least temperature where it falls by a factor", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_share is None and self.warmup_steps is None:
            raise SettingError("warmup_share and warmup_steps are both none: give one, 0 for no warm-up")
        if self.warmup_steps is not None:  # the one that was asked for counts
            object.__setattr__(self, "warmup_share", None)
        if self.temperature_end is None and self.temperature_gamma is None:
            raise SettingError("temperature_end and temperature_gamma are both none: give one")
        if self.temperature_gamma is not None:
            object.__setattr__(self, "temperature_end", None)
        name = "temperature_end" if self.temperature_gamma is None else "temperature_floor"
        if (value := getattr(self, name)) > self.temperature_start:
            told = (
                f"but a temperature falls, and temperature_start is {self.temperature_start}: lower the one"
            )
            raise SettingError(f"{name} is {value}, {told}, or raise the other")


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then cosine to 0, by step (VP's schedule). Returns the factor on the learning rate."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def temperature_at(epoch: int, recipe: Recipe) -> float:
    """Temperature of an epoch: spread from start to end, or start * gamma^epoch but never under the floor."""
    start, end, gamma = recipe.temperature_start, recipe.temperature_end, recipe.temperature_gamma
    if end is not None:
        return start * (end / start) ** (epoch / max(1, recipe.epochs - 1))
    assert gamma is not None  # the recipe has one of the two
    return max(recipe.temperature_floor, start * gamma**epoch)


def lengths(recipe: Recipe, images: int) -> tuple[int, int, int]:
    """Steps of an epoch over so many images (the last may have fewer), of the whole run, and of its warm-up.

    Raises:
        SettingError: if the run would never leave its warm-up.
    """
    an_epoch = math.ceil(images / recipe.batch_size)
    total, share = recipe.epochs * an_epoch, recipe.warmup_share
    warmup = recipe.warmup_steps if share is None else round(share * total)
    assert warmup is not None  # the recipe has one of the two
    if warmup >= total > 0:
        told = f"warm-up takes {warmup} steps, but the run has {total} and would never leave it"
        raise SettingError(f"{told}: lower warmup_steps, or give warmup_share")
    return an_epoch, total, warmup
