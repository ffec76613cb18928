"""One recording with its reference, and the checks that every kind of list shares."""

import math
import reprlib
from collections.abc import Iterable
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


def second_use(utterance: Utterance, first: Utterance) -> str:
    """The sentence about an id that is there twice."""
    file = f" ({utterance.audio})" if isinstance(utterance.audio, str) else ""
    return f"{utterance.origin}{file}: the id {utterance.id} is already that of {first.origin}"


def first_value(fields: dict[str, Any], columns: Iterable[str]) -> Any:
    """The first of the columns that holds a value, else None."""
    for name in columns:  # a loop, because every line of a list comes here several times
        if (value := fields.get(name)) is not None:
            return value
    return None


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


def ratio_of(fields: dict[str, Any], column: str, where: str) -> float | None:
    """A finite number of at least zero, such as a word error rate; None where absent."""
    value = fields.get(column)
    if value is None or value == "":
        return None
    try:
        return seconds_of(fields, column, where)
    except InputError:
        raise InputError(f"{where}: the {column} {reprlib.repr(value)} is no number of at least 0") from None


def no_usable_line(title: str, bad: int) -> InputError:
    return InputError(f"{title} has no usable line" + (f" ({bad} skipped as bad)" if bad else ""))


def reason(error: BaseException) -> str:
    """A library's message cut down to fit inside a sentence of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".:")[:200]
