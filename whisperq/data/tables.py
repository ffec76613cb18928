"""JSON lines and CSV files that name audio files.

A line has `audio_filepath` (or `file_name`), relative to the file's own folder;
`duration` and `offset` in seconds, a text, `id`, `speaker` and `label_wer` (a pseudo-label's
errors for each reference word) are optional and other keys are ignored. A line is checked once, in
one pass that keeps an index of it, and read again when its utterance is wanted.
"""

import hashlib
import os
from array import array
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from whisperq.config import Source
from whisperq.data.index import GrowingIndex, Index
from whisperq.data.lazy import Indexed
from whisperq.data.lines import Line, TableFile
from whisperq.data.utterance import (
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    Utterance,
    first_value,
    label_of,
    no_usable_line,
    ratio_of,
    second_use,
    seconds_of,
    text_of,
)
from whisperq.errors import InputError

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
FILE_COLUMNS = ("audio_filepath", "file_name")
# How a line without an id is called: its file's stem, and no more than it takes to tell lines apart.
WHOLE_PATH, WITH_OFFSET = 1, 2  # stems shared by several files; files shared by several lines


class Table:
    """How a source's lines become utterances."""

    def __init__(self, path: Path, source: Source) -> None:
        self.file = TableFile(path)
        self.path, self.folder = str(path), str(path.parent)
        # Utterance lists say `text` and mean it; metadata comes in many words.
        many = path.suffix == ".csv" or path.name in METADATA_FILES
        self.text_column = source.text_column
        self.text_columns = (source.text_column,) if source.text_column else TEXT_COLUMNS if many else ("text",)
        self.speaker_columns = (source.speaker_column,) if source.speaker_column else SPEAKER_COLUMNS
        self.id_columns = (source.id_column or "id",)

    def utterance(self, fields: dict[str, Any], number: int, naming: int | None) -> Utterance:
        """Checks the fields of line `number`; naming None: leaves an id that is not there empty. Raises InputError."""
        origin = f"{self.path} line {number}"
        file = first_value(fields, FILE_COLUMNS)
        if not isinstance(file, str) or not file:
            raise InputError(f"{origin} lacks {' or '.join(FILE_COLUMNS)}")
        where = f"{origin} ({file})"
        duration = seconds_of(fields, "duration", where)
        if duration == 0:
            raise InputError(f"{where}: a duration of 0 seconds leaves nothing to hear")
        if self.text_column and self.text_column not in fields:
            raise InputError(f"{where} lacks {self.text_column}")
        name = label_of(fields, self.id_columns, where)
        return Utterance(
            id=name or ("" if naming is None else default_id(file, fields, naming)),
            audio=os.path.join(self.folder, file),
            text=text_of(fields, self.text_columns, where),
            duration=duration,
            offset=seconds_of(fields, "offset", where) or 0.0,
            speaker=label_of(fields, self.speaker_columns, where),
            origin=origin,
        )


class TableLines(Indexed):
    """A table's usable lines."""

    def __init__(self, table: Table, index: Index) -> None:
        super().__init__(index)
        self.table = table

    def make(self, number: int) -> Utterance:
        index = self.index
        place, length, check = (int(column[number]) for column in (index.place, index.length, index.check))
        fields = self.table.file.again(place, length, check)
        return self.table.utterance(fields, int(index.line[number]), int(index.naming[number]))


