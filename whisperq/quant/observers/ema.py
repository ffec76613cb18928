"""EMA: an exponential moving average of the batches' minima, and one of their maxima; the paper's estimator.

    r_1 = x_1,  r_t = m * r_(t-1) + (1 - m) * x_t

x_t: minimum or maximum of batch t; m: `momentum`, the weight of the OLD value (torch's `averaging_constant` is 1 - m).
"""

from collections.abc import Sequence

from whisperq.quant.observer import EstimatorSettings, Observations, Observer, RangeEnds, check_batches


def ema_range(minima: Sequence[float], maxima: Sequence[float], momentum: float) -> RangeEnds:
    """Exponential moving averages of per-batch minima and maxima; the first batch initialises.

    Raises ValueError for a momentum outside [0, 1) and for batches that cannot be.
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum, the weight of the old value, must be in [0, 1), not {momentum}")
    check_batches(minima, maxima)
    low, high = minima[0], maxima[0]
    for minimum, maximum in zip(minima[1:], maxima[1:], strict=True):
        low = momentum * low + (1.0 - momentum) * minimum
        high = momentum * high + (1.0 - momentum) * maximum
    return float(low), float(high)


def estimate(seen: Observations, how: EstimatorSettings, bits: int) -> RangeEnds:
    return ema_range(seen.minima, seen.maxima, how.momentum)


OBSERVER = Observer(estimate, averages=True)
