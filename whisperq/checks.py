"""A setting's value against its field: its type, its choices, and the least and greatest value that make sense.

Flags, YAML and Python end here. `Settings` checks itself as it is made, so that no step sees a value that a flag
could not have:

    QuantizeConfig(weight_bits=99)     # UsageError: --weight-bits must be at most 8, not 99
"""

import math
import numbers
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from whisperq.errors import InputError, UsageError


@dataclass(frozen=True)
class Settings:
    """Dataclasses of `flags.option`s. Raises UsageError for a value that its field does not allow."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in fields(self):
            flag = f"--{f.name.replace('_', '-')}"
            try:
                value = converted(getattr(self, f.name), hints[f.name])
            except ValueError as error:
                raise UsageError(f"{flag} {error}") from None
            for one in listed(value):
                _check_limits(f, flag, one)
            object.__setattr__(self, f.name, value)  # a list as a tuple, 3 as 3.0: frozen from here on


def _check_limits(setting: Field, flag: str, value: Any) -> None:
    low, high = setting.metadata["low"], setting.metadata["high"]
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{flag} must be a finite number, not {value}")
    if value is None or isinstance(value, str):
        return
    if low is not None and value < low:
        raise UsageError(f"{flag} must be at least {low}, not {value}")
    if high is not None and value > high:
        raise UsageError(f"{flag} must be at most {high}, not {value}")


def typed(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """YAML's values as the dataclass's types: YAML reads 1e-4 as a string.

    Raises InputError, which begins with `where`.
    """
    hints, found = typing.get_type_hints(kind), {}
    for name, value in values.items():
        try:
            found[name] = converted(value, hints[name])
        except ValueError as error:
            raise InputError(f"{where}: {name} {error}") from None
    return found


def converted(value: Any, hint: Any) -> Any:
    """The value as its annotation's type. Raises ValueError with what follows a setting's name: "is 3, but must be"."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        words, hint = of_union(hint)
        if words:
            return value if value in words else _plain(value, hint, f", or {', '.join(words)}")
    if typing.get_origin(hint) is typing.Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"is {value!r}, but must be one of {', '.join(typing.get_args(hint))}")
        return value
    if typing.get_origin(hint) is tuple:
        one = typing.get_args(hint)[0]
        return tuple(converted(v, one) for v in (listed(value) if one is str else at_commas(value)))
    return _plain(value, hint)


def of_union(hint: Any) -> tuple[tuple[str, ...], Any]:
    """int | Literal["auto"] | None -> the words that stand beside a type, ("auto",), and that type, int."""
    kinds = [h for h in typing.get_args(hint) if h is not type(None)]
    literals = [h for h in kinds if typing.get_origin(h) is typing.Literal]
    if len(kinds) == 1:
        return (), kinds[0]
    return tuple(w for h in literals for w in typing.get_args(h)), next(h for h in kinds if h not in literals)


def _plain(value: Any, kind: type, instead: str = "") -> Any:
    """A text, a number or a switch; numbers as YAML and NumPy write them, paths as texts."""
    value = os.fspath(value) if kind is str and isinstance(value, os.PathLike) else value
    try:
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, str | numbers.Real):
            raise ValueError
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        return kind(float(value)) if kind is int else kind(value)
    except (ValueError, OverflowError):
        raise ValueError(f"is {value!r}, but must be of type {kind.__name__}{instead}") from None


def listed(value: Any) -> list[Any]:
    """A setting's values, where it may have several."""
    return list(value) if isinstance(value, list | tuple) else [value]


def at_commas(value: Any) -> list[Any]:
    """The values of a setting, text split at commas: "a, b" gives two."""
    return [part for v in listed(value) for part in (map(str.strip, v.split(",")) if isinstance(v, str) else [v])]
