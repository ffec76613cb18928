"""Batches of raw waveforms with their transcripts as labels for CTC: what wav2vec 2.0 and HuBERT take.

    y = (x - mean x) / sqrt(var x + 1e-7)        where the extractor says `do_normalize`; each utterance's own

Behind the shorter ones of a batch stand zeros, which the attention mask marks. There is no window: a recording of
more than a minute is cut at silence, for attention's memory grows with its square.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2CTCTokenizer

from whisperq.data.batches import Batch, Loader
from whisperq.data.tokens import IGNORED, Tokens
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError

LONGEST = 60  # seconds of audio that the model gets at once; our limit
VARIANCE_FLOOR = 1e-7  # transformers' Wav2Vec2FeatureExtractor
Counts = Callable[[Sequence[int]], Mapping[str, tuple[int, ...]]]  # samples -> lengths by `Site.axis`


@dataclass(frozen=True)
class WaveformExtractor:
    """Settings of a waveform model's feature extractor."""

    sampling_rate: int
    normalized: bool
    shortest: int  # samples of which the network makes one frame

    @property
    def n_samples(self) -> int:
        """The most samples that the model gets at once."""
        return LONGEST * self.sampling_rate


@dataclass(frozen=True)
class Waveforms:
    """values (batch, samples), float32, zeros behind the shorter ones; counts: samples of each."""

    values: Tensor
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.counts)

    def mask(self) -> Tensor:
        """(batch, samples), 1 where a sample is the utterance's own."""
        places = torch.arange(self.values.shape[1], device=self.values.device)
        return (places < torch.tensor(self.counts, device=self.values.device)[:, None]).long()

    def rows(self) -> list[Tensor]:
        """Samples of each utterance, without padding."""
        return [row[:n] for row, n in zip(self.values, self.counts, strict=True)]


@dataclass(frozen=True)
class WaveformBatch(Batch):
    """A batch whose features are `Waveforms`."""

    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def lengths(self) -> dict[str, tuple[int, ...]]:
        return dict(self.counts)

    def inputs(self, dtype: torch.dtype, device: str | torch.device) -> dict[str, Any]:
        values = self.features.values.to(device, dtype)
        return {"input_values": values, "attention_mask": self.features.mask().to(device)}

    def counted(self, logits: Tensor) -> Tensor:
        """logits (batch, frames, vocabulary) -> (all utterances' own frames, vocabulary)."""
        return torch.cat([row[:n] for row, n in zip(logits, self.counts["frames"], strict=True)])


@dataclass(frozen=True)
class CtcCodec:
    """A model's characters or pieces, and the label that stands for none."""

    tokenizer: Wav2Vec2CTCTokenizer
    blank: int
    prompt: tuple[int, ...] = ()
    end: int | None = None
    max_tokens: int = LONGEST * 50  # no more labels than frames
    times: range = range(0)

    def encode(self, text: str) -> list[int]:
        """Labels of a text, in the vocabulary's case; what the vocabulary cannot write is left out.

        Text that spells a control token, such as <s>, is text.
        """
        tokens = self.tokenizer.get_vocab()
        letters = [t for t in tokens if len(t) == 1]
        for changed, lacking in ((str.upper, str.islower), (str.lower, str.isupper)):
            if not any(lacking(t) for t in letters):
                text = changed(text)
        unknown = {self.tokenizer.unk_token_id, self.blank}
        labels = self.tokenizer(" ".join(text.split()), split_special_tokens=True).input_ids
        return [i for i in labels if i not in unknown]

    def decode(self, ids: Sequence[int]) -> str:
        """Labels of which repeats are collapsed and blanks are gone -> words."""
        return self.tokenizer.decode(list(ids), group_tokens=False, skip_special_tokens=True).strip()

    def fits(self, sequence: Sequence[int]) -> bool:
        return len(sequence) <= self.max_tokens

    def check(self, sequence: Sequence[int], origin: str) -> None:
        if not self.fits(sequence):
            raise InputError(f"{origin}: its text has {len(sequence)} labels, but no recording here has more frames")

    def batch(self, texts: Sequence[str], origins: Sequence[str]) -> Tokens:
        return self.pad([self.encode(text) for text in texts])

    def pad(self, sequences: Sequence[Sequence[int]]) -> Tokens:
        """Labels side by side; there is nothing to shift."""
        labels = torch.full((len(sequences), max(1, *map(len, sequences), 1)), IGNORED)
        for row, sequence in zip(labels, sequences, strict=True):
            row[: len(sequence)] = torch.tensor(sequence, dtype=labels.dtype)
        return Tokens(labels, labels, tuple(map(len, sequences)))


class WaveformLoader(Loader):
    """Reads recordings and makes batches of waveforms."""

    needs_text = False  # no decoder that the references would lead
    padding = "padding masked"
    feature_range = None  # samples are scaled by their own spread

    def __init__(
        self, extractor: WaveformExtractor, codec: CtcCodec, device: str, skip_bad: bool, counts: Counts
    ) -> None:
        # It does what a loader asks of a codec; languages and times, which it lacks, Whisper's own decoding asks for.
        super().__init__(extractor, codec, device, skip_bad)  # type: ignore[arg-type]
        self.counts = counts

    def features(self, waveforms: Sequence[np.ndarray], device: str | torch.device | None = None) -> Waveforms:
        counts = tuple(max(len(w), self.extractor.shortest) for w in waveforms)
        values = np.zeros((len(waveforms), max(counts)), np.float32)
        for row, waveform in zip(values, waveforms, strict=True):
            row[: len(waveform)] = normalized(waveform) if self.extractor.normalized else waveform
        return Waveforms(self._moved(torch.from_numpy(values), device or self.device), counts)

    def batch(
        self, features: Waveforms, tokens: Tokens, utterances: tuple[Utterance, ...], seconds: float
    ) -> WaveformBatch:
        return WaveformBatch(features, tokens, utterances, seconds, counts=self.counts(features.counts))

    def roles(self, batch: Batch, number: int, axis: str, rows: int) -> dict[str, range]:
        return {"speech": range(rows)}  # padding is masked

    def held_seconds(self, batch: Batch) -> float:
        return batch.features.values.numel() / self.extractor.sampling_rate


def normalized(waveform: np.ndarray) -> np.ndarray:
    """(samples,) -> zero mean, unit variance."""
    if not len(waveform):
        return waveform
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + VARIANCE_FLOOR)
