"""Recordings cut into pieces that a model's window holds, read one window at a time.

A piece ends where a long pause begins, and the pause itself is in no piece: models take it for the end of all that is
said. Where nobody pauses for as long as the window lasts, the cut lies amid the least energy of its latter half.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from whisperq.data.audio import split_at_silence
from whisperq.data.loudness import Levels, Ranges

MARGIN = 0.3  # seconds of a pause that stay with the words before and after it
WORTH_CUTTING = 3.0  # seconds: a pause for which a recording that the window holds is cut, where it need not be
BEHIND = 0.2  # seconds read behind the window, so that a cut at its very end knows what follows


class Sound(Protocol):
    """A recording that is read from its beginning to its end: mono, at the model's rate."""

    @property
    def rate(self) -> int:
        """Hz."""

    @property
    def seconds(self) -> float: ...

    def window(self, start: int, count: int) -> np.ndarray:
        """float32 (at most `count` samples,) from `start` on, fewer at the end; `start` never falls."""


@dataclass(frozen=True)
class Whole:
    """A recording that is in memory: (samples,)."""

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def window(self, start: int, count: int) -> np.ndarray:
        return self.samples[start : start + count]


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording that the window holds."""

    recording: int  # its place in the list
    start: float  # seconds into it
    seconds: float
    samples: np.ndarray  # (samples,)


def pieces_of(recording: int, sound: Sound, longest: int, trim: bool) -> Iterator[Piece]:
    """The recording without its long pauses, in pieces of at most `longest` samples.

    Without `trim` a recording that the window holds is one piece as it is, unless a pause of WORTH_CUTTING lies inside.
    """
    at, rate = 0, sound.rate
    while len(audio := sound.window(at, longest + round(BEHIND * rate))):
        window, more = audio[:longest], len(audio) > longest
        pauses = Levels.of(window, rate).pauses()
        worth = any(0 < a and b < len(window) and b - a >= WORTH_CUTTING * rate for a, b in pauses)
        if not (at or more or trim or worth):
            pauses = []
        begin, end, following = _next(window, pauses, round(MARGIN * rate), more)
        if more and end == len(window):  # no pause behind: from the piece's own beginning on the window holds more
            end = following = begin or split_at_silence(audio, rate, longest / rate)[0][1]
        if end > begin:
            yield Piece(recording, (at + begin) / rate, (end - begin) / rate, window[begin:end])
        at += following


def _next(window: np.ndarray, pauses: Ranges, margin: int, more: bool) -> tuple[int, int, int]:
    """Samples where the first piece begins and ends, and where to go on; begin equals end where there is none."""
    size, begin = len(window), 0
    if pauses and pauses[0][0] == 0:
        start, stop = pauses.pop(0)
        if stop == size:
            return 0, 0, size - margin if more else size
        begin = stop - margin
    if not pauses:
        return begin, size, size
    start, stop = pauses[0]
    return begin, start + margin, stop - margin if stop < size or more else size
