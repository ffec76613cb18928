"""How far a window was transcribed, and where the next one starts: the sliding seek.

A model that writes times says up to where it has transcribed: <|0.00|> text <|6.00|> leaves all after 6 s. So

    words that no time ends      are transcribed again from their beginning, where a time ends words before them
    sound behind the last time   becomes a window of its own, from where it begins
    a window without a word      is left for the next sound, of which each further one must lie twice as far

until nothing is left in which something may be said. Every step goes forward.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

from whisperq.data.long_audio import MARGIN, Piece
from whisperq.data.loudness import Levels
from whisperq.data.timed_words import Segment
from whisperq.data.tokens import TIME_STEP, Codec

TAIL = 0.5  # seconds behind a written time in which its last word may still sound
LEAST_SOUND = 0.3  # seconds of sound, all together, that are worth a window
LEAST_STEP = 0.5  # seconds


@dataclass
class Search:
    """One piece in work: its segments so far, and where its next window starts."""

    piece: Piece
    rate: int
    at: float = 0.0  # seconds into the piece
    open: bool = True
    found: list[Segment] = field(default_factory=list)
    barren: int = 0  # windows in turn that gave no word

    @cached_property
    def levels(self) -> Levels:
        return Levels.of(self.piece.samples, self.rate)

    @cached_property
    def sounds(self) -> list[tuple[float, float]]:
        """Start and end of each sound, in seconds into the piece."""
        return [(a / self.rate, b / self.rate) for a, b in self.levels.sounds()]

    @property
    def window(self) -> Piece:
        """The part of the piece to transcribe next."""
        samples = self.piece.samples[round(self.at * self.rate) :]
        return replace(self.piece, start=self.piece.start + self.at, seconds=len(samples) / self.rate, samples=samples)

    def take(self, ids: list[int], codec: Codec) -> None:
        """Take the words of the window, with their times, and go on."""
        window = self.window
        whole, reached = complete(ids, codec, window.seconds)
        segments = codec.segments(whole, window.start, window.seconds)
        self.barren = 0 if segments else self.barren + 1
        if not segments:
            self._go(self.at + 2.0 ** (self.barren - 1), 0.0, onset=True)
            return
        self._go(self.at + reached, TAIL if whole == ids else 0.0)
        if not self.open:  # nothing sounds behind them, so that the words no time ends were said before
            segments = codec.segments(ids, window.start, window.seconds)
        self.found += segments

    def text(self, text: str) -> None:
        """Take the words of the whole piece, that have no times."""
        self.found = [Segment(self.piece.start, self.piece.start + self.piece.seconds, text)] if text else []
        self.open = False

    def _go(self, moment: float, tail: float, onset: bool = False) -> None:
        """Move on to the sound after `moment` (seconds); a sound that ends within `tail` of it counts as done.

        onset: skip sounds that began before `moment`, too.
        """
        left = []
        for start, end in self.sounds:
            if start < moment and (onset or end <= moment + tail):
                continue
            left.append((max(start, moment), end))
        if sum(end - start for start, end in left) < LEAST_SOUND:
            self.open = False
            return
        self.at = max(moment, self.at + LEAST_STEP, left[0][0] - MARGIN)
        self.open = self.piece.seconds - self.at > LEAST_SOUND


def complete(ids: list[int], codec: Codec, seconds: float) -> tuple[list[int], float]:
    """The tokens without words that no time ends, and the seconds up to which they reach.

    Where words that no time ends are all there are, they count as those of the whole window.
    """
    ends = [i for i, token in enumerate(ids) if token in codec.times]
    if not ends or (ends[-1] != len(ids) - 1 and not any(i not in codec.times for i in ids[: ends[-1]])):
        return ids, seconds
    return ids[: ends[-1] + 1], min(TIME_STEP * (ids[ends[-1]] - codec.times.start), seconds)
