"""One recording with its reference, and the checks that every kind of list shares."""

import math
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from whisperq.errors import InputError

# The order in which the Open ASR Leaderboard looks for a reference.
TEXT_COLUMNS = ("text", "sentence", "normalized_text", "transcript", "transcription")
SPEAKER_COLUMNS = ("speaker", "speaker_id")


@dataclass(frozen=True)
class Utterance:
    """One recording, or a segment of one, with its reference where there is one."""

    id: str
    audio: str | bytes  # a file's path, or an encoded file's content
    text: str | None
    duration: float | None  # seconds
    offset: float = 0.0  # seconds
    speaker: str | None = None
    origin: str = ""  # "dev.jsonl line 3": where to look when it turns out bad


def gather(
    title: str, count: int, build: Callable[[int], Utterance], limit: int | None, skip_bad: bool
) -> tuple[tuple[Utterance, ...], int]:
    """The first `limit` usable utterances out of `count` lines, and how many lines were skipped.

    `build` makes the utterance of one line or raises InputError. Raises InputError
    for a bad line or a second use of an id (without `skip_bad`) and for no usable line.
    """
    found: dict[str, Utterance] = {}
    bad = 0
    for index in range(count):
        if limit is not None and len(found) >= limit:
            break
        try:
            utterance = build(index)
            if utterance.id in found:
                raise InputError(_second_use(utterance, found[utterance.id]))
            found[utterance.id] = utterance
        except InputError:
            if not skip_bad:
                raise
            bad += 1
    if not found:
        raise InputError(f"{title} has no usable line" + (f" ({bad} skipped as bad)" if bad else ""))
    return tuple(found.values()), bad


def _second_use(utterance: Utterance, first: Utterance) -> str:
    file = f" ({utterance.audio})" if isinstance(utterance.audio, str) else ""
    return f"{utterance.origin}{file}: the id {utterance.id} is already that of {first.origin}"


def first_value(fields: dict[str, Any], columns: Iterable[str]) -> Any:
    """The first of the columns that holds a value, else None."""
    return next((fields[name] for name in columns if fields.get(name) is not None), None)


def text_of(fields: dict[str, Any], columns: Iterable[str], where: str) -> str | None:
    """The reference; None where there is none, "" where nothing is said."""
    text = first_value(fields, columns)
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: the text {reprlib.repr(text)} is no string")
    return text


def label_of(fields: dict[str, Any], columns: Iterable[str], where: str) -> str | None:
    """An id or a speaker, which some corpora write as a number."""
    value = first_value(fields, columns)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InputError(f"{where}: {reprlib.repr(value)} is neither a name nor a number")
    return str(value)


def seconds_of(fields: dict[str, Any], column: str, where: str) -> float | None:
    """A finite time of at least zero seconds, also from a CSV's string; None where absent."""
    value = fields.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise InputError(f"{where}: the {column} {reprlib.repr(value)} is no number of seconds")
    return seconds


def reason(error: BaseException) -> str:
    """A library's message cut down to fit inside a sentence of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".:")[:200]
