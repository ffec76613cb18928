"""Counts of a site's values, from which a range estimator takes quantiles or expected errors."""

import math

import torch
from torch import Tensor

# Values handled at once: bounds the memory for bin numbers, int64, at 8 MiB.
_CHUNK = 2**20
# Significant bits of float32: a bin number beyond 2^24 is no longer a whole float32 number of its own.
_FLOAT32_BITS = 24
_SMALLEST_EXPONENT = -126  # 2^-126 is the smallest normal float32


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

    def require_values(self) -> None:
        """Raises ValueError where the histogram is empty."""
        if self.total == 0:
            raise ValueError("the histogram is empty: nothing was observed")

    def quantile(self, fraction: float) -> float:
        """The value below which `fraction` of the counts lie, linear inside its bin."""
        cumulative = self.counts.cumsum(0).to(torch.float64)
        wanted = fraction * float(cumulative[-1])
        index = min(int(torch.searchsorted(cumulative, wanted)), self.bins - 1)
        below = float(cumulative[index - 1]) if index else 0.0
        inside = (wanted - below) / float(self.counts[index])
        value = math.ldexp(self.first + index + inside, self.exponent)
        return min(max(value, self.minimum), self.maximum)

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
        """The counts moved to bins of width 2^exponent that start at bin number `first`."""
        filled = self.counts.nonzero().squeeze(1)
        shift = min(exponent - self.exponent, 63)  # int64 knows no larger shift, and numbers are gone by then
        counts = torch.zeros_like(self.counts)
        return counts.index_add_(0, ((filled + self.first) >> shift) - first, self.counts[filled])

    @staticmethod
    def _bin_number(value: float, exponent: int) -> int:
        return math.floor(math.ldexp(value, -exponent))
