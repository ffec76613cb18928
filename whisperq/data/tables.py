"""JSON lines and CSV files that name audio files.

A line has `audio_filepath` (or `file_name`), relative to the file's own folder;
`duration` and `offset` in seconds, a text, `id` and `speaker` are optional and other
keys are ignored.
"""

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisperq.config import Source
from whisperq.data.utterance import (
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    Utterance,
    first_value,
    gather,
    label_of,
    reason,
    seconds_of,
    text_of,
)
from whisperq.errors import InputError

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
FILE_COLUMNS = ("audio_filepath", "file_name")


@dataclass(frozen=True)
class _Row:
    """One line as read: its fields, or what keeps it from having any."""

    origin: str
    fields: dict[str, Any]
    problem: str | None = None


def read_table(path: Path, source: Source, skip_bad: bool) -> tuple[tuple[Utterance, ...], int, str]:
    """The utterances, the number of lines skipped, and the file's SHA-256; raises InputError."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
        rows = list(_csv_rows(path, text) if path.suffix == ".csv" else _json_rows(path, text))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The utterance list {path} cannot be read ({reason(error)})") from error
    names = _default_ids(rows)
    utterances, bad = gather(
        str(path), len(rows), lambda i: _utterance(path, rows[i], names[i], source), source.limit, skip_bad
    )
    return utterances, bad, hashlib.sha256(content).hexdigest()


def _json_rows(path: Path, text: str) -> Iterator[_Row]:
    # Not splitlines(): it also breaks at U+2028, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        origin = f"{path} line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield _Row(origin, {}, f"is not JSON ({reason(error)})")
            continue
        if isinstance(fields, dict):
            yield _Row(origin, fields)
        else:
            yield _Row(origin, {}, "is not a JSON object")


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for fields in reader:
        yield _Row(f"{path} line {reader.line_num}", fields)


def _default_ids(rows: list[_Row]) -> list[str]:
    """The file's stem for each row, and no more than it takes to tell rows apart.

    Files of one stem in different folders keep their whole path; segments of one
    file get their offset in seconds behind it.
    """
    files = [str(first_value(row.fields, FILE_COLUMNS)) for row in rows]
    rows_of_file = Counter(files)
    files_of_stem = Counter(_stem(file) for file in rows_of_file)
    ids = []
    for row, file in zip(rows, files, strict=True):
        name = _stem(file) if files_of_stem[_stem(file)] == 1 else file
        shared = rows_of_file[file] > 1
        ids.append(f"{name}-{row.fields.get('offset') or 0}" if shared else name)
    return ids


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def _utterance(path: Path, row: _Row, default_id: str, source: Source) -> Utterance:
    """Checks one line; raises InputError that names the line and its file."""
    if row.problem:
        raise InputError(f"{row.origin} {row.problem}")
    file = first_value(row.fields, FILE_COLUMNS)
    if not isinstance(file, str) or not file:
        raise InputError(f"{row.origin} lacks {' or '.join(FILE_COLUMNS)}")
    where = f"{row.origin} ({file})"
    audio = os.path.join(path.parent, file)
    if not os.path.isfile(audio):
        raise InputError(f"{where}: the audio file {audio} does not exist")
    duration = seconds_of(row.fields, "duration", where)
    if duration == 0:
        raise InputError(f"{where}: a duration of 0 seconds leaves nothing to hear")
    if source.text_column and source.text_column not in row.fields:
        raise InputError(f"{where} lacks {source.text_column}")
    return Utterance(
        id=label_of(row.fields, (source.id_column or "id",), where) or default_id,
        audio=audio,
        text=text_of(row.fields, _text_columns(path, source), where),
        duration=duration,
        offset=seconds_of(row.fields, "offset", where) or 0.0,
        speaker=label_of(row.fields, _speaker_columns(source), where),
        origin=row.origin,
    )


def _text_columns(path: Path, source: Source) -> tuple[str, ...]:
    """Utterance lists say `text` and mean it; metadata comes in many words."""
    if source.text_column:
        return (source.text_column,)
    return TEXT_COLUMNS if path.suffix == ".csv" or path.name in METADATA_FILES else ("text",)


def _speaker_columns(source: Source) -> tuple[str, ...]:
    return (source.speaker_column,) if source.speaker_column else SPEAKER_COLUMNS
