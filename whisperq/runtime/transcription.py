"""Recordings of any length to text, with the time that it took."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from whisperq.data.audio import split_at_silence
from whisperq.data.batches import Loader
from whisperq.data.features import log_mel
from whisperq.data.utterance import Utterance
from whisperq.runtime.decoding import Rules, greedy
from whisperq.runtime.pytorch import Runtime


@dataclass(frozen=True)
class Hypothesis:
    """What the model heard; seconds of audio, and wall seconds of features and decoding (shared by its batch)."""

    utterance: Utterance
    text: str
    audio_seconds: float
    seconds: float


def transcribe(
    runtime: Runtime, loader: Loader, rules: Rules, utterances: Sequence[Utterance], batch_size: int
) -> Iterator[Hypothesis]:
    """Greedy transcripts in the order of the list; what passes the window is cut at silence and joined again."""
    for start in range(0, len(utterances), batch_size):
        group = utterances[start : start + batch_size]
        loaded = [(u, a) for u in group if (a := loader.audio(u)) is not None]
        if not loaded:
            continue
        began = time.perf_counter()
        texts = _transcribe_batch(runtime, loader, rules, [a for _, a in loaded], batch_size)
        share = (time.perf_counter() - began) / len(loaded)
        for (utterance, audio), text in zip(loaded, texts, strict=True):
            yield Hypothesis(utterance, text, len(audio) / loader.extractor.sampling_rate, share)


def _transcribe_batch(
    runtime: Runtime, loader: Loader, rules: Rules, waveforms: Sequence[np.ndarray], batch_size: int
) -> list[str]:
    extractor = loader.extractor
    window = extractor.n_samples / extractor.sampling_rate
    pieces: list[tuple[int, np.ndarray]] = []
    for index, audio in enumerate(waveforms):
        ranges = [(0, len(audio))]
        if len(audio) > extractor.n_samples:
            ranges = split_at_silence(audio, extractor.sampling_rate, window)
        pieces += [(index, audio[a:b]) for a, b in ranges]
    texts: list[list[str]] = [[] for _ in waveforms]
    for start in range(0, len(pieces), batch_size):
        part = pieces[start : start + batch_size]
        features = log_mel([audio for _, audio in part], extractor, loader.device)
        for (index, _), ids in zip(part, greedy(runtime, features, rules), strict=True):
            texts[index].append(loader.codec.decode(ids))
    if loader.device != "cpu":
        torch.cuda.synchronize()
    return [" ".join(t for t in parts if t) for parts in texts]
