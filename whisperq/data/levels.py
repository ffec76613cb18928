"""How loud a stretch of audio is, and where in it is sound: told by energy alone, relative to the stretch itself.

    e_k = mean of (x - mean x)^2 over block k of 10 ms, then the median over 0.11 s, so that a click counts for nothing
    loud = max e,   floor = the 10th percentile of e where there is anything at all

There are two thresholds, as two mistakes differ. What lies in a pause is left out: it must be still for certain,
within 6 dB of the floor and 30 dB below the loudest. What may be sound is heard once more: 6 dB above the floor.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

HOP = 0.01  # seconds
SMOOTH = 11  # blocks
NOTHING = 1e-9  # mean square, 90 dB below full scale: less than the last bit of 16
NEAR_FLOOR = 4.0  # 6 dB
FAR_BELOW = 1e-3  # 30 dB below the loudest
UNHEARD = 1e-4  # 40 dB below the loudest: too soft for words beside these
STEADY = 2.5  # 4 dB: all of a stretch within this of its floor is noise; syllables rise and fall by more
TELLING = 1.0  # seconds that it takes to call something steady
LONG_PAUSE = 1.5  # seconds: longer than a reader's between sentences; models take what follows for the end
LEAD = 1.0  # seconds: the latest at which Whisper's first words may begin

Ranges = list[tuple[int, int]]  # of samples: start, end


@dataclass(frozen=True)
class Levels:
    """The blocks' mean squares, (blocks,), of a stretch of `samples`."""

    blocks: np.ndarray
    hop: int  # samples of a block
    samples: int

    @classmethod
    def of(cls, audio: np.ndarray, rate: int) -> "Levels":
        """audio (samples,), at most a window of it."""
        hop = max(1, round(HOP * rate))
        whole = audio[: len(audio) // hop * hop].astype(np.float64)
        blocks = np.square(whole - whole.mean()).reshape(-1, hop).mean(axis=1) if len(whole) else np.zeros(0)
        if len(blocks):
            padded = np.pad(blocks, SMOOTH // 2, mode="edge")
            blocks = np.median(sliding_window_view(padded, SMOOTH), axis=1)
        return cls(blocks, hop, len(audio))

    @property
    def loud(self) -> float:
        return float(self.blocks.max(initial=0.0))

    @property
    def floor(self) -> float:
        some = self.blocks[self.blocks > NOTHING / 10]
        return float(np.percentile(some, 10)) if len(some) else 0.0

    @property
    def silent(self) -> bool:
        """Whether nobody can be speaking: nothing at all, or noise that never rises."""
        steady = len(self.blocks) * HOP >= TELLING and self.loud < STEADY * self.floor
        return self.loud < NOTHING or steady

    def pauses(self) -> Ranges:
        """Stretches of LONG_PAUSE and more, of LEAD at the beginning, in which certainly nothing is said."""
        still = self.blocks <= max(NOTHING, min(FAR_BELOW * self.loud, NEAR_FLOOR * self.floor))
        return [(a, b) for a, b in self._ranges(still, LEAD) if a == 0 or b - a >= LONG_PAUSE / HOP * self.hop]

    def sounds(self) -> Ranges:
        """Stretches in which something may be said."""
        return self._ranges(self.blocks > max(NOTHING, NEAR_FLOOR * self.floor, UNHEARD * self.loud), HOP)

    def _ranges(self, mask: np.ndarray, least: float) -> Ranges:
        """Where the mask holds for at least so many seconds; the last block takes the samples that fill none."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
        found = [(a * self.hop, b * self.hop) for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]
        end = len(self.blocks) * self.hop
        found = [(a, self.samples if b == end else b) for a, b in found]
        return [(a, b) for a, b in found if b - a >= least / HOP * self.hop]
