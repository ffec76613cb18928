"""A recording's channels x as one channel y, at the level of sound.

Where nothing is amiss y is the mean, and s is 1:

    y = s * mean over channels of x     s = 1, or what brings integers that were written as floats back to -1 .. 1
    y = s * x_c                         of the loudest channel c, where the mean has lost over 20 dB against it
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from whisperq.errors import InputError

CANCELLED = 20  # dB that the mean may lose
AUDIBLE = 1e-10  # variance, 100 dB below full scale: nothing is lost of what is softer
LOUDEST = 8.0  # the greatest sample that is a float's own, 18 dB above full scale
SCALES = (1 << 15, 1 << 23, 1 << 31)  # full scale of integers, which resampling overshoots


@dataclass(frozen=True)
class Mix:
    """(frames, channels) -> (frames,), float32."""

    channel: int | None = None
    scale: float = 1.0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        mixed = block.mean(axis=1) if self.channel is None else block[:, self.channel]
        return mixed if self.scale == 1 else mixed * np.float32(self.scale)


def survey(blocks: Iterable[np.ndarray], where: str) -> Mix:
    """How to mix a recording, by all of its blocks (frames, channels); a warning where it is not the mean alone.

    Raises InputError for samples that are not finite or that are no sound.
    """
    peak, frames, sums, products = 0.0, 0, np.zeros(1), np.zeros((1, 1))  # by channel, and by pairs of channels
    for block in blocks:
        peak = np.maximum(peak, max(block.max(initial=0), -block.min(initial=0)))  # keeps what is not a number
        frames += len(block)
        if block.shape[1] > 1 and peak < 2 * SCALES[-1]:  # what is louder is refused below
            sums, products = sums + np.ones(len(block), np.float32) @ block, products + block.T @ block
    scale = _scale(float(peak), where)
    means = sums / max(frames, 1)  # an offset, which is no sound and does not cancel with the voices
    covariance = scale**2 * (products / max(frames, 1) - np.outer(means, means))
    return Mix(_channel(np.diag(covariance), max(float(covariance.mean()), 0.0), where), scale)


def _scale(peak: float, where: str) -> float:
    if not np.isfinite(peak):
        raise InputError(f"{where} holds samples that are not finite")
    if peak <= LOUDEST:
        return 1.0
    for full in SCALES:
        if peak <= 2 * full:
            warnings.warn(
                f"{where} holds samples up to {peak:.0f}, where 1 is full scale: taken for integers of "
                f"{full.bit_length()} bits and divided by {full}",
                stacklevel=4,
            )
            return 1 / full
    raise InputError(f"{where} holds samples up to {peak:.3g}, where 1 is full scale: that is no sound")


def _channel(energies: np.ndarray, mixed: float, where: str) -> int | None:
    """The loudest of the channels, whose variances are given, where that of their mean is so much smaller."""
    loudest = int(np.argmax(energies))
    if energies[loudest] <= max(AUDIBLE, mixed * 10 ** (CANCELLED / 10)):
        return None
    lost = f"loses {10 * np.log10(energies[loudest] / mixed):.0f} dB" if mixed else "leaves nothing"
    warnings.warn(
        f"{where}: its channels cancel each other, mixing them {lost}; channel {loudest + 1} alone is used",
        stacklevel=4,
    )
    return loudest
