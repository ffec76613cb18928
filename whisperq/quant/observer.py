"""A range estimator: what it is given of a site, and what it declares. Each is a file of quant/observers/."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from whisperq.errors import UsageError
from whisperq.quant.histogram import Histogram
from whisperq.registered import OBSERVERS

RangeEnds = tuple[float, float]  # of a range: low, high


@dataclass
class Observations:
    """What was seen of one site: each batch's minimum and maximum, and all values' counts where an observer needs them.

    histogram: None unless one of the calibration's observers has `needs_histogram`.
    """

    histogram: Histogram | None = None
    minima: list[float] = field(default_factory=list)
    maxima: list[float] = field(default_factory=list)

    def counted(self) -> Histogram:
        """The histogram. Raises ValueError where none was kept."""
        if self.histogram is None:
            raise ValueError("no histogram was kept of this site")
        return self.histogram


@dataclass(frozen=True)
class EstimatorSettings:
    """Which observers estimate ranges, the calibration's own first, and how: the settings of `calibrate`.

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


@dataclass(frozen=True)
class Observer:
    """What a file of quant/observers/ declares as OBSERVER; its name is the file's.

    estimate: (what was seen, settings, bits) -> the range (low, high) that the grid must cover.
    """

    estimate: Callable[[Observations, EstimatorSettings, int], RangeEnds]
    needs_histogram: bool = False  # `Observations.counted` may be asked; scaled sites, which have none, take minmax
    per_bitwidth: bool = False  # the range is for a number of bits, and of no use for another
    averages: bool = False  # clips what few batches hold, so that a model with massive values takes minmax by default


def check_observer(name: str) -> None:
    """Raises UsageError for a range estimator that there is not."""
    if name not in OBSERVERS:
        raise UsageError(f"there is no observer {name!r}; choose one of {', '.join(OBSERVERS)}")


def check_batches(minima: Sequence[float], maxima: Sequence[float]) -> None:
    """Raises ValueError for no batch at all, and for ends that are not finite or not in order."""
    if len(minima) == 0 or len(minima) != len(maxima):
        raise ValueError(f"a range needs as many minima as maxima, not {len(minima)} and {len(maxima)}")
    for minimum, maximum in zip(minima, maxima, strict=True):
        if not (math.isfinite(minimum) and math.isfinite(maximum) and minimum <= maximum):
            raise ValueError(f"a batch minimum and maximum must be finite and in order: {minimum}, {maximum}")
