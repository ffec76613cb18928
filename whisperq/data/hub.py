"""Data sets of the `datasets` library: from the Hub, a local folder or parquet files.

Audio stays encoded (`{"bytes", "path"}` per row) and is decoded by `load_audio`:
`datasets` itself would ask for torchcodec, which needs a system FFmpeg.
"""

import hashlib
import json
import os
from typing import Any

from whisperq.config import Source
from whisperq.data.utterance import (
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    Utterance,
    gather,
    label_of,
    reason,
    text_of,
)
from whisperq.errors import InputError

SAVED_FILES = ("state.json", "dataset_dict.json")  # what `save_to_disk` leaves in a folder


def read_dataset(source: Source, skip_bad: bool) -> tuple[tuple[Utterance, ...], int, str]:
    """The utterances, the number of rows skipped, and a content hash; raises InputError."""
    title = source.dataset or source.path or ""
    rows = _undecoded(_load(title, source), title, source)
    utterances, bad = gather(title, len(rows), lambda i: _utterance(title, i, rows[i], source), source.limit, skip_bad)
    return utterances, bad, _content_hash(utterances)


def _load(title: str, source: Source) -> Any:
    """The one split that the source means, as a `datasets.Dataset`."""
    try:
        data = _open(title, source)
    except Exception as error:  # whatever the Hub, the cache or a reader can raise
        remedy = "check it" if source.path else "pass a local folder, or log in with `hf auth login`"
        raise InputError(f"The data set {title} cannot be loaded ({reason(error)}): {remedy}") from error
    if not isinstance(data, dict):
        return data
    split = source.split or (next(iter(data)) if len(data) == 1 else None)
    if split not in data:
        raise InputError(f"The data set {title} needs a split, one of {', '.join(data)}")
    return data[split]


def _open(title: str, source: Source) -> Any:
    import datasets  # takes a second; most lists need none of it

    if any(os.path.isfile(os.path.join(title, name)) for name in SAVED_FILES):
        return datasets.load_from_disk(title)
    if os.path.isfile(title):
        split = source.split or "train"
        return datasets.load_dataset("parquet", data_files={split: title}, split=split)
    if source.path:
        return datasets.load_dataset("parquet", data_dir=title, split=source.split)
    return datasets.load_dataset(title, source.config, split=source.split)


def _undecoded(data: Any, title: str, source: Source) -> Any:
    """The data set with encoded audio; raises InputError for columns it does not have."""
    import datasets

    chosen = (source.audio_column, source.text_column, source.id_column, source.speaker_column)
    for column in filter(None, chosen):
        if column not in data.column_names:
            there = ", ".join(data.column_names)
            raise InputError(f"The data set {title} has no column {column}, only {there}")
    try:
        return data.cast_column(source.audio_column, datasets.Audio(decode=False))
    except Exception as error:  # Arrow and datasets each have their own
        column = source.audio_column
        raise InputError(f"The column {column} of {title} holds no audio ({reason(error)})") from error


def _utterance(title: str, index: int, row: dict[str, Any], source: Source) -> Utterance:
    """Checks one row (counted from 0); raises InputError that names it."""
    audio = row[source.audio_column] or {}
    path, content = audio.get("path"), audio.get("bytes")
    where = f"{title} row {index}" + (f" ({path})" if path else "")
    if not content and not (path and os.path.isfile(path)):
        raise InputError(f"{where} has no audio")
    text_columns = (source.text_column,) if source.text_column else TEXT_COLUMNS
    speaker_columns = (source.speaker_column,) if source.speaker_column else SPEAKER_COLUMNS
    # Neither a column "id" nor the audio's path need be unique: in FLEURS an id is a
    # sentence that several people read.
    id_columns = (source.id_column,) if source.id_column else ()
    return Utterance(
        id=label_of(row, id_columns, where) or f"{index:06d}",
        audio=content or path,
        text=text_of(row, text_columns, where),
        duration=None,
        speaker=label_of(row, speaker_columns, where),
        origin=where,
    )


def _content_hash(utterances: tuple[Utterance, ...]) -> str:
    """SHA-256 over ids, texts and encoded audio: the same wherever the cache lies."""
    digest = hashlib.sha256()
    for utterance in utterances:
        audio = utterance.audio if isinstance(utterance.audio, bytes) else utterance.audio.encode()
        digest.update(json.dumps([utterance.id, utterance.text, len(audio)]).encode())
        digest.update(audio)
    return digest.hexdigest()
