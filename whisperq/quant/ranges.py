"""What calibration keeps of one site: minimum and maximum of every batch, and a histogram where one is needed.

With these, EMA of any momentum, the global minimum and maximum, and merged shards are exact arithmetic
afterwards, and one pass over the data serves any number of observers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from whisperq.quant.observers import Histogram, ema_range, minmax_range, mse_range, percentile_range

COUNTING = ("percentile", "mse", "stablequant")  # observers that need a histogram
BITWISE = ("mse", "stablequant")  # observers whose range is for a number of bits

Ends = tuple[float, float]


@dataclass(frozen=True)
class Estimation:
    """Which observers estimate ranges, the calibration's own first, and how."""

    observers: tuple[str, ...] = ("ema",)
    momentum: float = 0.9
    percentile: float = 99.999
    bits: tuple[int, ...] = (8,)  # of the observers that optimise for some

    def site(self) -> "SiteRange":
        """Ready for a site's first batch."""
        counting = any(observer in COUNTING for observer in self.observers)
        return SiteRange(Histogram() if counting else None)


@dataclass
class SiteRange:
    """One site's observations; `observe` takes a batch as its utterances' tensors."""

    histogram: Histogram | None = None
    minima: list[float] = field(default_factory=list)
    maxima: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # of the batches, in the order of the data

    def observe(self, tensors: Iterable[Tensor], number: int | None = None) -> None:
        """number: the batch's, where this is a shard's; default: the next. Raises ValueError for NaN or infinity."""
        low, high = math.inf, -math.inf
        for x in tensors:
            minimum, maximum = (float(v) for v in x.aminmax())
            if not math.isfinite(maximum - minimum):
                raise ValueError("NaN or infinity")
            low, high = min(low, minimum), max(high, maximum)
            if self.histogram is not None:
                self.histogram.update(x)
        self.minima.append(low)
        self.maxima.append(high)
        self.numbers.append(len(self.numbers) if number is None else number)

    def merge(self, other: "SiteRange") -> None:
        """Add what was observed in other batches: the same as having seen them too, in the order of their numbers."""
        numbers = self.numbers + other.numbers
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        minima, maxima = self.minima + other.minima, self.maxima + other.maxima
        self.numbers, self.minima, self.maxima = ([x[i] for i in order] for x in (numbers, minima, maxima))
        if self.histogram is not None and other.histogram is not None:
            self.histogram.merge(other.histogram)

    def estimate(self, observer: str, how: Estimation, bits: int) -> Ends:
        """One observer's range; of stablequant the full one, which its search starts from."""
        if observer == "ema":
            return ema_range(self.minima, self.maxima, how.momentum)
        if observer in ("minmax", "stablequant"):
            return minmax_range(self.minima, self.maxima)
        if observer == "percentile":
            return percentile_range(self.histogram, how.percentile)
        return mse_range(self.histogram, bits)

    def as_dict(self, how: Estimation) -> dict[str, Any]:
        """`ranges`: by observer, and by bits where an observer optimises for some."""
        ranges = {
            o: {str(b): self.estimate(o, how, b) for b in how.bits} if o in BITWISE else self.estimate(o, how, 8)
            for o in how.observers
        }
        return {"ranges": ranges, "minima": self.minima, "maxima": self.maxima}
