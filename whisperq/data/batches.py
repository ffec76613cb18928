"""Utterances to batches of features and tokens."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.data.audio import load_audio
from whisperq.data.features import log_mel_of, log_mel_range, padded, samples_needed
from whisperq.data.lazy import without_text
from whisperq.data.roles import frame_roles, token_roles
from whisperq.data.tokens import IGNORED, Codec, Tokens
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError

Decode = Callable[[Utterance, int], np.ndarray]  # as `load_audio` does


@dataclass(frozen=True)
class Batch:
    """features (batch, mel bins, frames), float32; tokens of the references."""

    features: Any  # a Tensor; of a WaveformBatch, Waveforms
    tokens: Tokens
    utterances: tuple[Utterance, ...]
    seconds: float = 0.0  # of audio, padding apart
    samples: tuple[int, ...] = ()  # of each recording, of those batches that are made for looking at sites
    digests: tuple[str, ...] = ()  # of each window, where they are asked for: see collate.py

    @property
    def lengths(self) -> dict[str, tuple[int, ...]]:
        """Unpadded length of each utterance along each padded axis, by `Site.axis`."""
        return {"tokens": self.tokens.lengths}

    def inputs(self, dtype: torch.dtype, device: str | torch.device) -> dict[str, Any]:
        """Keyword arguments of the model's forward, with the references as decoder input."""
        features, tokens = self.features.to(device, dtype), self.tokens.inputs.to(device)
        return {"input_features": features, "decoder_input_ids": tokens, "use_cache": False}

    def counted(self, logits: Tensor) -> Tensor:
        """logits (batch, tokens, vocabulary) -> (tokens that have a label, vocabulary)."""
        return logits[(self.tokens.labels != IGNORED).to(logits.device)]


