"""Our log-mel against transformers' own feature extractor."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from whisperq.data.features import log_mel, log_mel_of, log_mel_range, padded, samples_needed


def waveforms(seconds: list[float], rate: int = 16000) -> list[np.ndarray]:
    """Tones in noise, each louder than the one before: per-utterance floors must differ."""
    rng = np.random.default_rng(0)
    made = []
    for index, length in enumerate(seconds):
        time = np.arange(int(length * rate)) / rate
        tone = np.sin(2 * np.pi * 300 * (index + 1) * time) * 10.0 ** (index - 2)
        made.append((tone + 1e-4 * rng.standard_normal(len(time))).astype(np.float32))
    return made


@pytest.mark.parametrize(
    ("window_s", "mel_bins", "seconds"),
    [(30, 80, [1.0, 12.3, 30.0]), (4, 80, [0.5, 2.7, 4.0]), (30, 128, [3.1]), (4, 128, [3.1, 4.0])],
)
def test_agrees_with_transformers(window_s: int, mel_bins: int, seconds: list[float]) -> None:
    extractor = WhisperFeatureExtractor(feature_size=mel_bins, chunk_length=window_s)
    batch = waveforms(seconds)
    expected = extractor(batch, sampling_rate=16000, return_tensors="pt").input_features
    ours = log_mel(batch, extractor)
    assert ours.dtype == torch.float32
    assert ours.shape == (len(seconds), mel_bins, window_s * 100)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_an_utterance_does_not_depend_on_its_neighbours() -> None:
    extractor = WhisperFeatureExtractor(chunk_length=4)
    quiet, _, loud = waveforms([2.0, 2.0, 2.0])
    alone = log_mel([quiet], extractor)[0]
    together = log_mel([quiet, loud], extractor)[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_silence_is_finite() -> None:
    features = log_mel([np.zeros(100, np.float32)], WhisperFeatureExtractor(chunk_length=4))
    assert torch.allclose(features, torch.full_like(features, (-10.0 + 4.0) / 4.0))


def test_two_extractors_keep_their_own_filters() -> None:
    batch = waveforms([1.0])
    narrow, wide = (WhisperFeatureExtractor(feature_size=n, chunk_length=4) for n in (80, 128))
    assert log_mel(batch, narrow).shape[1] == 80
    assert log_mel(batch, wide).shape[1] == 128


def test_too_long_is_refused() -> None:
    extractor = WhisperFeatureExtractor(chunk_length=4)
    with pytest.raises(ValueError, match="longer than the model's window of 64000"):
        log_mel([np.zeros(64001, np.float32)], extractor)


def hardest(time: np.ndarray) -> dict[str, np.ndarray]:
    """Recordings at the ends of what samples within -1 and 1 can be."""
    square = np.sign(np.sin(2 * np.pi * 440 * time))
    impulse = np.zeros(len(time))
    impulse[8000] = 1.0
    return {
        "silence": np.zeros(len(time)),
        "a step of 16 bits": np.where(np.arange(len(time)) % 5000, 0.0, 2.0**-15),
        "an impulse": impulse,
        "all samples 1": np.ones(len(time)),
        "a full tone at the greatest filter": np.sin(2 * np.pi * 160 * time),
        "a full square wave": square,
        "white noise, clipped": np.clip(100 * np.random.default_rng(0).standard_normal(len(time)), -1, 1),
        "chirp": np.sin(2 * np.pi * 1000 * time**2),
    }


@pytest.mark.parametrize("mel_bins", [80, 128])
def test_no_recording_leaves_the_range_that_mathematics_gives(mel_bins: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=mel_bins, chunk_length=4)
    low, high = log_mel_range(extractor)
    assert low == -1.5  # (log10(1e-10) + 4) / 4
    tops = []
    for name, samples in hardest(np.arange(64000) / 16000).items():
        # transformers' own features, not ours
        features = extractor(samples.astype(np.float32), sampling_rate=16000, return_tensors="np").input_features
        assert low <= features.min() and features.max() <= high, name
        tops.append(features.max())
    assert high - max(tops) < 0.25  # a bound that is near, not any: an eighth of the features' two units


@pytest.mark.parametrize("lengths", [[0], [1], [399, 5000], [48_000, 3], [63_000], [63_700], [64_000]])
def test_padding_written_without_looking_is_that_of_transformers(lengths: list[int]) -> None:
    extractor = WhisperFeatureExtractor(chunk_length=4)
    rng = np.random.default_rng(5)
    batch = [rng.normal(size=n).astype(np.float32) * 0.1 for n in lengths]
    few = padded(batch, samples_needed(batch, extractor))
    assert few.shape[1] <= max(lengths) + 560
    found = log_mel_of(few, extractor)
    expected = extractor([*batch], sampling_rate=16000, return_tensors="pt").input_features
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    above = [one > one.amin(dim=(1, 2), keepdim=True) for one in (found, log_mel(batch, extractor))]
    frames = [int(one.any(dim=1).sum()) for one in above]  # that are no padding
    assert frames[0] == frames[1] <= sum(n // 160 + 3 for n in lengths)
