"""Reading what people have: utterance lists, folders with metadata, and data sets.

An utterance list is JSON lines with `audio_filepath`, `duration` (seconds) and
`text`; NeMo calls such a file a manifest. Whatever the form, one list of utterances
comes out of it, each line checked, and each error one sentence that says where; only a
streamed data set is checked as it is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whisperq.config import Source
from whisperq.data.hub import SAVED_FILES, read_dataset
from whisperq.data.streams import Streamed
from whisperq.data.tables import METADATA_FILES, read_table
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError

RECORDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm", ".wma")
SHOWN = 6  # lists that a sentence names
A_LIST = 'a file with a line {"audio_filepath": "..."} for each recording, and "text" in it where there is a reference'

__all__ = ["Source", "Utterance", "UtteranceList", "read"]


@dataclass(frozen=True)
class UtteranceList:
    """The usable utterances of a source, in its order; every id is there once."""

    source: Source
    utterances: Sequence[Utterance]  # each made when it is asked for
    skipped: Sequence[str]  # the origins of lines and rows that cannot be used
    sha256: str  # of the list or metadata file; for a data set of its ids, texts and audio

    @property
    def bad(self) -> int:
        return len(self.skipped)


def read(source: Source, skip_bad: bool = False) -> UtteranceList:
    """Reads a source; `skip_bad` counts unusable lines instead of stopping at the first.

    Audio files must exist; whether they decode is found out by `load_audio`.
    Raises InputError for the first unusable line (without `skip_bad`), and always
    for a source that cannot be read or holds no usable line.
    """
    if bool(source.path) == bool(source.dataset):
        raise InputError("A source needs a path or a data set, and not both")
    place = Path(source.path or source.dataset or "")
    if source.path and not place.exists():
        raise InputError(f"The utterance list {place} does not exist")
    table = _table(place, source)
    if source.streaming:
        if table:
            raise InputError(f"{place}: `streaming` is for data sets and parquet, lists are never read whole anyway")
        stream = Streamed(source)
        return UtteranceList(source, stream, (), stream.sha256)
    if table:
        return UtteranceList(source, *read_table(table, source, skip_bad))
    return UtteranceList(source, *read_dataset(source, skip_bad))


def _table(place: Path, source: Source) -> Path | None:
    """The JSON lines or CSV file to read, None for a data set."""
    for name in METADATA_FILES:
        # Also for `dataset`: without torchcodec, `datasets` cannot open an audio folder.
        if (place / name).is_file():
            return place / name
    if source.dataset or place.suffix == ".parquet":
        return None
    if not place.is_dir():
        if place.suffix.lower() in RECORDINGS:
            raise InputError(f"{place} is a recording, but a list of recordings is needed here: {A_LIST}")
        return place
    if any(place.rglob("*.parquet")) or any((place / name).is_file() for name in SAVED_FILES):
        return None
    raise InputError(
        f"The folder {place} holds neither {' nor '.join(METADATA_FILES)} nor parquet files{_instead(place)}"
    )


def _instead(folder: Path) -> str:
    """What can be named in the place of a folder that is no source: the lists in it, or one of its recordings."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if lists := [str(p) for p in files if p.suffix == ".jsonl"]:
        return f"; name one of its lists: {', '.join(lists[:SHOWN])}"
    recordings = sum(p.suffix.lower() in RECORDINGS for p in files)
    return f"; of its {recordings} recordings make a list: {A_LIST}" if recordings else ""
