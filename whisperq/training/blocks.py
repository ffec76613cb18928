"""Streamed sources, and lists beside them: a chapter is a block of utterances, shuffled together.

Of source s, with its share p_s of the weights and B = shuffle_buffer, block b holds

    floor((b + 1) B p_s) - floor(b B p_s)

rows in their order; a source that ends starts again. The order inside the block, and packing, are functions of
(seed, block). A place has the epoch and row of every source at the block's start. To go on from there a stream
skips the rows before: the library reads through them, which costs what reading them the first time did, decoding
apart. Of several processes each reads the whole stream and decodes its share.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from whisperq.data.batches import Loader
from whisperq.data.hub import row_utterance
from whisperq.data.index import index_of
from whisperq.data.lazy import facts_of
from whisperq.data.sources import UtteranceGroup
from whisperq.data.streams import Streamed
from whisperq.data.utterance import Utterance, ratio_of
from whisperq.errors import InputError
from whisperq.training.filters import Filters
from whisperq.training.packing import alone, in_parts, pack
from whisperq.training.shards import Chapter, Place

ORDER, SUPPLY = 3, 4  # what a generator is for, beside those of epochs.py
Item = tuple[Utterance, float | None]  # with its label's WER
Where = tuple[int, int]  # epoch and row of one source


class Supply(Protocol):
    """One source without end."""

    def take(self, count: int, where: Where) -> tuple[list[Item], Where]:
        """The usable items of the next `count` rows, and the position after them."""
        ...


class StreamSupply:
    """A stream, started again whenever it ends."""

    def __init__(self, stream: Streamed, loader: Loader) -> None:
        self.stream, self.loader = stream, loader
        self._where: Where | None = None
        self._rows: Iterator[dict[str, Any]] = iter(())

    def take(self, count: int, where: Where) -> tuple[list[Item], Where]:
        if where != self._where:
            self._rows = self.stream.rows(where[1])
        epoch, row = where
        found: list[Item] = []
        while count:
            if (fields := next(self._rows, None)) is None:
                if row == 0:
                    raise InputError(f"The data set {self.stream.title} has no row")
                epoch, row, self._rows = epoch + 1, 0, self.stream.rows(0)
                continue
            found += self._usable(row, fields)
            row, count = row + 1, count - 1
        self._where = epoch, row
        return found, self._where

    def _usable(self, row: int, fields: dict[str, Any]) -> list[Item]:
        try:
            utterance = row_utterance(self.stream.title, row, fields, self.stream.source)
            return [(utterance, ratio_of(fields, "label_wer", utterance.origin))]
        except InputError:
            if not self.loader.skip_bad:
                raise
            self.loader.skipped.add(f"{self.stream.title} row {row}")
            return []


class ListSupply:
    """A list, in another order in each epoch."""

    def __init__(self, utterances: Sequence[Utterance], seed: tuple[int, ...]) -> None:
        self.utterances, self.seed = utterances, seed
        self.label_wers = facts_of(utterances).label_wer

    def take(self, count: int, where: Where) -> tuple[list[Item], Where]:
        epoch, row = where
        found: list[Item] = []
        while count:
            order = np.random.default_rng([*self.seed, epoch]).permutation(len(self.utterances))
            part = order[row : row + count].tolist()
            found += [(self.utterances[i], float(self.label_wers[i])) for i in part]
            count, row = count - len(part), row + len(part)
            if row == len(order):
                epoch, row = epoch + 1, 0
        return found, (epoch, row)


class Blocks:
    """The windows of every block."""

    def __init__(self, group: UtteranceGroup, filters: Filters, seed: int) -> None:
        self.filters, self.seed, self.size = filters, seed, filters.config.shuffle_buffer
        total = sum(one.source.weight for one in group.lists)
        if not total:
            raise filters.nothing_left()
        self.shares = [one.source.weight / total for one in group.lists]
        self.supplies: list[Supply] = [
            StreamSupply(one.utterances, filters.loader)
            if isinstance(one.utterances, Streamed)
            else ListSupply(one.utterances, (seed, SUPPLY, number))
            for number, one in enumerate(group.lists)
        ]
        self._empty_since: list[list[int]] | None = None
        self._dropped: dict[int, Counter[str]] = {}  # by block

    def start(self) -> Place:
        return {"block": 0, "sources": [[0, 0] for _ in self.supplies]}

    def read(self, place: Place) -> tuple[Chapter, Place]:
        block, items, after = place["block"], [], []
        for supply, share, (epoch, row) in zip(self.supplies, self.shares, place["sources"], strict=True):
            count = math.floor((block + 1) * self.size * share) - math.floor(block * self.size * share)
            found, where = supply.take(count, (epoch, row))
            items += found
            after.append(list(where))
        before = Counter(self.filters.dropped)
        chapter = self._chapter(items, block)
        self._dropped[block] = Counter(self.filters.dropped) - before
        self._check_progress(chapter, place["sources"], after)
        return chapter, {"block": block + 1, "sources": after}

    def dropped(self, after: Place | None, place: Place) -> dict[str, int]:
        """Of all blocks, each counted once, however often it was read."""
        first = 0 if after is None else after["block"] + 1
        return dict(sum((self._dropped.get(b, Counter()) for b in range(first, place["block"] + 1)), Counter()))

    def _chapter(self, items: list[Item], block: int) -> Chapter:
        utterances = [utterance for utterance, _ in items]
        wers = np.array([np.nan if wer is None else wer for _, wer in items], np.float32)
        facts = replace(index_of(utterances), label_wer=wers)
        kept, seconds = self.filters.apply(utterances, facts)
        generator = np.random.default_rng([self.seed, ORDER, block])
        windows = alone(kept).shuffled(generator)
        if self.filters.config.pack and len(kept):
            windows = pack(kept, facts, in_parts(seconds, self.filters.loader.window_seconds), generator)
        return Chapter(windows, utterances, facts, here=True)

    def _check_progress(self, chapter: Chapter, before: list[list[int]], after: list[list[int]]) -> None:
        """Raises InputError when every source has been read to its end and nothing of it was left."""
        if len(chapter.windows):
            self._empty_since = None
            return
        since = self._empty_since = self._empty_since or before
        ended = (b[0] < a[0] for b, a, share in zip(since, after, self.shares, strict=True) if share)
        if all(ended):
            raise self.filters.nothing_left()
