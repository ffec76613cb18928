"""What calibration keeps of one site: minimum and maximum of every batch, and a histogram where one is needed.

With these, EMA of any momentum, the global minimum and maximum, and merged shards are exact arithmetic
afterwards.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from whisperq.quant.observers import Histogram, ema_range, minmax_range, mse_range, percentile_range


@dataclass
class SiteRange:
    """One site's observations; `observe` takes a batch as its utterances' tensors."""

    observer: str
    minima: list[float] = field(default_factory=list)
    maxima: list[float] = field(default_factory=list)
    histogram: Histogram | None = None
    numbers: list[int] = field(default_factory=list)  # of the batches, in the order of the data

    def observe(self, tensors: Iterable[Tensor], number: int | None = None) -> None:
        """number: the batch's, where this is a shard's; default: the next. Raises ValueError for NaN or infinity."""
        low, high = math.inf, -math.inf
        for x in tensors:
            minimum, maximum = (float(v) for v in x.aminmax())
            if not math.isfinite(maximum - minimum):
                raise ValueError("NaN or infinity")
            low, high = min(low, minimum), max(high, maximum)
            if self.observer in ("percentile", "mse"):
                self.histogram = self.histogram or Histogram()
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
        if other.histogram is not None:
            self.histogram = self.histogram or Histogram()
            self.histogram.merge(other.histogram)

    def estimate(self, momentum: float, percentile: float, bits: int) -> tuple[float, float]:
        """The range that quantization will use."""
        if self.observer == "ema":
            return ema_range(self.minima, self.maxima, momentum)
        if self.observer == "minmax":
            return minmax_range(self.minima, self.maxima)
        if self.observer == "percentile":
            return percentile_range(self.histogram, percentile)
        return mse_range(self.histogram, bits)

    def as_dict(self, momentum: float, percentile: float, bits: int) -> dict[str, Any]:
        low, high = self.estimate(momentum, percentile, bits)
        return {"range": [low, high], "minima": self.minima, "maxima": self.maxima}