def read_table(path: Path, source: Source, skip_bad: bool) -> tuple[TableLines, int, str]:
    """The utterances, the number of lines skipped, and the file's SHA-256; raises InputError.

    Audio files must exist. With `limit`, no line behind the first usable ones is checked.
    """
    _exists.cache_clear()
    table, digest = Table(path, source), hashlib.sha256()
    growing, names, bad = GrowingIndex(), Names(), 0
    for line in table.file.lines(digest):
        names.see(line.fields)
        if source.limit is not None and len(growing) >= source.limit:
            continue
        try:
            utterance = _checked(table, line)
            growing.add(line[:4], utterance, utterance.duration, ratio_of(line.fields, "label_wer", utterance.origin))
            names.use(utterance.id, line.fields)
        except InputError:
            if not skip_bad:
                raise
            bad += 1
    naming, hashes = names.resolve()
    lines = TableLines(table, growing.finish(naming))
    kept = without_second_uses(lines, hashes, skip_bad)
    bad += len(lines) - len(kept)
    if not len(kept):
        raise no_usable_line(str(path), bad)
    return TableLines(table, lines.index.take(kept)), bad, digest.hexdigest()


def _checked(table: Table, line: Line) -> Utterance:
    if line.problem:
        raise InputError(f"{table.path} line {line.number} {line.problem}")
    utterance = table.utterance(line.fields, line.number, None)
    if not _exists(utterance.audio):
        file = first_value(line.fields, FILE_COLUMNS)
        raise InputError(f"{utterance.origin} ({file}): the audio file {utterance.audio} does not exist")
    return utterance


@lru_cache(maxsize=1024)  # segments of one recording follow each other
def _exists(file: str) -> bool:
    return os.path.isfile(file)


def default_id(file: str, fields: dict[str, Any], naming: int) -> str:
    name = file if naming & WHOLE_PATH else _stem(file)
    return f"{name}-{fields.get('offset') or 0}" if naming & WITH_OFFSET else name


@lru_cache(maxsize=1024)
def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


class Names:
    """Which default ids the lines need, known only when all are seen: until then a hash of each that may be."""

    def __init__(self) -> None:
        self.files, self.stems = array("q"), array("q")  # of all lines, unusable ones too
        self.rows = array("q")  # of the usable ones among them
        self.candidates = [array("q") for _ in range(4)]  # by naming, as `default_id` makes them
        self.file = self.stem = ""

    def see(self, fields: dict[str, Any]) -> None:
        self.file = str(first_value(fields, FILE_COLUMNS))
        self.stem = _stem(self.file)
        self.files.append(hash(self.file))
        self.stems.append(hash(self.stem))

    def use(self, name: str, fields: dict[str, Any]) -> None:
        """The line seen last is usable; an empty name is to be the default."""
        self.rows.append(len(self.files) - 1)
        offset = fields.get("offset") or 0
        file, stem = self.file, self.stem
        names = [name] * 4 if name else [stem, file, f"{stem}-{offset}", f"{file}-{offset}"]
        for candidates, candidate in zip(self.candidates, names, strict=True):
            candidates.append(hash(candidate))

    def resolve(self) -> tuple[np.ndarray, np.ndarray]:
        """Each usable line's naming, and the hash of its id."""
        _, first, file, lines_of_file = np.unique(
            np.asarray(self.files), return_index=True, return_inverse=True, return_counts=True
        )
        _, stem, files_of_stem = np.unique(np.asarray(self.stems)[first], return_inverse=True, return_counts=True)
        rows = np.asarray(self.rows)
        naming_of_file = WHOLE_PATH * (files_of_stem[stem] > 1) + WITH_OFFSET * (lines_of_file > 1)
        naming = naming_of_file[file][rows].astype(np.uint8)
        return naming, np.choose(naming, [np.asarray(c) for c in self.candidates])


def without_second_uses(utterances: Indexed, hashes: np.ndarray, skip_bad: bool) -> np.ndarray:
    """The rows, in order, whose id no earlier row has; raises InputError for another, unless it may be skipped."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    rows = np.arange(len(hashes))
    second = []
    for row in np.flatnonzero(first[inverse] != rows).tolist():
        one, other = utterances[int(first[inverse[row]])], utterances[row]
        if one.id != other.id:  # their hashes alone are equal
            continue
        if not skip_bad:
            raise InputError(second_use(other, one))
        second.append(row)
    return np.delete(rows, second)
