"""Log-mel spectrograms, the input of Whisper, in torch and in batches.

    X = |STFT(x)|^2                        power, (n_fft/2 + 1, frames)
    M = log10(max(F^T X, 1e-10))           F: mel filters, (n_fft/2 + 1, mel bins)
    y = (max(M, max(M) - 8) + 4) / 4       the floor is one utterance's own

Samples within -1 and 1 cannot leave -1.5 <= y <= (log10(max F * n_fft * sum w^2) + 4) / 4, w being the window: by
Parseval's theorem all of a frame's power is n_fft * sum (w x)^2. For Whisper's 80 bins the upper end is 1.80.

Window length, filters, hop and rate are the extractor's (a transformers
`WhisperFeatureExtractor`): 30 s and 80 bins are Whisper's, not ours.
"""

import math
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from transformers import WhisperFeatureExtractor

POWER_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0  # decades below the utterance's loudest cell

Constants = tuple[torch.Tensor, torch.Tensor]

# Keyed by the extractor itself, so that two with different filters never mix.
_constants: WeakKeyDictionary = WeakKeyDictionary()


def log_mel(
    waveforms: Sequence[np.ndarray], extractor: WhisperFeatureExtractor, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Waveforms, each (samples,) at the extractor's rate -> float32 (batch, mel bins, frames).

    Each is padded with zeros to `extractor.n_samples`; a longer one is a
    `ValueError`, because cutting it would silently lose words.
    """
    return log_mel_of(padded(waveforms, extractor.n_samples).to(device), extractor)


def log_mel_range(extractor: WhisperFeatureExtractor) -> tuple[float, float]:
    """The least and the greatest value that a log-mel spectrogram can have, whatever the recording and its level."""
    window = torch.hann_window(extractor.n_fft, dtype=torch.float64)
    power = float(np.max(extractor.mel_filters)) * extractor.n_fft * float(window.square().sum())
    return (math.log10(POWER_FLOOR) + 4.0) / 4.0, (math.log10(power) + 4.0) / 4.0


def log_mel_of(samples: torch.Tensor, extractor: WhisperFeatureExtractor) -> torch.Tensor:
    """float32 (batch, n_samples), padded -> float32 (batch, mel bins, frames), on the samples' device.

    Of fewer samples, as if there were zeros behind them (`samples_needed`).
    """
    window, filters = _window_and_filters(extractor, samples.device)
    spectrum = torch.stft(samples, extractor.n_fft, extractor.hop_length, window=window, return_complex=True)
    # The centred STFT has one frame more than samples / hop; Whisper drops it.
    power = spectrum[..., :-1].abs().square().contiguous()
    log_power = (filters @ power).clamp(min=POWER_FLOOR).log10()
    loudest = log_power.amax(dim=(1, 2), keepdim=True)
    if (missing := (extractor.n_samples - samples.shape[1]) // extractor.hop_length) > 0:
        log_power = F.pad(log_power, (0, missing), value=math.log10(POWER_FLOOR))
    return (torch.maximum(log_power, loudest - DYNAMIC_RANGE) + 4.0) / 4.0


def samples_needed(waveforms: Sequence[np.ndarray], extractor: WhisperFeatureExtractor) -> int:
    """How many samples of the window frames with sound see: behind the longest waveform all is zero.

    A frame reaches half of n_fft beyond its centre, and at the end as much again is mirrored, which must be zeros.
    """
    step = extractor.hop_length
    return min(-(-(max(map(len, waveforms)) + extractor.n_fft) // step) * step, extractor.n_samples)


def padded(waveforms: Sequence[np.ndarray], n_samples: int) -> torch.Tensor:
    """Waveforms of at most `n_samples` -> float32 (batch, n_samples), zeros behind."""
    batch = np.zeros((len(waveforms), n_samples), dtype=np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        if len(waveform) > n_samples:
            raise ValueError(
                f"a waveform of {len(waveform)} samples is longer than the model's "
                f"window of {n_samples}: cut it at silence first"
            )
        row[: len(waveform)] = waveform
    return torch.from_numpy(batch)


def _window_and_filters(extractor: WhisperFeatureExtractor, device: torch.device) -> Constants:
    """The Hann window (n_fft,) and the filters (mel bins, n_fft/2 + 1) on `device`."""
    per_device = _constants.setdefault(extractor, {})
    if device not in per_device:
        filters = torch.as_tensor(extractor.mel_filters, dtype=torch.float32)
        per_device[device] = (
            torch.hann_window(extractor.n_fft, device=device),
            filters.T.contiguous().to(device),
        )
    return per_device[device]
