"""Data sets of the `datasets` library: from the Hub, a local folder or parquet files.

Audio stays encoded (`{"bytes", "path"}` per row) and is decoded by `load_audio`:
`datasets` itself would ask for torchcodec, which needs a system FFmpeg. Rows stay in memory-mapped Arrow
files; one pass checks and hashes them one by one, and later each is read when it is asked for.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np

from whisperq.config import Source
from whisperq.data.audio import audio_seconds
from whisperq.data.index import GrowingIndex, Index
from whisperq.data.lazy import Indexed
from whisperq.data.retries import is_file
from whisperq.data.utterance import (
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    Utterance,
    label_of,
    no_usable_line,
    ratio_of,
    reason,
    text_of,
)
from whisperq.data.utterance_ids import left_out, without_second_uses
from whisperq.errors import InputError

SAVED_FILES = ("state.json", "dataset_dict.json")  # what `save_to_disk` leaves in a folder


class DatasetRows(Indexed):
    """The usable rows of an Arrow table."""

    def __init__(self, data: Any, title: str, source: Source, index: Index) -> None:
        super().__init__(index)
        self.data, self.title, self.source = data, title, source

    def make(self, number: int) -> Utterance:
        row = int(self.facts.place[number])
        return row_utterance(self.title, row, self.data[row], self.source)


def read_dataset(source: Source, skip_bad: bool) -> tuple[DatasetRows, list[str], str]:
    """The utterances, the rows skipped, and a content hash; raises InputError.

    The SHA-256 goes over ids, texts and encoded audio of the usable rows: the same wherever the cache lies, which
    the library's own fingerprint is not. It costs one reading of the data, an hour for a terabyte.
    """
    title = source.dataset or source.path or ""
    data = undecoded(load(title, source), title, source)
    growing, names, bad, digest = GrowingIndex(), [], [], hashlib.sha256()
    for number, row in enumerate(data):
        if source.limit is not None and len(growing) >= source.limit:
            break
        try:
            utterance = row_utterance(title, number, row, source)
            label_wer = ratio_of(row, "label_wer", utterance.origin)
        except InputError:
            if not skip_bad:
                raise
            bad.append(f"{title} row {number}")
            continue
        growing.add((number, 0, 0, 0), utterance, _seconds(utterance), label_wer)
        names.append(hash(utterance.id))
        _hash(digest, utterance)
    rows, hashes = DatasetRows(data, title, source, growing.finish()), np.array(names, np.int64)
    kept = without_second_uses(rows, hashes, skip_bad)
    bad += [rows[row].origin for row in left_out(len(rows), kept)]
    if not len(kept):
        raise no_usable_line(title, len(bad))
    return DatasetRows(data, title, source, rows.facts.take(kept)), bad, digest.hexdigest()


def _seconds(utterance: Utterance) -> float | None:
    """Seconds from the audio's header; None for unreadable audio, which is reported when it is loaded."""
    try:
        return audio_seconds(utterance)
    except InputError:
        return None


def _hash(digest: Any, utterance: Utterance) -> None:
    audio = utterance.audio if isinstance(utterance.audio, bytes) else os.fsencode(utterance.audio)
    digest.update(json.dumps([utterance.id, utterance.text, len(audio)]).encode())
    digest.update(audio)


def load(title: str, source: Source, streaming: bool = False) -> Any:
    """The one split that the source means, as a `datasets.Dataset`, or streaming as an `IterableDataset`."""
    try:
        data = _open(title, source, streaming)
    except Exception as error:  # whatever the Hub, the cache or a reader can raise
        remedy = "check it" if source.path else "pass a local folder, or log in with `hf auth login`"
        licence = f"; of its licence the configuration says: {source.licence}" if source.licence else ""
        raise InputError(f"The data set {title} cannot be loaded ({reason(error)}): {remedy}{licence}") from error
    if not isinstance(data, dict):
        return data
    split = source.split or (next(iter(data)) if len(data) == 1 else None)
    if split not in data:
        raise InputError(f"The data set {title} needs a split, one of {', '.join(data)}")
    return data[split]


def _open(title: str, source: Source, streaming: bool) -> Any:
    import datasets  # takes a second; most lists need none of it

    if any(os.path.isfile(os.path.join(title, name)) for name in SAVED_FILES):
        return datasets.load_from_disk(title)  # memory-mapped, and so as good as a stream
    if os.path.isfile(title):
        split = source.split or "train"
        return datasets.load_dataset("parquet", data_files={split: title}, split=split, streaming=streaming)
    if source.path:
        return datasets.load_dataset("parquet", data_dir=title, split=source.split, streaming=streaming)
    return datasets.load_dataset(title, source.config, split=source.split, streaming=streaming)


def undecoded(data: Any, title: str, source: Source) -> Any:
    """The data set with encoded audio; raises InputError for columns it does not have."""
    import datasets

    chosen = (source.audio_column, source.text_column, source.id_column, source.speaker_column)
    for column in filter(None, chosen):
        if data.column_names is not None and column not in data.column_names:
            there = ", ".join(data.column_names)
            raise InputError(f"The data set {title} has no column {column}, only {there}")
    try:
        return data.cast_column(source.audio_column, datasets.Audio(decode=False))
    except Exception as error:  # Arrow and datasets each have their own
        column = source.audio_column
        raise InputError(f"The column {column} of {title} holds no audio ({reason(error)})") from error


def row_utterance(title: str, index: int, row: dict[str, Any], source: Source) -> Utterance:
    """Checks one row (counted from 0); raises InputError that names it."""
    audio = row[source.audio_column] or {}
    path, content = audio.get("path"), audio.get("bytes")
    where = f"{title} row {index}" + (f" ({path})" if path else "")
    sound = content or (path if path and is_file(path) else None)
    if not sound:
        raise InputError(f"{where} has no audio")
    text_columns = (source.text_column,) if source.text_column else TEXT_COLUMNS
    speaker_columns = (source.speaker_column,) if source.speaker_column else SPEAKER_COLUMNS
    # Neither a column "id" nor the audio's path need be unique: in FLEURS an id is a
    # sentence that several people read.
    id_columns = (source.id_column,) if source.id_column else ()
    return Utterance(
        id=label_of(row, id_columns, where) or f"{index:06d}",
        audio=sound,
        text=text_of(row, text_columns, where),
        duration=None,
        speaker=label_of(row, speaker_columns, where),
        origin=where,
    )
