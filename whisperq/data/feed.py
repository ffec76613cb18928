"""Training steps from a position on: micro-batches on the device, the same whatever the number of processes.

Which utterances share a window, in which order the windows come, which have times in their labels and what is
blanked out of them are functions of (seed, epoch or step, index) alone. A position goes on with equal bits.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from whisperq.data.augment import spec_augment
from whisperq.data.batches import Batch, Loader
from whisperq.data.blocks import Blocks
from whisperq.data.chapters import Chapters, Reading
from whisperq.data.epochs import Epochs
from whisperq.data.features import log_mel_of, padded
from whisperq.data.filters import Filters
from whisperq.data.groups import UtteranceGroup
from whisperq.data.prefetch import prefetch
from whisperq.data.streams import Streamed
from whisperq.data.tokens import IGNORED
from whisperq.data.windows import Builder, Job, Window
from whisperq.data.workers import workers
from whisperq.errors import UsageError
from whisperq.options import DistillConfig

TIMES, MASKS = 5, 6  # what a generator is for, beside those of epochs.py and blocks.py
MOST_WORKERS = 8


@dataclass(frozen=True)
class TrainingStep:
    """One process's share of an optimiser step."""

    batches: list[Batch]  # features on the device, tokens on the CPU
    position: dict[str, Any]  # JSON: where the data goes on after this step; the same in every process
    windows: int  # of the whole effective batch, all processes
    utterances: int  # in this process's share, packed ones counted singly
    audio_seconds: float  # of this process's share, padding apart
    window_seconds: float  # what this share's windows could hold: 1 - audio/window is the padding
    waited: float = 0.0  # seconds that the consumer waited for this step


@dataclass(frozen=True)
class Share:
    """Which windows of every effective batch are this process's."""

    first: int
    count: int
    micro: int


@dataclass(frozen=True)
class _Drawn:
    """This process's part of a step, before anything is decoded."""

    number: int
    jobs: list[Job]
    position: dict[str, Any]


class Feed:
    """The training data of one distillation."""

    def __init__(self, group: UtteranceGroup, loader: Loader, config: DistillConfig, seed: int) -> None:
        if config.timestamp_prob and not loader.codec.times:
            raise UsageError("--timestamp-prob is for models whose vocabulary has times, which this one lacks")
        self.group, self.loader, self.config, self.seed = group, loader, config, seed
        filters = Filters(loader, config)
        self.dropped = filters.dropped
        self.device = torch.device("cpu")  # until the steps begin
        streamed = any(isinstance(one.utterances, Streamed) for one in group.lists)
        self.chapters: Chapters = Blocks(group, filters, seed) if streamed else Epochs(group, filters, seed)
        self.epoch_size: int | None = None
        if not streamed:
            self.epoch_size = len(self.chapters.read(self.chapters.start())[0].windows)

    def steps(
        self, position: dict[str, Any] | None, count: int, rank: int, world: int, first: int = 0
    ) -> Iterator[TrainingStep]:
        """`count` steps from `position` on (None: the beginning); `first` is the number of the first, from zero.

        Raises InputError at the step that holds what cannot be used, TrainingError for a worker that died.
        """
        each = self.config.batch_size // world
        share = Share(rank * each, each, self.config.micro_batch or each)
        self.device = _present(self.loader.device)
        builder = Builder(self._find, self.loader.extractor, self.loader.codec, self.loader.skip_bad)
        # Forked here and not in the thread: nothing but this runs in the process meanwhile.
        with workers(builder, self._workers()) as build:
            steps = prefetch(self._steps(position, range(first, first + count), share, build), ahead=1)
            try:
                yield from _timed(steps)
            finally:
                steps.close()

    def _workers(self) -> int:
        if self.config.workers is not None:
            return self.config.workers
        return 0 if self.loader.device == "cpu" else min(MOST_WORKERS, len(os.sched_getaffinity(0)))

    def _find(self, number: int) -> Any:
        return self.chapters.utterances[number]

    def _steps(self, position: dict[str, Any] | None, numbers: range, share: Share, build) -> Iterator[TrainingStep]:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # of this thread, which would else take the first
        drawn: deque[_Drawn] = deque()

        def jobs() -> Iterator[Job]:
            for step in self._draw(position, numbers, share):
                drawn.append(step)
                yield from step.jobs

        windows = build(jobs())
        for _ in numbers:
            first = next(windows)  # now its step is drawn
            rest = [next(windows) for _ in range(share.count - 1)]
            yield self._step(drawn.popleft(), [first, *rest], share)

    def _draw(self, position: dict[str, Any] | None, numbers: range, share: Share) -> Iterator[_Drawn]:
        """Every process draws the whole effective batch and keeps its share."""
        reading = Reading(self.chapters, self.loader.codec, position)
        for number in numbers:
            jobs = []
            for index in range(self.config.batch_size):
                timed = self._timed(number, index)
                jobs.append(Job(reading.next(timed), timed))
            yield _Drawn(number, jobs[share.first : share.first + share.count], reading.position)

    def _timed(self, step: int, index: int) -> bool:
        probability = self.config.timestamp_prob
        return probability > 0 and np.random.default_rng([self.seed, TIMES, step, index]).random() < probability

    def _step(self, drawn: _Drawn, windows: list[Window], share: Share) -> TrainingStep:
        for window in windows:
            self.loader.skipped |= window.skipped
        batches = [
            self._batch(windows[i : i + share.micro], drawn.number, share.first + i)
            for i in range(0, share.count, share.micro)
        ]
        return TrainingStep(
            batches,
            drawn.position,
            self.config.batch_size,
            sum(len(b.utterances) for b in batches),
            sum(b.seconds for b in batches),
            sum(len(b.features) for b in batches) * self.loader.window_seconds,
        )

    def _batch(self, windows: list[Window], step: int, first: int) -> Batch:
        """One micro-batch; `first` is its first window's index in the effective batch."""
        used = [(first + i, window) for i, window in enumerate(windows) if window.utterances]
        if not used:
            return self._silence()
        samples = [window.samples for _, window in used]
        features = self._features(samples)
        if self.config.spec_augment:
            frames = [len(s) // self.loader.extractor.hop_length for s in samples]
            features = spec_augment(features, frames, [(self.seed, MASKS, step, index) for index, _ in used])
        tokens = self.loader.codec.pad([window.sequence for _, window in used])
        seconds = sum(map(len, samples)) / self.loader.extractor.sampling_rate
        return Batch(features, tokens, tuple(u for _, window in used for u in window.utterances), seconds)

    def _silence(self) -> Batch:
        """What keeps processes in step where nothing is usable: a window that teaches nothing."""
        codec = self.loader.codec
        tokens = codec.pad([codec.encode("")])
        silent = replace(tokens, labels=torch.full_like(tokens.labels, IGNORED))
        return Batch(self._features([np.zeros(0, np.float32)]), silent, ())

    def _features(self, samples: list[np.ndarray]) -> torch.Tensor:
        together = padded(samples, self.loader.extractor.n_samples)
        if self.device.type == "cuda":
            together = together.pin_memory().to(self.device, non_blocking=True)
        return log_mel_of(together, self.loader.extractor)


def _present(name: str) -> torch.device:
    """This process's own GPU, by its number, where it has several."""
    device = torch.device(name)
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device


def _timed(steps: Iterator[TrainingStep]) -> Iterator[TrainingStep]:
    """Each with the time that it was waited for."""
    while True:
        began = time.perf_counter()
        step = next(steps, None)
        if step is None:
            return
        yield replace(step, waited=time.perf_counter() - began)
