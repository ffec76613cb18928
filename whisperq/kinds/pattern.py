"""Check a manifest against the type of its artifact's results, and fill in what a missing key stands for.

    class Clip(TypedDict):
        name: str                                    # text
        gain: float | None                           # a number; null where no finite one was found
        ends: tuple[float, float]                    # in JSON a list of two numbers
        size: Annotated[int, count(1)]               # with a check of its own
        tags: Annotated[list[str], Missing([])]      # earlier versions did not write it: stands for none

All keys are optional to the check, since earlier versions wrote fewer; reading a missing key that has no such value
raises an error (`schema.Fields`).
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from whisperq.schema import Check, count, each, either, items, maybe, number, one_of, record, row, switch, text

PLAIN: dict[Any, Check] = {str: text, bool: switch, int: count(), float: number()}


@dataclass(frozen=True, eq=False)
class Missing:
    """The value that a missing key stands for."""

    stands_for: Any


@cache
def fields(kind: Any) -> Mapping[str, Any]:
    """The type of each key, inherited ones too, with what is annotated."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: get_args(hint)[0] if get_origin(hint) is NotRequired else hint for name, hint in hints.items()}


@cache
def check_of(kind: Any) -> Check:
    """The check that a type stands for. Raises KeyError for a type that JSON does not have."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        return record({}, {name: check_of(hint) for name, hint in fields(kind).items()})
    if origin is Annotated:
        own = [extra for extra in kind.__metadata__ if not isinstance(extra, Missing)]
        return own[0] if own else check_of(kind.__origin__)
    if origin in (Union, UnionType):
        rest = [check_of(one) for one in inner if one is not NoneType]
        check = rest[0] if len(rest) == 1 else either(*rest)
        return maybe(check) if len(rest) < len(inner) else check
    if origin is Literal:
        return one_of(*inner)
    if origin is tuple:
        return row(*map(check_of, inner))
    if origin in (list, dict):
        return items(check_of(inner[0])) if origin is list else each(check_of(inner[1]))
    return PLAIN[kind]


def completed(kind: Any, value: Any) -> Any:
    """A checked value with all keys that stand for something; the value itself is left as it is."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return completed(kind.__origin__, value)
    if origin in (Union, UnionType):
        return value if value is None else completed(inner[0], value)
    if origin is list:
        return [completed(inner[0], one) for one in value]
    if origin is dict:
        return _with(value, {name: completed(inner[1], one) for name, one in value.items()})
    return _with(value, dict(_keys(kind, value))) if is_typeddict(kind) else value


def _keys(kind: Any, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, hint in fields(kind).items():
        if name in value:
            yield name, completed(hint, value[name])
            continue
        extras = hint.__metadata__ if get_origin(hint) is Annotated else ()
        if absent := next((extra for extra in extras if isinstance(extra, Missing)), None):
            yield name, copy.deepcopy(absent.stands_for)


def _with(value: Mapping[str, Any], keys: Mapping[str, Any]) -> Any:
    """A copy of the same type, which knows its file, with these keys too."""
    result: Any = copy.copy(value)
    result.update(keys)
    return result
