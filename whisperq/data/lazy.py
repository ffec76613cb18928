"""Sequences of utterances that are made when somebody asks for them; a slice is a view of the same."""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import overload

import numpy as np

from whisperq.data.index import Index, index_of
from whisperq.data.utterance import Utterance


class Lazy(Sequence[Utterance]):
    """A sequence that knows its length and makes utterances one at a time, when they are asked for."""

    @abstractmethod
    def make(self, number: int) -> Utterance:
        """The utterance of this number, 0 <= number < length."""

    @abstractmethod
    def first_without_text(self) -> Utterance | None:
        """The first utterance without a reference; None if all have one."""

    @overload
    def __getitem__(self, number: int) -> Utterance: ...
    @overload
    def __getitem__(self, number: slice) -> "Lazy": ...
    def __getitem__(self, number: int | slice) -> "Utterance | Lazy":
        found = range(len(self))[number]
        return Chosen(self, found) if isinstance(found, range) else self.make(found)

    def __iter__(self) -> Iterator[Utterance]:
        return map(self.make, range(len(self)))


class Indexed(Lazy):
    """Utterances whose facts an index holds."""

    def __init__(self, index: Index) -> None:
        self.facts = index

    def __len__(self) -> int:
        return len(self.facts)

    def first_without_text(self) -> Utterance | None:
        missing = np.flatnonzero(self.facts.text_bytes < 0)
        return self.make(int(missing[0])) if len(missing) else None


class Chosen(Lazy):
    """The utterances of another sequence that have the numbers `numbers`."""

    def __init__(self, whole: Lazy, numbers: range) -> None:
        self.whole, self.numbers = whole, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def make(self, number: int) -> Utterance:
        return self.whole.make(self.numbers[number])

    def first_without_text(self) -> Utterance | None:
        return next((utterance for utterance in self if utterance.text is None), None)


class Joined(Lazy):
    """Several sequences, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Utterance]]) -> None:
        self.parts = tuple(parts)

    @cached_property
    def ends(self) -> list[int]:
        return list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def make(self, number: int) -> Utterance:
        part = bisect_right(self.ends, number)
        return self.parts[part][number - (self.ends[part - 1] if part else 0)]

    def first_without_text(self) -> Utterance | None:
        return next(filter(None, map(without_text, self.parts)), None)


def without_text(utterances: Sequence[Utterance]) -> Utterance | None:
    """The first utterance without a reference; an index answers for its whole list."""
    if isinstance(utterances, Lazy):
        return utterances.first_without_text()
    return next((utterance for utterance in utterances if utterance.text is None), None)


def facts_of(utterances: Sequence[Utterance]) -> Index:
    """The index of any sequence, made where there is none."""
    return utterances.facts if isinstance(utterances, Indexed) else index_of(utterances)
