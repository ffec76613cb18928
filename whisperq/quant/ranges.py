"""What calibration keeps of one site: minimum and maximum of every batch, and a histogram where one is needed.

With these, EMA of any momentum, the global minimum and maximum, and merged shards are exact arithmetic
afterwards, and one pass over the data serves any number of observers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from whisperq.quant.histogram import Histogram
from whisperq.quant.observer import EstimatorSettings, Observations, RangeEnds, check_observer
from whisperq.quant.observers import OBSERVERS, minmax_range
from whisperq.quant.reading import Read, now

NEEDS_HISTOGRAM = tuple(name for name, observer in OBSERVERS.items() if observer.needs_histogram)
PER_BITWIDTH = tuple(name for name, observer in OBSERVERS.items() if observer.per_bitwidth)


@dataclass(frozen=True)
class Estimation(EstimatorSettings):
    """Estimators' settings, and what each site is observed with for them. Raises UsageError as these do."""

    def site(self, known: RangeEnds | None = None) -> "SiteRange":
        """Ready for a site's first batch; known: the range that mathematics gives it."""
        counted = known is None and bool({*self.observers} & {*NEEDS_HISTOGRAM})
        return SiteRange(Histogram() if counted else None, known=known)


@dataclass
class SiteRange(Observations):
    """One site's observations; `observe` takes a batch as its utterances' tensors, or as any others that make it up.

    known: the range that mathematics gives the site, which nothing that was observed changes.
    """

    numbers: list[int] = field(default_factory=list)  # of the batches, in the order of the data
    known: RangeEnds | None = None
    in_parts: ClassVar[bool] = True  # a batch may come in several calls, if it has a number

    def observe(self, tensors: Iterable[Tensor], number: int | None = None, read: Read = now) -> None:
        """number: the batch's, where this is a shard's or read later; default: the next.

        Raises ValueError for NaN or infinity, when it is read; a histogram reads at once, since its bins follow the
        values.
        """
        tensors = list(tensors)
        (read if self.histogram is None else now)(
            torch.stack([torch.stack(x.aminmax()) for x in tensors]), partial(self._take, number)
        )
        if self.histogram is not None:
            for x in tensors:
                self.histogram.update(x)

    def _take(self, number: int | None, ends: Tensor) -> None:
        """ends (tensors, 2): minimum and maximum of each."""
        pairs = ends.tolist()
        if not all(math.isfinite(maximum - minimum) for minimum, maximum in pairs):
            raise ValueError("NaN or infinity")
        self._note(min(low for low, _ in pairs), max(high for _, high in pairs), number)

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

    @property
    def full(self) -> RangeEnds:
        """The range that mathematics gives the site, else that of everything seen."""
        return minmax_range(self.minima, self.maxima) if self.known is None else self.known

    def estimate(self, observer: str, how: EstimatorSettings, bits: int) -> RangeEnds:
        """One observer's range; of stablequant the full one, which its search starts from. Raises UsageError."""
        check_observer(observer)
        return OBSERVERS[observer].estimate(self, how, bits) if self.known is None else self.known

    def as_dict(self, how: EstimatorSettings) -> dict[str, Any]:
        """`ranges`: by observer, and by bits where an observer optimises for some."""
        ranges = {
            o: {str(b): self.estimate(o, how, b) for b in how.bits} if o in PER_BITWIDTH else self.estimate(o, how, 8)
            for o in how.observers
        }
        known = {} if self.known is None else {"known": self.known}
        return {"ranges": ranges, **known, "minima": self.minima, "maxima": self.maxima}
