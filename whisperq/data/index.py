"""What is known of every utterance without holding it: a few numbers a line, so that a million lines stay small.

A line is read again, and its utterance made, when somebody asks for it (lazy.py).
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from whisperq.data.utterance import Utterance

UNKNOWN = -1


@dataclass(frozen=True)
class Index:
    """One array for each fact, all (utterances,): 45 bytes for an utterance."""

    place: np.ndarray  # int64, the byte where the line starts, or the row's number
    length: np.ndarray  # int32, bytes of the line
    line: np.ndarray  # int32, its number in the file, the first is 1
    check: np.ndarray  # uint32, CRC-32 of its bytes
    duration: np.ndarray  # float32, seconds; NaN: unknown
    offset: np.ndarray  # float32, seconds
    speaker: np.ndarray  # int32, numbered as they appear; UNKNOWN
    recording: np.ndarray  # int32, likewise: segments of one file share it
    label_wer: np.ndarray  # float32, errors for each reference word; NaN: unknown
    text_bytes: np.ndarray  # int32, of the reference in UTF-8; UNKNOWN: there is none
    naming: np.ndarray  # uint8, how a line without an id is called (utterance_ids.py)

    def __len__(self) -> int:
        return len(self.place)

    def take(self, rows: np.ndarray) -> "Index":
        """Some of the utterances, `rows` in order."""
        if len(rows) == len(self):
            return self
        return Index(*(getattr(self, f.name)[rows] for f in fields(Index)))

    @staticmethod
    def joined(parts: Sequence["Index"]) -> "Index":
        """Several as one; speakers and recordings of different parts stay different."""
        if len(parts) == 1:
            return parts[0]
        columns = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Index)}
        owner = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        for name in ("speaker", "recording"):
            sizes = [int(getattr(p, name).max(initial=-1)) + 1 for p in parts]
            shift = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
            columns[name] = np.where(columns[name] == UNKNOWN, UNKNOWN, columns[name] + shift[owner])
        return Index(**columns)


TYPES = {"place": "q", "length": "i", "line": "i", "check": "I", "duration": "f", "offset": "f"}
TYPES |= {"speaker": "i", "label_wer": "f", "text_bytes": "i"}


class GrowingIndex:
    """An index to which utterances are added one by one."""

    def __init__(self) -> None:
        self.columns: dict[str, array[Any]] = {name: array(code) for name, code in TYPES.items()}
        self.recordings = array("q")  # hashes; equality is all that is asked of them
        self._appends = [column.append for column in self.columns.values()]
        self._speakers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.recordings)

    def add(
        self, where: tuple[int, int, int, int], utterance: Utterance, duration: float | None, label_wer: float | None
    ) -> None:
        """Add an utterance; where: its place, length, line and check, as in `Index`."""
        speaker = utterance.speaker
        text = utterance.text
        values = (
            *where,
            np.nan if duration is None else duration,
            utterance.offset,
            UNKNOWN if speaker is None else self._speakers.setdefault(speaker, len(self._speakers)),
            np.nan if label_wer is None else label_wer,
            UNKNOWN if text is None else len(text.encode("utf-8", "surrogatepass")),
        )
        for append, value in zip(self._appends, values, strict=True):
            append(value)
        # An embedded recording is a file of its own.
        self.recordings.append(hash(utterance.audio) if isinstance(utterance.audio, str) else len(self.recordings))

    def finish(self, naming: np.ndarray | None = None) -> Index:
        columns = {name: np.asarray(column) for name, column in self.columns.items()}
        columns["recording"] = in_order_of_appearance(np.asarray(self.recordings))
        columns["naming"] = np.zeros(len(self), np.uint8) if naming is None else naming
        return Index(**columns)


def in_order_of_appearance(values: np.ndarray) -> np.ndarray:
    """Equal values get equal numbers, the first 0: hashes differ between processes, these do not."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]


def index_of(utterances: Sequence[Utterance]) -> Index:
    """Index of utterances that are all in memory."""
    growing = GrowingIndex()
    for number, utterance in enumerate(utterances):
        growing.add((number, 0, 0, 0), utterance, utterance.duration, None)
    return growing.finish()
