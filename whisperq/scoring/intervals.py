"""Bootstrap confidence interval of the word error rate (Bisani and Ney 2004).

    WER_b = sum_(i in B_b) e_i / sum_(i in B_b) n_i,    interval = quantiles (1 -+ level) / 2 of WER_b

e_i, n_i: errors and reference words of utterance i; B_b: as many utterances as there are, drawn with
replacement. Whole utterances are drawn, because errors inside one depend on each other.
"""

import math
from collections.abc import Sequence

import numpy as np

# Drawn utterances held at once: bounds the memory at three int64 arrays of 8 MiB.
_DRAWN_AT_ONCE = 2**20


def bootstrap_interval(
    per_utterance: Sequence[tuple[int, int]], resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the WER, a fraction, from (errors, reference words) of each utterance.

    NaN where there are fewer than two utterances: one says nothing of others. Every utterance needs a reference word.
    """
    if not 0.0 < level < 1.0 or resamples < 1:
        raise ValueError(f"level must be in (0, 1) and resamples 1 or more, not {level} and {resamples}")
    if any(words < 1 for _, words in per_utterance):
        raise ValueError("an utterance without reference words cannot be resampled")
    if len(per_utterance) < 2:
        return math.nan, math.nan
    errors, words = np.asarray(per_utterance, dtype=np.int64).T
    rates = _resampled_rates(errors, words, resamples, np.random.default_rng(seed))
    low, high = np.quantile(rates, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _resampled_rates(
    errors: np.ndarray, words: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """WER_b of each resample, float64 (resamples,)."""
    count = len(errors)
    rows = max(1, _DRAWN_AT_ONCE // count)
    rates = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(0, count, size=(min(rows, resamples - start), count))
        rates.append(errors[drawn].sum(axis=1) / words[drawn].sum(axis=1))
    return np.concatenate(rates)
