"""The training data in chapters: an epoch of lists, or a block of a stream; each a number of windows in order.

A place says where a chapter begins, as JSON; what is in the chapter is a function of (seed, place) alone. The
position of training is a place, the window in its chapter that comes next, and how many of that window's
utterances an earlier one has had: a label that would be longer than the decoder takes is divided.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from whisperq.data.index import Index
from whisperq.data.tokens import Codec
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError
from whisperq.training.packing import Windows
from whisperq.training.windows import Member, fitting

Place = dict[str, Any]


@dataclass(frozen=True)
class Chapter:
    """Windows of numbers into the utterances."""

    windows: Windows
    utterances: Sequence[Utterance]
    facts: Index
    here: bool = False  # in memory: another process cannot look them up

    def members(self, window: int, taken: int) -> list[int]:
        return self.windows[window][taken:].tolist()

    def references(self, members: Sequence[int]) -> tuple[Member, ...]:
        return tuple(self.utterances[m] for m in members) if self.here else tuple(members)


class WindowSource(Protocol):
    """Source of training windows, read in chapters."""

    def start(self) -> Place: ...

    def read(self, place: Place) -> tuple[Chapter, Place]:
        """The chapter, and the place of the next."""
        ...

    def dropped(self, after: Place | None, place: Place) -> dict[str, int]:
        """How many utterances filters left out, by reason, up to the chapter at `place`, of those that were read.

        after: without the chapter at this place and those before it.
        """
        ...


class Reading:
    """Window after window, from a position on."""

    def __init__(self, window_source: WindowSource, codec: Codec, position: dict[str, Any] | None) -> None:
        self.window_source, self.codec = window_source, codec
        position = dict(position or {**window_source.start(), "window": 0, "taken": 0})
        self.window, self.taken = position.pop("window"), position.pop("taken")
        self._turn_to(position)
        if self.window > len(self.chapter.windows):
            raise InputError(f"the training data ends before window {self.window} of {position}, where it was left")

    def _turn_to(self, place: Place) -> None:
        self.place = place
        self.chapter, self.following = self.window_source.read(place)

    @property
    def position(self) -> dict[str, Any]:
        return {**self.place, "window": self.window, "taken": self.taken}

    def next(self, timed: bool) -> tuple[Member, ...]:
        """The utterances of the next window, as many of them as one label holds."""
        while self.window >= len(self.chapter.windows):
            self._turn_to(self.following)
            self.window = 0
        members = self.chapter.members(self.window, self.taken)
        count = self._fitting(members, timed)
        self.taken += count
        if count == len(members):
            self.window, self.taken = self.window + 1, 0
        return self.chapter.references(members[:count])

    def _fitting(self, members: list[int], timed: bool) -> int:
        """No text is read whose bytes alone say that it fits: a token stands for one byte or more."""
        # Each text has its space; the whole its prompt and end, each text with times two more.
        most = int(np.maximum(self.chapter.facts.text_bytes[members], 0).sum()) + (3 if timed else 1) * len(members)
        if len(members) == 1 or most + len(self.codec.prompt) <= self.codec.max_tokens:
            return len(members)
        return fitting(self.codec, [self.chapter.utterances[m].text or "" for m in members], timed)
