"""Min-max: the range of everything seen, (min_t min_t, max_t max_t)."""

from collections.abc import Sequence

from whisperq.quant.observer import EstimatorSettings, Observations, Observer, RangeEnds, check_batches


def minmax_range(minima: Sequence[float], maxima: Sequence[float]) -> RangeEnds:
    """The range of everything seen. Raises ValueError for batches that cannot be."""
    check_batches(minima, maxima)
    return float(min(minima)), float(max(maxima))


def estimate(seen: Observations, how: EstimatorSettings, bits: int) -> RangeEnds:
    return minmax_range(seen.minima, seen.maxima)


OBSERVER = Observer(estimate)
