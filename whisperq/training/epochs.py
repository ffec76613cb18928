"""Lists and data sets at hand: a chapter is an epoch, shuffled as a whole.

One epoch passes `weight` times over each source: weight 2 shows every utterance twice, 0.5 another random
half in every epoch. Order, halves and packing are functions of (seed, epoch).
"""

import numpy as np

from whisperq.data.index import Index
from whisperq.data.lazy import facts_of
from whisperq.data.sources import UtteranceGroup
from whisperq.training.filters import Filters
from whisperq.training.packing import Windows, alone, in_parts, pack
from whisperq.training.shards import Chapter, Place

ORDER, HALVES = 1, 2  # what a generator is for, so that no two are alike


class Epochs:
    """The windows of every epoch."""

    def __init__(self, group: UtteranceGroup, filters: Filters, seed: int) -> None:
        self.utterances, self.seed = group.utterances, seed
        parts = [facts_of(one.utterances) for one in group.lists]
        self.facts = Index.joined(parts)
        self.filters, self.pack = filters, filters.config.pack
        kept, seconds = filters.apply(self.utterances, self.facts)
        self.parts = in_parts(seconds, filters.loader.window_seconds) if self.pack else None
        ends = np.cumsum([len(p) for p in parts])
        self.sources = np.split(kept, np.searchsorted(kept, ends[:-1]))
        self.shares = [
            round(one.source.weight * len(source)) for one, source in zip(group.lists, self.sources, strict=True)
        ]
        if not sum(self.shares):
            raise filters.nothing_left()
        self._latest: tuple[int, Chapter] | None = None

    def start(self) -> Place:
        return {"epoch": 0}

    def read(self, place: Place) -> tuple[Chapter, Place]:
        epoch = place["epoch"]
        if self._latest is None or self._latest[0] != epoch:
            self._latest = None  # of a million utterances two epochs need not be held
            self._latest = epoch, Chapter(self._windows(epoch), self.utterances, self.facts)
        return self._latest[1], {"epoch": epoch + 1}

    def dropped(self, after: Place | None, place: Place) -> dict[str, int]:
        """Decided once, for all epochs."""
        return dict(self.filters.dropped) if after is None else {}

    def _windows(self, epoch: int) -> Windows:
        generator = np.random.default_rng([self.seed, ORDER, epoch])
        members = np.concatenate([self._drawn(number, epoch) for number in range(len(self.sources))])
        if self.parts is not None:
            return pack(members, self.facts, self.parts, generator)
        return alone(members).shuffled(generator)

    def _drawn(self, number: int, epoch: int) -> np.ndarray:
        """A source's utterances in this epoch: all of them some times, and a random part once more."""
        source = self.sources[number]
        whole, part = divmod(self.shares[number], max(1, len(source)))
        some = np.random.default_rng([self.seed, HALVES, number, epoch]).permutation(len(source))[:part]
        return np.concatenate([np.tile(source, whole), source[np.sort(some)]])
