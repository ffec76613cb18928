"""SpecAugment: stretches of mel bins and of time set to zero.

    f ~ U{0..F},  f0 ~ U{0..bins - f}       mel bins f0 to f0 + f, twice
    t ~ U{0..T},  t0 ~ U{0..frames - t}     frames t0 to t0 + t, twice

F = 27 of 80 bins and T = 100 frames of 10 ms, the LibriSpeech double policy (LD) of Park et al. 2019
(arXiv 1904.08779, table 1) without its time warping; F grows with the number of bins. T is at most p = 0.2 of the
frames that hold audio (their p of the Switchboard policies, where LD has 1), so that short utterances keep words;
padding is not drawn from. Zero is the value that transformers' Whisper masks with.
"""

from collections.abc import Sequence

import numpy as np
import torch

MASKS = 2
BINS = 27 / 80  # of the mel bins
FRAMES = 100  # 1 s
SHARE = 0.2  # of the frames with audio

Seed = tuple[int, ...]  # the whole effective batch's seed and step, and the window's index in it


def spec_augment(features: torch.Tensor, frames: Sequence[int], seeds: Sequence[Seed]) -> torch.Tensor:
    """(batch, mel bins, frames) with two stretches of either axis zeroed in each window; `frames` hold audio."""
    bins = features.shape[1]
    drawn = np.array([draw(bins, count, seed) for count, seed in zip(frames, seeds, strict=True)])
    stretches = torch.from_numpy(drawn).to(features.device)  # (batch, axis, mask, start and end)
    masked_bins = _masked(stretches[:, 0], bins)[:, :, None]
    masked_frames = _masked(stretches[:, 1], features.shape[2])[:, None, :]
    return features.masked_fill(masked_bins | masked_frames, 0.0)


def draw(bins: int, frames: int, seed: Seed) -> list[list[tuple[int, int]]]:
    """First and last + 1 of each stretch: those of bins, those of frames."""
    generator = np.random.default_rng(seed)
    axes = ((int(BINS * bins), bins), (min(FRAMES, int(SHARE * frames)), frames))
    return [[_stretch(generator, longest, size) for _ in range(MASKS)] for longest, size in axes]


def _stretch(generator: np.random.Generator, longest: int, size: int) -> tuple[int, int]:
    length = int(generator.integers(0, longest + 1))
    start = int(generator.integers(0, size - length + 1))
    return start, start + length


def _masked(stretches: torch.Tensor, size: int) -> torch.Tensor:
    """(batch, masks, 2) -> (batch, size), true inside any of them."""
    places = torch.arange(size, device=stretches.device)
    return ((places >= stretches[..., :1]) & (places < stretches[..., 1:])).any(1)
