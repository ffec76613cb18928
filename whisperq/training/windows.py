"""One window of training: utterances read, decoded, joined, and their label; whatever process does it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whisperq.data.audio import load_audio
from whisperq.data.batches import Decode, Loader
from whisperq.data.timed_words import Segment
from whisperq.data.tokens import Codec
from whisperq.data.utterance import Utterance

ROUNDING = 2  # samples
Member = int | Utterance  # a number in the training data, or the utterance itself where it is streamed


@dataclass(frozen=True)
class Job:
    """Utterances to join in one window; timed: its label has Whisper's times."""

    members: tuple[Member, ...]
    timed: bool


@dataclass(frozen=True)
class Window:
    """Samples (samples,) without padding, the label's tokens, and which utterances are in it: none, where all failed.

    The utterances have lost what audio they embedded; skipped holds the origins of those that could not be used.
    """

    samples: np.ndarray
    sequence: tuple[int, ...]
    utterances: tuple[Utterance, ...]
    skipped: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Builder:
    """Makes windows of jobs; works alike in this process and in another."""

    find: Callable[[int], Utterance]
    extractor: Any
    codec: Codec
    skip_bad: bool
    decode: Decode = load_audio

    def __call__(self, job: Job) -> Window:
        """Raises InputError for what cannot be used, without skip_bad."""
        loader = Loader(self.extractor, self.codec, "cpu", self.skip_bad)
        loader.decode = self.decode
        pairs: list[tuple[Utterance, np.ndarray]] = []
        for utterance in map(self._utterance, job.members):
            audio = self._audio(utterance, loader)
            if audio is not None and self._has_room(utterance, audio, pairs, loader):
                pairs.append((utterance, audio))
        skipped = frozenset(loader.skipped)
        if not pairs:
            return Window(np.zeros(0, np.float32), (), (), skipped)
        utterances, audios = [u for u, _ in pairs], joined(pairs, self.extractor)
        texts, ends = [u.text or "" for u in utterances], _ends(audios, self.extractor)
        sequence = label(self.codec, texts, ends, job.timed)
        if job.timed and not self.codec.fits(sequence):  # one utterance's, which the times alone make too long
            sequence = label(self.codec, texts, ends, False)
        self.codec.check(sequence, utterances[0].origin)
        return Window(np.concatenate(audios), tuple(sequence), tuple(map(without_audio, utterances)), skipped)

    def _utterance(self, member: Member) -> Utterance:
        return self.find(member) if isinstance(member, int) else member

    def _audio(self, utterance: Utterance, loader: Loader) -> np.ndarray | None:
        if utterance.text is None:
            loader.refuse(utterance, f"{utterance.origin} has no text, which distillation needs")
            return None
        return loader.within_window(utterance) if loader.text_fits(utterance) else None

    def _has_room(
        self, utterance: Utterance, audio: np.ndarray, pairs: Sequence[tuple[Utterance, np.ndarray]], loader: Loader
    ) -> bool:
        """Packing went by the lengths that lists and headers give; here is what the recordings hold."""
        rate = self.extractor.sampling_rate
        if sum(_stated(u, a, rate) for u, a in [*pairs, (utterance, audio)]) <= self.extractor.n_samples:
            return True
        loader.refuse(
            utterance, f"{utterance.origin} holds {len(audio) / rate:.2f} s of audio, more than was stated before"
        )
        return False


def _stated(utterance: Utterance, audio: np.ndarray, rate: int) -> int:
    """Samples, less those by which a file may pass its list's rounded duration, and what resampling rounds up."""
    if utterance.duration is None:
        return len(audio) - ROUNDING
    return min(len(audio), int(utterance.duration * rate)) - ROUNDING


def joined(pairs: Sequence[tuple[Utterance, np.ndarray]], extractor: Any) -> list[np.ndarray]:
    """The recordings, each without what passes its stated length where they would not fit the window together."""
    audios = [audio for _, audio in pairs]
    if sum(map(len, audios)) <= extractor.n_samples:
        return audios
    return [audio[: max(1, _stated(u, audio, extractor.sampling_rate))] for u, audio in pairs]


def label(codec: Codec, texts: Sequence[str], ends: Sequence[float], timed: bool) -> list[int]:
    """The whole sequence over utterances that end at `ends`, in seconds, each beginning where the last one ends."""
    if not timed:
        return codec.encode(" ".join(stripped for text in texts if (stripped := text.strip())))
    starts = [0.0, *ends[:-1]]
    return codec.encode_timed([Segment(s, e, t) for s, e, t in zip(starts, ends, texts, strict=True)])


def fitting(codec: Codec, texts: Sequence[str], timed: bool) -> int:
    """How many texts, counted from the first, fit into one label; at least one."""
    count = len(texts)
    while count > 1 and not codec.fits(label(codec, texts[:count], [0.0] * count, timed)):
        count -= 1
    return count


def _ends(audios: Sequence[np.ndarray], extractor: Any) -> list[float]:
    return (np.cumsum([len(a) for a in audios]) / extractor.sampling_rate).tolist()


def without_audio(utterance: Utterance) -> Utterance:
    """A recording of megabytes need not cross from one process to another twice."""
    return replace(utterance, audio=b"") if isinstance(utterance.audio, bytes) else utterance
