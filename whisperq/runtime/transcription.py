"""Recordings of any length to text, with the time that it took."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from whisperq.data.audio import split_at_silence
from whisperq.data.batches import Loader
from whisperq.data.segments import Segment
from whisperq.data.tokens import Codec
from whisperq.data.utterance import Utterance
from whisperq.runtime.ctc import CtcRules, CtcRuntime
from whisperq.runtime.decoding import Rules
from whisperq.runtime.interface import Runtime
from whisperq.runtime.stopwatch import Stopwatch

AnyRuntime = Runtime | CtcRuntime
AnyRules = Rules | CtcRules


@dataclass(frozen=True)
class Hypothesis:
    """What the model heard; seconds of audio, and wall seconds of features and decoding (shared by its batch)."""

    utterance: Utterance
    text: str
    audio_seconds: float
    seconds: float

    def without_sound(self) -> "Hypothesis":
        """The same, light enough to keep many and to send: an embedded recording is left out."""
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
        began = time.perf_counter()
        watch = Stopwatch(loader.device)
        texts = transcribe_batch((runtime, loader, rules), [a for _, a in loaded], batch_size, watch)
        share = (time.perf_counter() - began) / len(loaded)
        for (utterance, audio), text in zip(loaded, texts, strict=True):
            yield Hypothesis(utterance, text, len(audio) / loader.extractor.sampling_rate, share)


def transcribe_batch(
    ears: tuple[AnyRuntime, Loader, AnyRules], waveforms: Sequence[np.ndarray], batch_size: int, watch: Stopwatch
) -> list[str]:
    """The texts of recordings, each (samples,); the stages' times go to `watch`."""
    runtime, loader, rules = ears
    pieces = [piece for index, audio in enumerate(waveforms) for piece in cut(index, audio, loader.extractor)]
    texts: list[list[str]] = [[] for _ in waveforms]
    for piece, segments in hear(runtime, loader, rules, pieces, batch_size, watch):
        texts[piece.recording] += [segment.text for segment in segments]
    watch.finish()
    return [" ".join(parts) for parts in texts]


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording that the window holds."""

    recording: int  # its place in the list
    start: float  # seconds into it
    seconds: float
    samples: np.ndarray  # (samples,)


def cut(recording: int, audio: np.ndarray, extractor) -> list[Piece]:
    """All of (samples,), cut at silence where the window is shorter."""
    rate = extractor.sampling_rate
    ranges = [(0, len(audio))]
    if len(audio) > extractor.n_samples:
        ranges = split_at_silence(audio, rate, extractor.n_samples / rate)
    return [Piece(recording, a / rate, (b - a) / rate, audio[a:b]) for a, b in ranges]


def hear(
    runtime: AnyRuntime,
    loader: Loader,
    rules: AnyRules,
    pieces: Iterable[Piece],
    batch_size: int,
    watch: Stopwatch | None = None,
) -> Iterator[tuple[Piece, list[Segment]]]:
    """What is said in each piece, in order; none where nothing is. Reads no more of `pieces` than one batch ahead."""
    pieces, watch = iter(pieces), watch or Stopwatch(loader.device)
    while part := list(islice(pieces, batch_size)):
        with watch.timing("features"):
            features = loader.features([piece.samples for piece in part])
        with watch.timing("decoding"):
            rows = rules.read(runtime, features)
        for piece, ids in zip(part, rows, strict=True):
            yield piece, _segments(piece, ids, loader.codec, bool(rules.times))


def _segments(piece: Piece, ids: list[int], codec: Codec, timed: bool) -> list[Segment]:
    if timed:
        return codec.segments(ids, piece.start, piece.seconds)
    text = codec.decode(ids)
    return [Segment(piece.start, piece.start + piece.seconds, text)] if text else []
