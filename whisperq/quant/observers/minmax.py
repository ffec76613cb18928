"""Min-max: the range of everything seen, (min_t min_t, max_t max_t)."""

from collections.abc import Sequence

from whisperq.quant.observer import Ends, EstimatorSettings, Observations, Observer, check_batches


def minmax_range(minima: Sequence[float], maxima: Sequence[float]) -> Ends:
    """The range of everything seen. Raises ValueError for batches that cannot be."""
    check_batches(minima, maxima)
    return float(min(minima)), float(max(maxima))


def estimate(seen: Observations, how: EstimatorSettings, bits: int) -> Ends:
    return minmax_range(seen.minima, seen.maxima)


OBSERVER = Observer(estimate)
