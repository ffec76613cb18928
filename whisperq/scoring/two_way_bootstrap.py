"""Intervals over two sources of chance at once, seeds and utterances, paired for all systems of a test set.

    w_r[k]  = 100 sum_(b in B_r) e[k, b] / sum_(b in B_r) n[b]        points of WER of system run k in resample r
    w_r     = mean over S_r of m_r + f (w_r[k] - m_r)         of a system with s seeds, m_r their mean
    f       = sqrt(s / (s - 1)) t(s - 1) / 1.96               t: Student's, two-sided 95 %

e: errors (runs, blocks); n: reference words (blocks,); B_r: blocks drawn with replacement, the same for every run;
S_r: seeds drawn with replacement, the same for all systems of as many seeds, on all sets. The root makes good for the
variance that a bootstrap over few seeds leaves out, and t for how little few seeds tell of it. Two systems' difference
is the difference of their resamples, and a mean over sets is the mean of theirs. 95 % intervals are percentiles.
"""

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
DRAWN_AT_ONCE = 2**20  # blocks: bounds the memory at three arrays of 8 MiB
# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom; beyond them the normal distribution's.
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
NORMAL95 = 1.96


def resample_blocks(errors: np.ndarray, words: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """errors (runs, blocks), words (blocks,) -> WER in percent (resamples, runs)."""
    generator, count = np.random.default_rng(seed), len(words)
    rows = max(1, DRAWN_AT_ONCE // count)
    rates = []
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), count)
        drawn = generator.integers(0, count, size=shape) + count * np.arange(shape[0])[:, None]
        times = np.bincount(drawn.ravel(), minlength=shape[0] * count).reshape(shape).astype(np.float64)
        rates.append(100 * (times @ errors.T) / (times @ words)[:, None])
    return np.concatenate(rates)


def resample_seeds(rates: np.ndarray, seed: int) -> np.ndarray:
    """WER of one system averaged over resampled seeds, w_r above: (resamples, seeds) -> (resamples,)."""
    seeds = rates.shape[1]
    if seeds == 1:
        return rates[:, 0]
    middle = rates.mean(axis=1, keepdims=True)
    spread = middle + math.sqrt(seeds / (seeds - 1)) * _t95(seeds - 1) / NORMAL95 * (rates - middle)
    drawn = np.random.default_rng([seed, seeds]).integers(0, seeds, size=rates.shape)
    return np.take_along_axis(spread, drawn, axis=1).mean(axis=1)


def _t95(degrees: int) -> float:
    return T95[degrees - 1] if degrees <= len(T95) else NORMAL95


def interval_95(resampled: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of a few seeds' values; None for fewer than two."""
    if len(values) < 2:
        return None
    half = _t95(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    middle = float(np.mean(values))
    return middle - half, middle + half
