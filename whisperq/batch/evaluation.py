"""A model's hypotheses of test sets in an append-only journal; a killed run resumes after the last complete line.

    NAME-partial/heard-<rank>.jsonl  what one process has done, a line for each utterance

Batches are made of utterances of like length, the longest first, so that nothing is padded much and too little memory
shows at once; a line names its utterance by set and number, so that any number of processes can go on.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from whisperq.config import Source
from whisperq.data.batches import Loader
from whisperq.data.lists import UtteranceList
from whisperq.data.utterance import Utterance
from whisperq.errors import WhisperqError
from whisperq.jobs.journal import Journal, appending, whole_lines
from whisperq.jobs.prefetch import prefetch
from whisperq.jobs.stopwatch import Stopwatch
from whisperq.runtime.open import Opened
from whisperq.runtime.padding import again_in_full
from whisperq.runtime.transcription import transcribe_batch

STAGES = ("wall", "features", "decoding")
Batch = tuple[int, ...]  # numbers of utterances
Loaded = tuple[Batch, dict[int, np.ndarray]]  # without what could not be read


@dataclass(frozen=True)
class TestSet:
    """A source with what was read of it."""

    source: Source
    read: UtteranceList
    normalizer: str
    limit: int | None

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def utterances(self) -> Sequence[Utterance]:
        return self.read.utterances[: self.limit]


@dataclass(frozen=True)
class Transcribed:
    """The text of a set's utterance, None where it could not be read; times are its share of its batch's."""

    set: str
    number: int
    text: str | None
    seconds: float = 0.0  # of audio
    wall: float = 0.0  # seconds of features, decoding and what lies between
    features: float = 0.0  # seconds
    decoding: float = 0.0  # seconds
    again: int = 0  # windows decoded again in full: all of its batch's, in the batch's first line
    cut_short: bool = False  # whether a window's tokens came to the bound of its length


def batches_by_length(utterances: Sequence[Utterance], size: int) -> list[Batch]:
    """All numbers once, the longest utterances first, those of unknown length in their order before all."""
    seconds = [utterance.duration for utterance in utterances]
    order = sorted(range(len(seconds)), key=lambda i: (seconds[i] is not None, -(seconds[i] or 0.0)))
    return [tuple(order[start : start + size]) for start in range(0, len(order), size)]


def audio_ahead(
    loader: Loader, utterances: Sequence[Utterance], batches: Sequence[Batch]
) -> Generator[Loaded, None, None]:
    """Each batch with its recordings, (samples,) each, read while the batch before is transcribed."""

    def load(batch: Batch) -> Loaded:
        audio = ((number, loader.audio(utterances[number])) for number in batch)
        return batch, {number: samples for number, samples in audio if samples is not None}

    yield from prefetch(load(batch) for batch in batches)


def transcribe_loaded(opened: Opened, name: str, loaded: Loaded, size: int) -> list[Transcribed]:
    """Raises nothing for what could not be read: it has no text."""
    batch, audio = loaded
    unread = [Transcribed(name, number, None) for number in batch if number not in audio]
    if not audio:
        return unread
    watch = Stopwatch(opened.loader.device)
    began, before = time.perf_counter(), again_in_full(opened.runtime)
    pipeline = opened.runtime, opened.loader, opened.rules
    short: set[int] = set()
    texts = transcribe_batch(pipeline, list(audio.values()), size, watch, opened.care, short)
    wall = (time.perf_counter() - began) / len(audio)
    shares: dict[str, Any] = {stage: seconds / len(audio) for stage, seconds in watch.seconds.items()}
    rate = opened.loader.extractor.sampling_rate
    lines = [
        Transcribed(name, n, t, len(audio[n]) / rate, wall=wall, **shares, cut_short=i in short)
        for i, (n, t) in enumerate(zip(audio, texts, strict=True))
    ]
    lines[0] = replace(lines[0], again=again_in_full(opened.runtime) - before)
    return [*lines, *unread]


class HypothesisBook(Journal):
    """The hypotheses so far, beside the place where the evaluation will lie."""

    def __init__(self, out: Path, config: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(out, config, inputs, "hypotheses", "heard-*.jsonl")

    def transcribed(self, name: str) -> dict[int, Transcribed]:
        """All complete lines of a set, by utterance number."""
        return {
            line.number: line for path in self.files() for line in whole_lines(path, Transcribed)[0] if line.set == name
        }

    def times(self, name: str) -> dict[str, float]:
        """Seconds of each stage, of the process that took longest."""
        shares = [[x for x in whole_lines(path, Transcribed)[0] if x.set == name] for path in self.files()]
        sums = [{stage: sum(getattr(x, stage) for x in lines) for stage in STAGES} for lines in shares]
        return max(sums, key=lambda one: one["wall"])

    @contextmanager
    def worth_keeping(self) -> Iterator[None]:
        """Context that removes the journal after an error, if no utterance was transcribed."""
        try:
            yield
        except WhisperqError:
            lines = (line for path in self.files() for line in whole_lines(path, Transcribed)[0])
            if all(line.text is None for line in lines):
                self.remove()
            raise

    def writing(self, rank: int) -> AbstractContextManager[Callable[[Sequence[Transcribed]], None]]:
        """Context manager that gives one process a function which appends lines to its file (see `appending`)."""
        return appending(self.folder / f"heard-{rank}.jsonl", Transcribed)
