"""Range estimators: from what calibration saw at one site to the range that its grid shall cover.

    EMA:         r_1 = x_1,  r_t = m * r_(t-1) + (1 - m) * x_t
    min-max:     (min_t min_t, max_t max_t)
    percentile:  (Q(p), Q(1 - p)),  p = (100 - kept) / 200
    MSE:         argmin over (low, high) of E[(x - x_q)^2]

x_t: minimum or maximum of batch t; m: `momentum`, the weight of the OLD value (torch's
`averaging_constant` is 1 - m); Q: quantile function of a `Histogram`; kept: percent of the mass kept;
x_q: x on the asymmetric grid over (low, high), clipped and rounded.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from whisperq.quant.grid import QParams, range_qparams

# Values handled at once: bounds the memory for bin numbers, int64, at 8 MiB.
_CHUNK = 2**20
# Significant bits of float32: a bin number beyond 2^24 is no longer a whole float32 number of its own.
_FLOAT32_BITS = 24
_SMALLEST_EXPONENT = -126  # 2^-126 is the smallest normal float32
_MSE_COARSE = 12
_MSE_ROUNDS = 8


def ema_range(minima: Sequence[float], maxima: Sequence[float], momentum: float) -> tuple[float, float]:
    """Exponential moving averages of per-batch minima and maxima; the first batch initialises."""
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum, the weight of the old value, must be in [0, 1), not {momentum}")
    _check_batches(minima, maxima)
    low, high = minima[0], maxima[0]
    for minimum, maximum in zip(minima[1:], maxima[1:], strict=True):
        low = momentum * low + (1.0 - momentum) * minimum
        high = momentum * high + (1.0 - momentum) * maximum
    return float(low), float(high)


def minmax_range(minima: Sequence[float], maxima: Sequence[float]) -> tuple[float, float]:
    """The range of everything seen."""
    _check_batches(minima, maxima)
    return float(min(minima)), float(max(maxima))


class Histogram:
    """Exact counts of a stream of values in at most `bins` bins, whatever its length.

    Bin k covers [k * 2^e, (k + 1) * 2^e). The exponent e is the smallest at which the values seen fit, so
    a value outside doubles the width, and neighbours merge, as often as needed. Since k is counted from
    zero, bins nest: the result depends on the values alone, not on their order nor on the batches.
    Values are counted as float32.
    """

    def __init__(self, bins: int = 8192) -> None:
        if bins < 2:
            raise ValueError(f"a histogram needs two bins or more, not {bins}")
        self.bins = bins
        self.counts = torch.zeros(bins, dtype=torch.int64)
        self.first = 0  # k of counts[0]
        self.exponent = _SMALLEST_EXPONENT  # e
        self.minimum = math.inf
        self.maximum = -math.inf

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def edges(self) -> Tensor:
        """The bins' edges, float64 (bins + 1,)."""
        numbers = torch.arange(self.first, self.first + self.bins + 1, dtype=torch.float64)
        return numbers * 2.0**self.exponent

    def update(self, x: Tensor) -> None:
        """Count every value of x (...)."""
        if x.numel() == 0:
            return
        x = x.detach().reshape(-1).to(torch.float32)
        minimum, maximum = (float(end) for end in torch.aminmax(x))  # NaN anywhere makes both NaN
        if not math.isfinite(maximum - minimum):
            raise ValueError("a histogram takes finite values only, and this tensor holds NaN or infinity")
        self._cover(minimum, maximum, self.exponent)
        for chunk in x.split(_CHUNK):
            numbers = (chunk * 2.0**-self.exponent).floor_().to(torch.int64).sub_(self.first)
            self.counts += torch.bincount(numbers, minlength=self.bins).cpu()

    def merge(self, other: "Histogram") -> None:
        """Add the counts of `other`: the same as having seen its values too."""
        if other.bins != self.bins:
            raise ValueError(f"histograms of {self.bins} and {other.bins} bins do not merge")
        if other.total == 0:
            return
        self._cover(other.minimum, other.maximum, other.exponent)
        self.counts += other._counts_at(self.exponent, self.first)

    def _cover(self, minimum: float, maximum: float, exponent: int) -> None:
        """Widen and shift the bins until they hold [minimum, maximum] and all that was seen before."""
        self.minimum, self.maximum = min(self.minimum, minimum), max(self.maximum, maximum)
        amax = max(-self.minimum, self.maximum)
        finest = math.frexp(amax)[1] - _FLOAT32_BITS if amax > 0.0 else _SMALLEST_EXPONENT
        wanted = max(exponent, self.exponent, finest)
        while self._bin_number(self.maximum, wanted) - self._bin_number(self.minimum, wanted) >= self.bins:
            wanted += 1
        first = self._bin_number(self.minimum, wanted)
        if (wanted, first) != (self.exponent, self.first):
            self.counts = self._counts_at(wanted, first)
            self.exponent, self.first = wanted, first

    def _counts_at(self, exponent: int, first: int) -> Tensor:
        """The same counts in bins of width 2^exponent that start at bin number `first`."""
        filled = self.counts.nonzero().squeeze(1)
        shift = min(exponent - self.exponent, 63)  # int64 knows no larger shift, and numbers are gone by then
        counts = torch.zeros_like(self.counts)
        return counts.index_add_(0, ((filled + self.first) >> shift) - first, self.counts[filled])

    @staticmethod
    def _bin_number(value: float, exponent: int) -> int:
        return math.floor(math.ldexp(value, -exponent))


