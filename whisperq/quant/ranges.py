"""What calibration keeps of one site: minimum and maximum of every batch, and a histogram where one is needed.

With these, EMA of any momentum, the global minimum and maximum, and merged shards are exact arithmetic
afterwards, and one pass over the data serves any number of observers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from whisperq.errors import UsageError
from whisperq.quant.observers import Histogram, ema_range, minmax_range, mse_range, percentile_range

OBSERVERS = ("ema", "minmax", "percentile", "mse", "stablequant")
COUNTING = ("percentile", "mse", "stablequant")  # observers that need a histogram
BITWISE = ("mse", "stablequant")  # observers whose range is for a number of bits

Ends = tuple[float, float]


@dataclass(frozen=True)
class Estimation:
    """Which observers estimate ranges, the calibration's own first, and how.

    Raises UsageError for none, and for one that there is not: before data are read, not after.
    """

    observers: tuple[str, ...] = ("ema",)
    momentum: float = 0.9
    percentile: float = 99.999
    bits: tuple[int, ...] = (8,)  # of the observers that optimise for some

    def __post_init__(self) -> None:
        if not self.observers:
            raise UsageError(f"a calibration needs an observer: {', '.join(OBSERVERS)}")
        for observer in self.observers:
            check_observer(observer)

    def site(self, known: Ends | None = None) -> "SiteRange":
        """Ready for a site's first batch; known: the range that mathematics gives it."""
        counting = known is None and any(observer in COUNTING for observer in self.observers)
        return SiteRange(Histogram() if counting else None, known=known)


def check_observer(name: str) -> None:
    """Raises UsageError for a range estimator that there is not."""
    if name not in OBSERVERS:
        raise UsageError(f"there is no observer {name!r}; choose one of {', '.join(OBSERVERS)}")


@dataclass
class SiteRange:
    """One site's observations; `observe` takes a batch as its utterances' tensors, or as any others that make it up.

    known: the range that mathematics gives the site, which nothing that was observed changes.
    """

    histogram: Histogram | None = None
    minima: list[float] = field(default_factory=list)
    maxima: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # of the batches, in the order of the data
    known: Ends | None = None
    in_parts: ClassVar[bool] = True  # a batch may come in several calls, if it has a number

    def observe(self, tensors: Iterable[Tensor], number: int | None = None) -> None:
        """number: the batch's, where this is a shard's; default: the next. Raises ValueError for NaN or infinity."""
        tensors = list(tensors)
        ends = [torch.stack(x.aminmax()) for x in tensors]
        # One wait for the device, however many utterances there are
        pairs = torch.stack(ends).tolist()
        low, high = min(p[0] for p in pairs), max(p[1] for p in pairs)
        if not all(math.isfinite(maximum - minimum) for minimum, maximum in pairs):
            raise ValueError("NaN or infinity")
        if self.histogram is not None:
            for x in tensors:
                self.histogram.update(x)
        self._note(low, high, number)

    def assume(self, number: int) -> None:
        """A batch whose values were not looked at, since their range is known."""
        if self.known is None:
            raise ValueError("a site without a known range has to be observed")
        self._note(*self.known, number)

    def _note(self, low: float, high: float, number: int | None) -> None:
        if self.numbers and number == self.numbers[-1]:
            self.minima[-1], self.maxima[-1] = min(self.minima[-1], low), max(self.maxima[-1], high)
            return
        self.minima.append(low)
        self.maxima.append(high)
        self.numbers.append(len(self.numbers) if number is None else number)

    def merge(self, other: "SiteRange") -> None:
        """Add what was observed in other batches: the same as having seen them too, in the order of their numbers."""
        numbers = self.numbers + other.numbers
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        minima, maxima = self.minima + other.minima, self.maxima + other.maxima
        self.numbers = [numbers[i] for i in order]
        self.minima, self.maxima = [minima[i] for i in order], [maxima[i] for i in order]
        if self.histogram is not None and other.histogram is not None:
            self.histogram.merge(other.histogram)

    def estimate(self, observer: str, how: Estimation, bits: int) -> Ends:
        """One observer's range; of stablequant the full one, which its search starts from. Raises UsageError."""
        check_observer(observer)
        if self.known is not None:
            return self.known
        if observer == "ema":
            return ema_range(self.minima, self.maxima, how.momentum)
        if observer in ("minmax", "stablequant"):
            return minmax_range(self.minima, self.maxima)
        if observer == "percentile":
            return percentile_range(self._counted(), how.percentile)
        if observer == "mse":
            return mse_range(self._counted(), bits)
        raise NotImplementedError(f"the observer {observer} has no range")

    def _counted(self) -> Histogram:
        if self.histogram is None:
            raise ValueError("no histogram was kept of this site")
        return self.histogram

    def as_dict(self, how: Estimation) -> dict[str, Any]:
        """`ranges`: by observer, and by bits where an observer optimises for some."""
        ranges = {
            o: {str(b): self.estimate(o, how, b) for b in how.bits} if o in BITWISE else self.estimate(o, how, 8)
            for o in how.observers
        }
        known = {} if self.known is None else {"known": self.known}
        return {"ranges": ranges, **known, "minima": self.minima, "maxima": self.maxima}