class Loader:
    """Reads recordings and makes batches of log-mel windows; `skipped` names what it could not use, each once."""

    needs_text = True  # teacher-forced, the decoder sees the references
    padding = "decoder padding masked"  # of what is observed; in use, too, the encoder gets the window's silence

    def __init__(self, extractor: Any, codec: Codec, device: str, skip_bad: bool = False) -> None:
        self.extractor, self.codec, self.device, self.skip_bad = extractor, codec, device, skip_bad
        self.skipped: set[str] = set()  # origins
        self.decode: Decode = load_audio
        self.short = False  # whether features of padding are written without looking at it
        self.listen: Callable[[Any], Sequence[int]] | None = None  # finds out languages, where the prompt says none
        self.spoken: dict[str, int] = {}  # what it found, by origin: asked once, since trials change the model

    def refuse(self, utterance: Utterance, sentence: str) -> None:
        """Raises InputError with the sentence, or with skip_bad counts the utterance."""
        if not self.skip_bad:
            raise InputError(sentence)
        self.skipped.add(utterance.origin)

    def audio(self, utterance: Utterance) -> np.ndarray | None:
        """float32 (samples,), or None where it cannot be used and skip_bad says to go on.

        Raises InputError, and ReadError, which skip_bad does not keep back.
        """
        try:
            return self.decode(utterance, self.extractor.sampling_rate)
        except InputError as error:
            if not self.skip_bad:
                raise
            warnings.warn(f"left out: {error}", stacklevel=2)
            self.skipped.add(utterance.origin)
            return None

    def within_window(self, utterance: Utterance) -> np.ndarray | None:
        """The utterance's samples, or None; refuses audio longer than the model's window. Raises as `audio` does."""
        audio = self.audio(utterance)
        if audio is not None and len(audio) > self.extractor.n_samples:
            self.refuse(utterance, self.too_long(utterance, len(audio) / self.extractor.sampling_rate))
            return None
        return audio

    def too_long(self, utterance: Utterance, seconds: float) -> str:
        return (
            f"{utterance.origin}: {seconds:.2f} s of audio, but the model's window "
            f"is {self.window_seconds:g} s; cut it, or give --skip-bad"
        )

    @property
    def feature_range(self) -> tuple[float, float] | None:
        """Least and greatest value that features of any recording can have; None where they are not bounded."""
        return log_mel_range(self.extractor)

    @property
    def window_seconds(self) -> float:
        return self.extractor.n_samples / self.extractor.sampling_rate

    def text_fits(self, utterance: Utterance) -> bool:
        """Whether the decoder takes the reference; with skip_bad one that is too long is counted instead of refused."""
        try:
            self.codec.check(self.codec.encode(utterance.text or ""), utterance.origin)
        except InputError as error:
            self.refuse(utterance, str(error))
            return False
        return True

    def labelled(self, utterances: Sequence[Utterance]) -> Batch | None:
        """Features and reference tokens; None where nothing usable is left."""
        pairs = [(u, a) for u in utterances if self.text_fits(u) and (a := self.within_window(u)) is not None]
        if not pairs:
            return None
        kept, audio = zip(*pairs, strict=True)
        features, texts, origins = self.features(audio), [u.text or "" for u in kept], [u.origin for u in kept]
        languages = [] if self.listen is None else [self._languages(origins, features, self.listen)]
        tokens = self.codec.batch(texts, origins, *languages)
        seconds = sum(map(len, audio)) / self.extractor.sampling_rate
        batch = self.batch(features, tokens, tuple(kept), seconds)
        return replace(batch, samples=tuple(map(len, audio)))

    def _languages(self, origins: Sequence[str], features: Any, listen: Callable[[Any], Sequence[int]]) -> list[int]:
        if new := [i for i, origin in enumerate(origins) if origin not in self.spoken]:
            self.spoken |= zip([origins[i] for i in new], listen(features[new]), strict=True)
        return [self.spoken[origin] for origin in origins]

    def roles(self, batch: Batch, number: int, axis: str, rows: int) -> dict[str, range]:
        """Role -> rows of a site's tensor, for utterance `number` of a labelled batch; axis: `Site.axis`."""
        if axis == "tokens":
            return token_roles(len(self.codec.prompt_in(self.spoken.get(batch.utterances[number].origin))), rows)
        return frame_roles(batch.samples[number], batch.features.shape[-1] * self.extractor.hop_length, rows)

    def token_labels(self, batch: Batch, number: int) -> tuple[str, ...]:
        """Text of each decoder input token of utterance `number`."""
        return self.codec.labels(batch.tokens.inputs[number, : batch.tokens.lengths[number]].tolist())

    def features(self, waveforms: Sequence[np.ndarray], device: str | torch.device | None = None) -> Any:
        """Waveforms, each (samples,) -> (batch, mel bins, frames), on the device."""
        samples = samples_needed(waveforms, self.extractor) if self.short else self.extractor.n_samples
        together = self._moved(padded(waveforms, samples), device or self.device)
        return log_mel_of(together, self.extractor)

    @staticmethod
    def _moved(values: Tensor, device: str | torch.device) -> Tensor:
        device = torch.device(device)
        return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values

    def batch(self, features: Any, tokens: Tokens, utterances: tuple[Utterance, ...], seconds: float) -> Batch:
        return Batch(features, tokens, utterances, seconds)

    def held_seconds(self, batch: Batch) -> float:
        """Seconds of audio that the batch computes on, padding included."""
        return len(batch.features) * self.window_seconds

    def labelled_batches(self, utterances: Sequence[Utterance], size: int) -> Iterator[Batch]:
        for start in range(0, len(utterances), size):
            batch = self.labelled(utterances[start : start + size])
            if batch is not None:
                yield batch


def require_texts(utterances: Sequence[Utterance], purpose: str) -> None:
    """Raises InputError at the first utterance without a reference."""
    if (utterance := without_text(utterances)) is not None:
        raise InputError(f"{utterance.origin} has no text, which {purpose} needs")


def teacher_forced(model: PreTrainedModel, batch: Batch, device: str | torch.device) -> Tensor:
    """Logits (batch, tokens, vocabulary) of the model given the references; with CTC (batch, frames, vocabulary)."""
    return model(**batch.inputs(model.dtype, device)).logits


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation that is a function of (seed, epoch) alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()
