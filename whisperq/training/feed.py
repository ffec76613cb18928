"""Training steps from a position on: micro-batches on the device, the same whatever the number of processes.

    window sources (epochs.py, blocks.py)  which utterances share a window, in which order
    windows.py, by workers.py              audio decoded and joined, the label made
    collate.py                             a micro-batch on the device, while the step before is computed

The order, which windows have times in their labels and what is blanked out of them are functions of
(seed, epoch or step, index) alone. A position goes on with equal bits.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whisperq.data.batches import Batch, Loader
from whisperq.data.sources import UtteranceGroup
from whisperq.data.streams import Streamed
from whisperq.data.tokens import TIME_STEP
from whisperq.data.utterance import Utterance
from whisperq.errors import UsageError
from whisperq.jobs.prefetch import prefetch
from whisperq.training.blocks import Blocks
from whisperq.training.collate import Collator
from whisperq.training.epochs import Epochs
from whisperq.training.filters import Filters
from whisperq.training.shards import Reading, WindowSource
from whisperq.training.windows import Builder, Job, Window
from whisperq.training.workers import workers
from whisperq.training_options import TrainingConfig

TIMES = 5  # what a generator is for, beside those of epochs.py, blocks.py and collate.py
MOST_WORKERS = 8
Build = Callable[[Iterable[Job]], Iterator[Window]]
Position = dict[str, Any]


@dataclass(frozen=True)
class TrainingStep:
    """One process's share of an optimiser step."""

    batches: list[Batch]  # features on the device, tokens on the CPU
    position: Position  # JSON: where the data goes on after this step; the same in every process
    windows: int  # of the whole effective batch, all processes
    utterances: int  # in this process's share, packed ones counted singly
    audio_seconds: float  # of this process's share, padding apart
    window_seconds: float  # what this share's windows could hold: 1 - audio/window is the padding
    waited: float = 0.0  # seconds that the consumer waited for this step


@dataclass(frozen=True)
class Share:
    """Which windows of every effective batch are this process's, and how many it takes at a time."""

    first: int
    count: int
    micro: int


@dataclass(frozen=True)
class DrawnStep:
    """One process's part of a training step, before any audio is decoded."""

    number: int
    jobs: list[Job]
    position: Position


class Feed:
    """The training data of one distillation; `dropped` counts what its filters have left out here, by reason."""

    def __init__(self, group: UtteranceGroup, loader: Loader, config: TrainingConfig, seed: int) -> None:
        if config.timestamp_prob and TIME_STEP * (len(loader.codec.times) - 1) < loader.window_seconds - TIME_STEP / 2:
            raise UsageError("--timestamp-prob is for models whose vocabulary has times up to their window's end")
        self.group, self.loader, self.config, self.seed = group, loader, config, seed
        # Windows of one forward pass; None: all of a process's share. Of "auto" it is found out before the first step.
        self.micro_batch = config.micro_batch if isinstance(config.micro_batch, int) else None
        filters = Filters(loader, config)
        self.dropped = filters.dropped
        streamed = any(isinstance(one.utterances, Streamed) for one in group.lists)
        self.window_source: WindowSource = Blocks(group, filters, seed) if streamed else Epochs(group, filters, seed)
        self.epoch_size: int | None = None  # windows of the first epoch; a stream's are not known
        if not streamed:
            self.epoch_size = len(self.window_source.read(self.window_source.start())[0].windows)

    def steps(
        self, position: Position | None, count: int, rank: int, world: int, first: int = 0
    ) -> Generator[TrainingStep, None, None]:
        """`count` steps from `position` on (None: the beginning); `first` is the number of the first, from zero.

        Raises InputError at the step that holds what cannot be used, TrainingError for a worker that died.
        """
        each = self.config.batch_size // world
        share = Share(rank * each, each, self.micro_batch or each)
        wanted = getattr(self.config, "teacher_cache", None) is not None
        collator = Collator(self.loader, self.config.spec_augment, self.seed, wanted)
        loader = self.loader
        builder = Builder(self._find, loader.extractor, loader.codec, loader.skip_bad, loader.decode)
        with workers(builder, self._workers()) as build:  # forked here, before there is a thread of ours
            drawn = self._draw(position, range(first, first + count), share)
            steps = prefetch(self._made(drawn, build, collator, share), ahead=1)
            try:
                yield from self._counted(steps)
            finally:
                steps.close()

    def _workers(self) -> int:
        if self.config.workers is not None:
            return self.config.workers
        return 0 if self.loader.device == "cpu" else min(MOST_WORKERS, self._cores())

    @staticmethod
    def _cores() -> int:
        """CPU cores for this process: of those that it sees, LOCAL_WORLD_SIZE processes have an equal share."""
        return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))

    def _find(self, number: int) -> Utterance:
        return self.group.utterances[number]

    def _draw(self, position: Position | None, numbers: range, share: Share) -> Iterator[DrawnStep]:
        """Windows of each step; every process draws the whole effective batch and keeps its share."""
        reading = Reading(self.window_source, self.loader.codec, position)
        for number in numbers:
            jobs = []
            for index in range(self.config.batch_size):
                timed = self._timed(number, index)
                jobs.append(Job(reading.next(timed), timed))
            yield DrawnStep(number, jobs[share.first : share.first + share.count], reading.position)

    def _timed(self, step: int, index: int) -> bool:
        probability = self.config.timestamp_prob
        return probability > 0 and np.random.default_rng([self.seed, TIMES, step, index]).random() < probability

    def _made(
        self, steps: Iterator[DrawnStep], build: Build, collator: Collator, share: Share
    ) -> Iterator[tuple[TrainingStep, set[str]]]:
        """Training steps with decoded batches, each with the origins of its unusable utterances."""
        collator.enter_thread()
        begun: deque[DrawnStep] = deque()  # drawn, and its windows not all there

        def jobs() -> Iterator[Job]:
            for drawn in steps:
                begun.append(drawn)
                yield from drawn.jobs

        made: list[Window] = []
        for window in build(jobs()):
            made.append(window)
            if len(made) == share.count:
                yield self._step(begun.popleft(), made, collator, share), set().union(*(w.skipped for w in made))
                made = []

    def _step(self, drawn: DrawnStep, windows: list[Window], collator: Collator, share: Share) -> TrainingStep:
        parts = range(0, share.count, share.micro)
        batches = [collator.batch(windows[i : i + share.micro], drawn.number, share.first + i) for i in parts]
        return TrainingStep(
            batches,
            drawn.position,
            self.config.batch_size,
            sum(len(b.utterances) for b in batches),
            sum(b.seconds for b in batches),
            sum(map(self.loader.held_seconds, batches)),
        )

    def _counted(self, steps: Iterator[tuple[TrainingStep, set[str]]]) -> Iterator[TrainingStep]:
        """The steps with the seconds spent waiting for each; adds what they skipped to the loader's count."""
        began = time.perf_counter()
        for step, skipped in steps:
            self.loader.skipped |= skipped
            yield replace(step, waited=time.perf_counter() - began)
            began = time.perf_counter()
