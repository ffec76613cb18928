"""Recordings of any length to text, with the time that it took."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whisperq.data.batches import Loader
from whisperq.data.long_audio import Piece, Whole, pieces_of
from whisperq.data.utterance import Utterance
from whisperq.jobs.stopwatch import Stopwatch
from whisperq.runtime.fallback import ONCE, Care
from whisperq.runtime.long_form import AnyRules, AnyRuntime, transcribe_pieces


@dataclass(frozen=True)
class Hypothesis:
    """A model's text of an utterance; cut_short: whether a window's tokens came to the bound of its length."""

    utterance: Utterance
    text: str
    cut_short: bool = False

    def without_sound(self) -> "Hypothesis":
        """A copy without embedded audio, small enough to keep many and to send to other processes."""
        if isinstance(self.utterance.audio, str):
            return self
        return replace(self, utterance=replace(self.utterance, audio=b""))


def transcribe(
    runtime: AnyRuntime, loader: Loader, rules: AnyRules, utterances: Sequence[Utterance], batch_size: int
) -> Iterator[Hypothesis]:
    """Greedy transcripts in the order of the list; what passes the window is cut at silence and joined again."""
    for start in range(0, len(utterances), batch_size):
        group = utterances[start : start + batch_size]
        loaded = [(u, a) for u in group if (a := loader.audio(u)) is not None]
        if not loaded:
            continue
        watch, short = Stopwatch(loader.device), set[int]()
        texts = transcribe_batch((runtime, loader, rules), [a for _, a in loaded], batch_size, watch, cut_short=short)
        for i, ((utterance, _), text) in enumerate(zip(loaded, texts, strict=True)):
            yield Hypothesis(utterance, text, i in short)


def transcribe_batch(
    pipeline: tuple[AnyRuntime, Loader, AnyRules],
    waveforms: Sequence[np.ndarray],
    batch_size: int,
    watch: Stopwatch,
    care: Care = ONCE,
    cut_short: set[int] | None = None,
) -> list[str]:
    """The texts of recordings, each (samples,); stages' times go to `watch`; cut_short as in `transcribe_pieces`."""
    pieces = [piece for index, audio in enumerate(waveforms) for piece in cut(index, audio, pipeline[1].extractor)]
    texts: list[list[str]] = [[] for _ in waveforms]
    for piece, segments in transcribe_pieces(*pipeline, pieces, batch_size, watch, care, cut_short=cut_short):
        texts[piece.recording] += [segment.text for segment in segments]
    watch.finish()
    return [" ".join(parts) for parts in texts]


def cut(recording: int, audio: np.ndarray, extractor: Any) -> list[Piece]:
    """All of (samples,) that is no long pause; one piece where there is none inside and the window holds it."""
    sound = Whole(audio, extractor.sampling_rate)
    return list(pieces_of(recording, sound, extractor.n_samples, trim=False))
