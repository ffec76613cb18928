"""How loud a stretch of audio is, and where in it is sound: told by energy alone, relative to the stretch itself.

    e_k = mean of (x - mean x)^2 over block k of 10 ms, then the median over 0.11 s, so that a click counts for nothing
    loud = max e,   floor = the 10th percentile of e where there is anything at all

There are two thresholds, as two mistakes differ. What lies in a pause is left out: it must be still for certain,
within 6 dB of the floor and 30 dB below the loudest. What may be speech is
transcribed again: 6 dB above the floor.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

HOP = 0.01  # seconds
SMOOTH = 11  # blocks
NOTHING = 1e-9  # mean square, 90 dB below full scale: less than the last bit of 16
NEAR_FLOOR = 4.0  # 6 dB
FAR_BELOW = 1e-3  # 30 dB below the loudest
INAUDIBLE = 1e-4  # 40 dB below the loudest: too soft for words beside these
STEADY = 2.5  # 4 dB: all of a stretch within this of its floor is noise; syllables rise and fall by more
TELLING = 1.0  # seconds that it takes to call something steady
LONG_PAUSE = 1.5  # seconds: longer than a reader's between sentences; models take what follows for the end
RUMBLE = (
    0.0125  # seconds: what is slower than a voice's lowest tone of 80 Hz rises and falls by chance in a room's noise
)
LEAD = 1.0  # seconds: the latest at which Whisper's first words may begin

Ranges = list[tuple[int, int]]  # of samples: start, end


@dataclass(frozen=True)
class Levels:
    """The blocks' mean squares, (blocks,), of a stretch of `samples`."""

    blocks: np.ndarray
    hop: int  # samples of a block
    samples: int
    voiced: np.ndarray  # the same of what lies above rumble

    @classmethod
    def of(cls, audio: np.ndarray, rate: int) -> "Levels":
        """audio (samples,), at most a window of it."""
        hop = max(1, round(HOP * rate))
        whole = audio[: len(audio) // hop * hop].astype(np.float64)
        if not len(whole):
            return cls(np.zeros(0), hop, len(audio), np.zeros(0))
        rest = _above_rumble(whole, max(1, round(RUMBLE * rate)))
        return cls(_blocks(whole - whole.mean(), hop), hop, len(audio), _blocks(rest, hop))

    @property
    def loud(self) -> float:
        return float(self.blocks.max(initial=0.0))

    @property
    def floor(self) -> float:
        return _floor(self.blocks)

    @property
    def silent(self) -> bool:
        """Whether nobody can be speaking: nothing at all, or noise that never rises."""
        long_enough = len(self.blocks) * HOP >= TELLING
        return self.loud < NOTHING or (long_enough and (_steady(self.blocks) or _steady(self.voiced)))

    def pauses(self) -> Ranges:
        """Stretches of LONG_PAUSE and more, of LEAD at the beginning, in which certainly nothing is said."""
        still = self.blocks <= max(NOTHING, min(FAR_BELOW * self.loud, NEAR_FLOOR * self.floor))
        return [(a, b) for a, b in self._ranges(still, LEAD) if a == 0 or b - a >= LONG_PAUSE / HOP * self.hop]

    def sounds(self) -> Ranges:
        """Stretches in which something may be said."""
        return self._ranges(self.blocks > max(NOTHING, NEAR_FLOOR * self.floor, INAUDIBLE * self.loud), HOP)

    def _ranges(self, mask: np.ndarray, least: float) -> Ranges:
        """Stretches of at least `least` seconds where the mask holds; one up to the last block takes the rest, too."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
        found = [(a * self.hop, b * self.hop) for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]
        end = len(self.blocks) * self.hop
        found = [(a, self.samples if b == end else b) for a, b in found]
        return [(a, b) for a, b in found if b - a >= least / HOP * self.hop]


def _blocks(samples: np.ndarray, hop: int) -> np.ndarray:
    """(blocks * hop,) -> (blocks,), mean squares, smoothed."""
    squares = np.square(samples).reshape(-1, hop).mean(axis=1)
    return np.median(sliding_window_view(np.pad(squares, SMOOTH // 2, mode="edge"), SMOOTH), axis=1)


def _above_rumble(samples: np.ndarray, width: int) -> np.ndarray:
    """(samples,) less their mean over `width` samples around each: at 20 Hz a tenth is left, from 60 Hz on all."""
    padded = np.pad(samples, (width // 2, width - 1 - width // 2), mode="edge")
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    return samples - (sums[width:] - sums[:-width]) / width


def _floor(blocks: np.ndarray) -> float:
    some = blocks[blocks > NOTHING / 10]
    return float(np.percentile(some, 10)) if len(some) else 0.0


def _steady(blocks: np.ndarray) -> bool:
    return float(blocks.max(initial=0.0)) < STEADY * _floor(blocks)
