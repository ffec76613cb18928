"""Percentile: the range that keeps a percent of the values and cuts half of the rest off either end.

    (Q(p), Q(1 - p)),  p = (100 - kept) / 200

Q: quantile function of the histogram; kept: percent of the mass KEPT, `calibrate --percentile`.
"""

from whisperq.quant.histogram import Histogram
from whisperq.quant.observer import EstimatorSettings, Observations, Observer, RangeEnds


def percentile_range(histogram: Histogram, kept: float = 99.999) -> RangeEnds:
    """Raises ValueError for a `kept` outside (0, 100] and for an empty histogram."""
    if not 0.0 < kept <= 100.0:
        raise ValueError(f"kept is the percent of values kept, above 0 and up to 100, not {kept}")
    histogram.require_values()
    tail = (100.0 - kept) / 200.0
    return histogram.quantile(tail), histogram.quantile(1.0 - tail)


def estimate(seen: Observations, how: EstimatorSettings, bits: int) -> RangeEnds:
    return percentile_range(seen.counted(), how.percentile)


OBSERVER = Observer(estimate, needs_histogram=True)
