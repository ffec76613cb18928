"""Which utterances make up which training step: a function of (seed, step) alone.

One epoch passes `weight` times over each source: weight 2 shows every utterance twice, 0.5 another random
half in every epoch.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from whisperq.data.batches import Batch, Loader, epoch_order
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError


class Sampler:
    """The endless shuffled stream of training utterances, addressed by position."""

    def __init__(self, sources: Sequence[Sequence[Utterance]], weights: Sequence[float], seed: int) -> None:
        self.sources, self.seed = sources, seed
        self.shares = [round(w * len(s)) for s, w in zip(sources, weights, strict=True)]
        self.epoch_size = sum(self.shares)
        if self.epoch_size == 0:
            raise InputError("there is no training data: the configuration's train sources are empty")
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def _make_epoch(self, epoch: int) -> list[tuple[int, int]]:
        """(source, index) in shuffled order."""
        chosen: list[tuple[int, int]] = []
        for number, (source, share) in enumerate(zip(self.sources, self.shares, strict=True)):
            whole, part = divmod(share, max(1, len(source)))
            chosen += [(number, i) for _ in range(whole) for i in range(len(source))]
            chosen += [(number, i) for i in epoch_order(len(source), self.seed + number, epoch)[:part]]
        return [chosen[i] for i in epoch_order(len(chosen), self.seed, epoch)]

    def batch(self, step: int, size: int) -> list[Utterance]:
        """The utterances of an optimiser step, counted from zero."""
        positions = range(step * size, (step + 1) * size)
        places = (self._epoch(p // self.epoch_size)[p % self.epoch_size] for p in positions)
        return [self.sources[source][index] for source, index in places]


def training_batches(sampler: Sampler, loader: Loader, steps: range, size: int, micro: int) -> Iterator[list[Batch]]:
    """Each step's micro-batches. Raises InputError where skip_bad leaves a whole step empty."""
    for step in steps:
        batches = list(loader.labelled_batches(sampler.batch(step, size), micro))
        if not batches:
            raise InputError(f"step {step + 1}: none of its {size} utterances is usable")
        yield batches
