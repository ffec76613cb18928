"""Training batches for CTC: drawn strings as waveforms, letters and frame labels.

The first layer's group norm averages over an utterance's whole length, padding
included, and an utterance is later transcribed alone and unpadded. So nothing is
padded with zeros: strings of similar length share a batch, and the shorter
ones go on with their own background noise.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from augment import equalise
from joining import RATE, Joined, frame_levels
from mixing import FRAME, Sources, draw, frame_labels
from recipe import Settings
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2Processor
from transformers.audio_utils import hertz_to_mel

GRAIN = RATE // 5  # lengths are multiples of 0.2 s: oneDNN prepares anew for every length it has not met
POOL = 4  # batches cut from one pool, sorted by length
RECEPTIVE = 400  # samples that one encoder frame covers
BANDS = 80  # the microphone's curve is smooth over the mel scale


@dataclass(frozen=True)
class CtcBatch:
    """What one step sees."""

    waveforms: torch.Tensor  # (batch, samples), each of zero mean and unit variance
    targets: torch.Tensor  # (batch, letters), padded with the blank
    lengths: torch.Tensor  # (batch,) letters
    frames: torch.Tensor  # (batch, encoder frames), classes


def ctc_batches(sources: Sources, processor: Wav2Vec2Processor, settings: Settings) -> Iterator[CtcBatch]:
    """POOL batches at a time, in random order of length; pools depend on the seed and their number alone."""
    for first in range(0, settings.steps, POOL):
        rng = np.random.default_rng([settings.seed, first])
        most = 3 if first < settings.short_steps else 7
        drawn = [draw(sources, rng, most, settings.real_share) for _ in range(POOL * settings.batch)]
        drawn.sort(key=lambda joined: joined.duration)
        for number in rng.permutation(POOL):
            yield make_batch(drawn[number * settings.batch :][: settings.batch], processor, rng)


def make_batch(drawn: list[Joined], processor: Wav2Vec2Processor, rng: np.random.Generator) -> CtcBatch:
    """Strings of similar length, all made as long as the longest."""
    length = GRAIN * math.ceil(max(len(joined.samples) for joined in drawn) / GRAIN)
    waveforms = recoloured(np.stack([continued(joined.samples, length, rng) for joined in drawn]), rng)
    values = processor.feature_extractor(list(waveforms), sampling_rate=RATE, return_tensors="pt").input_values
    letters = [torch.tensor(processor.tokenizer(joined.text).input_ids) for joined in drawn]
    count = (length - RECEPTIVE) // FRAME + 1
    return CtcBatch(
        values,
        pad_sequence(letters, batch_first=True, padding_value=processor.tokenizer.pad_token_id),
        torch.tensor([len(ids) for ids in letters]),
        torch.from_numpy(np.stack([frame_labels(joined, count) for joined in drawn])),
    )


def continued(samples: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """(samples,) -> (length,): on with noise at the level of the quietest moment."""
    floor = frame_levels(samples).min()
    noise = floor * rng.standard_normal(length - len(samples), dtype=np.float32)
    return np.concatenate([samples, noise])


def recoloured(waveforms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another microphone and room for each of (batch, samples): `augment.equalise`, as a filter."""
    batch, length = waveforms.shape
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    units = equalise(torch.zeros(batch, BANDS, 1), generator)[..., 0].numpy()  # 40 dB each
    mel = hertz_to_mel(np.fft.rfftfreq(length, 1 / RATE), mel_scale="slaney")
    bands = np.linspace(0, mel[-1], BANDS)
    gains = np.stack([10 ** (2 * np.interp(mel, bands, curve)) for curve in units])
    return np.fft.irfft(np.fft.rfft(waveforms) * gains, n=length).astype(np.float32)
