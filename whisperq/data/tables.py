"""JSON lines and CSV files that name audio files.

A line has `audio_filepath` (or `file_name`), relative to the file's own folder;
`duration` and `offset` in seconds, a text, `id`, `speaker` and `label_wer` (a pseudo-label's
errors for each reference word) are optional and other keys are ignored. A line is checked once, in
one pass that keeps an index of it, and read again when its utterance is wanted.
"""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any
from unicodedata import normalize

from whisperq.config import Source
from whisperq.data.index import GrowingIndex, Index
from whisperq.data.lazy import Indexed
from whisperq.data.lines import Line, TableFile
from whisperq.data.retries import is_file
from whisperq.data.utterance import (
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    Utterance,
    first_value,
    label_of,
    no_usable_line,
    ratio_of,
    seconds_of,
    text_of,
)
from whisperq.data.utterance_ids import Names, default_id, left_out, without_second_uses
from whisperq.errors import InputError

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
FILE_COLUMNS = ("audio_filepath", "file_name")
DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class Table:
    """Turns the lines of a source into utterances."""

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
            raise InputError(f"{where}: a duration of 0 seconds leaves no audio")
        if self.text_column and self.text_column not in fields:
            raise InputError(f"{where} lacks {self.text_column}")
        name = label_of(fields, self.id_columns, where)
        return Utterance(
            id=name or ("" if naming is None else default_id(file, fields.get("offset"), naming)),
            audio=_place(self.folder, file),
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
        index = self.facts
        place, length, check = (int(column[number]) for column in (index.place, index.length, index.check))
        fields = self.table.file.again(place, length, check)
        return self.table.utterance(fields, int(index.line[number]), int(index.naming[number]))


def read_table(path: Path, source: Source, skip_bad: bool) -> tuple[TableLines, list[str], str]:
    """The utterances, the lines skipped, and the file's SHA-256; raises InputError.

    Audio files must exist. With `limit`, no line behind the first usable ones is checked.
    """
    _exists.cache_clear()
    table, digest = Table(path, source), hashlib.sha256()
    growing, names, bad = GrowingIndex(), Names(), []
    for line in table.file.lines(digest):
        names.see(str(first_value(line.fields, FILE_COLUMNS)))
        if source.limit is not None and len(growing) >= source.limit:
            continue
        try:
            utterance = _checked(table, line)
            growing.add(line[:4], utterance, utterance.duration, ratio_of(line.fields, "label_wer", utterance.origin))
            names.use(utterance.id, line.fields.get("offset"))
        except InputError:
            if not skip_bad:
                raise
            bad.append(f"{path} line {line.number}")
    naming, hashes = names.resolve()
    lines = TableLines(table, growing.finish(naming))
    kept = without_second_uses(lines, hashes, skip_bad)
    bad += [lines[row].origin for row in left_out(len(lines), kept)]
    if not len(kept):
        raise no_usable_line(str(path), len(bad))
    return TableLines(table, lines.facts.take(kept)), bad, digest.hexdigest()


def _checked(table: Table, line: Line) -> Utterance:
    if line.problem:
        raise InputError(f"{table.path} line {line.number} {line.problem}")
    utterance = table.utterance(line.fields, line.number, None)
    if isinstance(utterance.audio, str) and not _exists(utterance.audio):
        file = first_value(line.fields, FILE_COLUMNS)
        hint = "; it has a drive's letter: name it from the list's own folder" if DRIVE.match(file) else ""
        raise InputError(f"{utterance.origin} ({file}): the audio file {utterance.audio} does not exist{hint}")
    return utterance


def _place(folder: str, file: str) -> str:
    """A file's path; it may be written with Windows's separators, or with its accents in Unicode's other form."""
    place = os.path.join(folder, file)
    if (file.isascii() and "\\" not in file) or _exists(place):
        return place
    forms = (file.replace("\\", "/"), *(normalize(form, file) for form in ("NFC", "NFD")))
    others = (os.path.join(folder, form) for form in forms)
    return next(filter(_exists, others), place)


@lru_cache(maxsize=1024)  # segments of one recording follow each other
def _exists(file: str) -> bool:
    return is_file(file)
