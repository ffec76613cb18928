"""JSON files of ours, checked as they are read: a pattern says what a file holds; what differs is named by its field.

    CLIP = record({"name": text, "ends": items(number(), 2)}, {"gain": number(0.0)})
    read_json(path, CLIP)          # InputError: clip.json is damaged: ends.1 is "wide", but must be a number

A pattern is a function of a value and its place; it raises `Wrong`. Optional fields are those that earlier versions did
not write; further ones, which a later version may write, are let through where `record` is open.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from whisperq.errors import InputError

Check = Callable[[Any, str], None]
DEEPEST = 40  # levels of a file; ours have seven
FINITE = 3.0e38  # in float32


class Wrong(Exception):
    """A field that is not as its pattern says: the message names it."""


class Fields(dict[str, Any]):
    """A JSON object, and every one in it: a key that is not there is bad input, said with the file and the field."""

    def __init__(self, content: Mapping[str, Any], path: Path, place: str = "") -> None:
        super().__init__({k: _named(v, path, _inside(place, k)) for k, v in content.items()})
        self._path, self._place = path, place

    def __missing__(self, key: str) -> NoReturn:
        raise InputError(f"{self._path} is damaged: {_inside(self._place, key)} is missing; {REMEDY}")


REMEDY = "run the command that made it again with --force"


def _named(value: Any, path: Path, place: str) -> Any:
    if isinstance(value, dict):
        return Fields(value, path, place)
    return [_named(v, path, _inside(place, i)) for i, v in enumerate(value)] if isinstance(value, list) else value


def read_json(path: Path, check: Check, remedy: str = REMEDY) -> Any:
    """The content of a file, checked. Raises InputError with the file and, where one is wrong, the field."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        _check_depth(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged and cannot be read ({type(error).__name__}: {error}); {remedy}") from error
    try:
        check(content, "")
    except Wrong as wrong:
        raise InputError(f"{path} is damaged: {wrong}; {remedy}") from None
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number of JSON's")


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(DEEPEST):
        level = [inner for value in level for inner in _children(value)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def anything(value: Any, place: str) -> None:
    """Any JSON whose numbers are finite: 1e999 is read as infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        _fail(value, place, "a finite number")
    for key, inner in value.items() if isinstance(value, dict) else enumerate(_children(value)):
        anything(inner, _inside(place, key))


def text(value: Any, place: str) -> None:
    if not isinstance(value, str):
        _fail(value, place, "a text")


def switch(value: Any, place: str) -> None:
    if not isinstance(value, bool):
        _fail(value, place, "true or false")


def digest(value: Any, place: str) -> None:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        _fail(value, place, "a sha256 of 64 hexadecimal digits")


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """A finite number, both ends included."""

    def check(value: Any, place: str) -> None:
        good = isinstance(value, int | float) and not isinstance(value, bool) and -1e308 < value < 1e308
        if not good or not low <= value <= high:
            _fail(value, place, f"a number{_between(low, high)}")

    return check


def count(low: int = 0, high: float = math.inf) -> Check:
    """A whole number, both ends included."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= min(high, 2**63 - 1):
            _fail(value, place, f"a whole number{_between(low, high)}")

    return check


def ends(value: Any, place: str) -> None:
    """The lowest and the highest value of a range, finite in float32."""
    row(number(-FINITE, FINITE), number(-FINITE, FINITE))(value, place)
    if value[0] > value[1] or value[1] - value[0] > FINITE:
        raise Wrong(f"{place} is {value}, but must go from the lowest to the highest value")


def one_of(*values: Any) -> Check:
    def check(value: Any, place: str) -> None:
        if not any(value == known and type(value) is type(known) for known in values):
            _fail(value, place, " or ".join(map(json.dumps, values)))

    return check


def maybe(inner: Check) -> Check:
    """null, or what `inner` says."""
    return lambda value, place: None if value is None else inner(value, place)


def either(*patterns: Check) -> Check:
    """Check that accepts what any of the patterns accepts, else raises the first one's error."""

    def check(value: Any, place: str) -> None:
        complaints = []
        for pattern in patterns:
            try:
                return pattern(value, place)
            except Wrong as wrong:
                complaints.append(wrong)
        raise complaints[0]

    return check


def items(inner: Check, length: int | None = None) -> Check:
    def check(value: Any, place: str) -> None:
        if not isinstance(value, list) or length not in (None, len(value)):
            _fail(value, place, "a list" if length is None else f"a list of {length}")
        for i, one in enumerate(value):
            inner(one, _inside(place, i))

    return check


def row(*patterns: Check) -> Check:
    """A list of so many values, each with a pattern of its own."""

    def check(value: Any, place: str) -> None:
        items(lambda *_: None, len(patterns))(value, place)
        for i, (pattern, one) in enumerate(zip(patterns, value, strict=True)):
            pattern(one, _inside(place, i))

    return check


def each(inner: Check, key: Check = text) -> Check:
    """An object with any names."""

    def check(value: Any, place: str) -> None:
        record({})(value, place)
        for name, one in value.items():
            key(name, f"the name {json.dumps(name)} in {place}")
            inner(one, _inside(place, name))

    return check


def record(required: Mapping[str, Check], optional: Mapping[str, Check] = {}) -> Check:
    """An object with these fields; others may be there."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            _fail(value, place, "an object")
        for name in required:
            if name not in value:
                raise Wrong(f"{_inside(place, name)} is missing")
        for name, inner in {**required, **optional}.items():
            if name in value:
                inner(value[name], _inside(place, name))

    return check


def _fail(value: Any, place: str, wanted: str) -> NoReturn:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise Wrong(f"{place or 'all of it'} is {shown}, but must be {wanted}")


def _between(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    return f" of at least {low:g}" if math.isinf(high) else f" from {low:g} to {high:g}"


def _inside(place: str, name: str | int) -> str:
    return f"{place}.{name}" if place else str(name)
