"""Augmentation of log-mel features: other throats, other microphones, SpecAugment.

    warp        y'(f) = y(alpha * f)      vocal tract length; alpha 0.85..1.18
    equalise    y'(f) = y(f) + c(f)       c: a tilt and three slow cosines, a few dB
    mask        bands of bins and runs of frames set to the utterance's mean

Features are Whisper's: one unit is 40 dB, and nothing lies more than two units
below the utterance's loudest cell.
"""

import math

import torch
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

RANGE = 2.0  # units, 80 dB
TOP_HZ = 8000.0
WIDEST_BINS = 12
WIDEST_FRAMES = 20  # 200 ms


def augment(features: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(batch, mel bins, frames) -> the same shape, differently for every utterance."""
    varied = equalise(warp(features, generator), generator)
    varied = torch.maximum(varied, varied.amax(dim=(1, 2), keepdim=True) - RANGE)
    return mask(varied, generator)


def uniform(low: float, high: float, shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """float32 in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=g)


def warp(features: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Stretch the frequency axis of each utterance, a third of them not at all."""
    batch, bins, frames = features.shape
    alpha = torch.exp(uniform(math.log(0.85), math.log(1.18), (batch, 1), generator))
    alpha[torch.rand(batch, generator=generator) < 1 / 3] = 1.0
    step = hertz_to_mel(TOP_HZ, mel_scale="slaney") / (bins + 1)  # one bin in mel
    centres = mel_to_hertz(step * torch.arange(1, bins + 1).numpy(), mel_scale="slaney")
    wanted = hertz_to_mel((alpha * torch.as_tensor(centres)).numpy(), mel_scale="slaney")
    position = (torch.as_tensor(wanted, dtype=torch.float32) / step - 1).clamp(0, bins - 1)
    below = position.floor().long().clamp(max=bins - 2)
    weight = (position - below).unsqueeze(-1)
    index = below.unsqueeze(-1).expand(batch, bins, frames)
    return features.gather(1, index) * (1 - weight) + features.gather(1, index + 1) * weight


def equalise(features: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add a smooth curve over frequency: another microphone, another room."""
    batch, bins, _ = features.shape
    axis = torch.linspace(0, 1, bins)
    curve = uniform(-0.15, 0.15, (batch, 1), generator) * (2 * axis - 1)
    for waves in (1, 2, 3):
        phase = uniform(0, 2 * math.pi, (batch, 1), generator)
        curve += uniform(0, 0.06, (batch, 1), generator) * torch.cos(math.pi * waves * axis + phase)
    return features + curve.unsqueeze(-1)


def mask(features: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """SpecAugment: two bands and two runs of each utterance."""
    batch, bins, frames = features.shape
    hidden = torch.zeros_like(features, dtype=torch.bool)
    for _ in range(2):
        hidden |= _stripes(batch, bins, WIDEST_BINS, generator).unsqueeze(-1)
        hidden |= _stripes(batch, frames, WIDEST_FRAMES, generator).unsqueeze(1)
    return torch.where(hidden, features.mean(dim=(1, 2), keepdim=True), features)


def _stripes(batch: int, size: int, widest: int, generator: torch.Generator) -> torch.Tensor:
    """One run of up to `widest` true cells in each row: bool (batch, size)."""
    width = torch.randint(0, widest + 1, (batch, 1), generator=generator)
    start = (torch.rand(batch, 1, generator=generator) * (size - width)).long()
    axis = torch.arange(size)
    return (axis >= start) & (axis < start + width)
