"""Settings that check themselves: a dataclass field with its range, and one sentence for what is wrong."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class SettingError(ValueError):
    """A setting has an unknown name, a wrong type or a value out of range."""


def setting(
    default: Any,
    doc: str,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    later: bool = False,
) -> Any:
    """Declare a dataclass field with its meaning and what it may be.

    Args:
        default: the value where none is given.
        doc: one sentence; shown by the command line.
        low, high: smallest and largest value.
        above: the value must be larger than this.
        choices: the values there are.
        later: came after results had shipped; at its default it is no part of `content`, so that these keep their keys.
    """
    rule = {"doc": doc, "low": low, "high": high, "above": above, "choices": choices, "later": later}
    return dataclasses.field(default=default, metadata=rule)


def _check_type(name: str, value: Any, annotation: Any) -> Any:
    optional = isinstance(annotation, types.UnionType)
    if optional and value is None:
        return None
    wanted = next(t for t in typing.get_args(annotation) if t is not type(None)) if optional else annotation
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        word = f"{wanted.__name__} or none" if optional else wanted.__name__
        hint = ""
        if wanted is float and isinstance(value, str):
            hint = " (YAML reads 1e-4 as text: write 1.0e-4)"
        raise SettingError(f"{name} is {value!r} of type {type(value).__name__}, but it must be {word}{hint}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{name} is {value}, but it must be a finite number")
    return value


def validate(settings: Any) -> None:
    """Check every field of a dataclass made with `setting`; whole numbers become floats where floats are due.

    Raises:
        SettingError: naming the field, its value and the rule.
    """
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        name, rule = field.name, field.metadata
        value = _check_type(name, getattr(settings, name), hints[name])
        object.__setattr__(settings, name, value)
        if value is None:
            continue
        if rule["choices"] and value not in rule["choices"]:
            raise SettingError(f"{name} is {value!r}, but it must be one of: {', '.join(rule['choices'])}")
        for key, holds, words in (
            ("low", lambda limit, v=value: v >= limit, "at least"),
            ("high", lambda limit, v=value: v <= limit, "at most"),
            ("above", lambda limit, v=value: v > limit, "above"),
        ):
            if rule[key] is not None and not holds(rule[key]):
                raise SettingError(f"{name} is {value!r}, but it must be {words} {rule[key]}")


def content(settings: Any) -> dict[str, Any]:
    """What settings say, by name: every field, less those that came later and have their default."""
    return {
        f.name: getattr(settings, f.name)
        for f in dataclasses.fields(settings)
        if not f.metadata["later"] or getattr(settings, f.name) != f.default
    }


def from_mapping(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a settings dataclass from names and values.

    Raises:
        SettingError: if a name is unknown; the message offers the nearest one.
    """
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the settings are: {', '.join(known)}"
            raise SettingError(f"there is no setting {name!r}: {hint}")
    return cls(**values)