def percentile_range(histogram: Histogram, kept: float = 99.999) -> tuple[float, float]:
    """The range that keeps `kept` percent of the values and cuts half of the rest off either end."""
    if not 0.0 < kept <= 100.0:
        raise ValueError(f"kept is the percent of values kept, above 0 and up to 100, not {kept}")
    _check_filled(histogram)
    tail = (100.0 - kept) / 200.0
    return _quantile(histogram, tail), _quantile(histogram, 1.0 - tail)


def mse_range(histogram: Histogram, bits: int, candidates: int = 100) -> tuple[float, float]:
    """The range whose grid has the least expected squared error, clipping and rounding together.

    Each end has `candidates` fractions of its full value, from 1 to 1/100 in equal ratios. The best coarse
    pair comes first: with outliers on both sides, cutting either alone gains nothing. Then each end moves
    with the other held, in turn until neither does.
    """
    if candidates < 1:
        raise ValueError(f"the search needs one candidate or more, not {candidates}")
    _check_filled(histogram)
    shrink = torch.logspace(0, -2, candidates, dtype=torch.float64)
    lows, highs = shrink * min(histogram.minimum, 0.0), shrink * max(histogram.maximum, 0.0)
    stride = max(1, candidates // _MSE_COARSE)
    pairs = torch.cartesian_prod(lows[::stride], highs[::stride])
    low, high = pairs[_squared_errors(histogram, range_qparams(pairs[:, 0], pairs[:, 1], bits)).argmin()]
    for _ in range(_MSE_ROUNDS):
        before = low, high
        high = highs[_squared_errors(histogram, range_qparams(low.expand_as(highs), highs, bits)).argmin()]
        low = lows[_squared_errors(histogram, range_qparams(lows, high.expand_as(lows), bits)).argmin()]
        if low == before[0] and high == before[1]:
            break
    return float(low), float(high)


def _squared_errors(histogram: Histogram, qparams: QParams) -> Tensor:
    """Total squared error, float64 (C,), of each of the C grids, taking a bin's values as uniform in it.

    The integral of (x - x_q)^2 has a closed form, so that it stays right where a grid step is finer than
    a bin. With t = x / s, t' = t clipped to the grid and r = round(t'), an antiderivative over t is
    r / 12 + (t' - r)^3 / 3 + (t - t')^3 / 3.
    """
    scale, zero_point = (part.to(torch.float64).unsqueeze(1) for part in (qparams.scale, qparams.zero_point))
    counts = torch.cat([histogram.counts, histogram.counts.new_zeros(1)])  # of the bin right of each edge
    # Empty bins add no error; where there are outliers, most bins are empty.
    used = (counts > 0) | (counts.roll(1) > 0)
    t = histogram.edges()[used] / scale
    clipped = t.clamp(qparams.quant_min - zero_point, qparams.quant_max - zero_point)
    rounded = clipped.round()
    integral = rounded / 12 + (clipped - rounded).pow_(3) / 3 + t.sub_(clipped).pow_(3) / 3
    per_grid = (integral.diff(dim=1) * counts[used][:-1]).sum(dim=1)
    return per_grid * scale.squeeze(1).pow(3) / 2.0**histogram.exponent


def _quantile(histogram: Histogram, fraction: float) -> float:
    """The value below which `fraction` of the counts lie, linear inside its bin."""
    cumulative = histogram.counts.cumsum(0).to(torch.float64)
    wanted = fraction * float(cumulative[-1])
    index = min(int(torch.searchsorted(cumulative, wanted)), histogram.bins - 1)
    below = float(cumulative[index - 1]) if index else 0.0
    inside = (wanted - below) / float(histogram.counts[index])
    value = math.ldexp(histogram.first + index + inside, histogram.exponent)
    return min(max(value, histogram.minimum), histogram.maximum)


def _check_batches(minima: Sequence[float], maxima: Sequence[float]) -> None:
    if len(minima) == 0 or len(minima) != len(maxima):
        raise ValueError(f"a range needs as many minima as maxima, not {len(minima)} and {len(maxima)}")
    for minimum, maximum in zip(minima, maxima, strict=True):
        if not (math.isfinite(minimum) and math.isfinite(maximum) and minimum <= maximum):
            raise ValueError(f"a batch minimum and maximum must be finite and in order: {minimum}, {maximum}")


def _check_filled(histogram: Histogram) -> None:
    if histogram.total == 0:
        raise ValueError("the histogram is empty: nothing was observed")
