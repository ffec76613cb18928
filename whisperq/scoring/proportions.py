"""How often something happens, and whether it happens to one system more often than to another, on the same recordings.

    Wilson        (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)
    McNemar       exact: of b + c recordings on which two systems differ, b or fewer of a fair coin's throws, two-sided
    Newcombe      p2 - p1 with the ends of both Wilson intervals, square and add, less what the pairs' correlation phi
                  explains (Statistics in Medicine 17, 1998, method 10): also where no recording differs, the interval
                  says how many might have

p = k / n; z = 1.96. Of pairs, a: both, b: the first alone, c: the second alone, d: neither.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.959964  # two-sided 95 %


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of count / total. Raises ValueError where there is nothing to count."""
    if total < 1 or not 0 <= count <= total:
        raise ValueError(f"{count} of {total} is no rate")
    p, spread = count / total, Z * Z / total
    half = math.sqrt(spread * p * (1 - p) + spread * spread / 4)
    low, high = (p + spread / 2 - half) / (1 + spread), (p + spread / 2 + half) / (1 + spread)
    return (0.0 if count == 0 else low), (1.0 if count == total else high)


@dataclass(frozen=True)
class Pairs:
    """Counts of recordings by which of two systems an event happened to."""

    both: int
    first: int  # to the first alone
    second: int
    neither: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> "Pairs":
        pairs = list(zip(map(bool, first), map(bool, second), strict=True))
        return cls(*(pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def total(self) -> int:
        return self.both + self.first + self.second + self.neither

    @property
    def difference(self) -> float:
        """How much more often the event happened to the second system, as a fraction of all."""
        return (self.second - self.first) / self.total

    @property
    def p(self) -> float:
        """McNemar's exact test; 1 where no recording differs."""
        differing = self.first + self.second
        fewer = sum(math.comb(differing, k) for k in range(min(self.first, self.second) + 1))
        return min(1.0, 2 * fewer / 2**differing)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `difference`, Newcombe's."""
        n, one, two = self.total, self.both + self.first, self.both + self.second
        low1, high1 = wilson(one, n)
        low2, high2 = wilson(two, n)
        p1, p2, phi = one / n, two / n, self._correlation(one, two)
        down = _square_and_add(p2 - low2, high1 - p1, phi)
        up = _square_and_add(high2 - p2, p1 - low1, phi)
        return self.difference - down, self.difference + up

    def _correlation(self, one: int, two: int) -> float:
        n = self.total
        below = one * (n - one) * two * (n - two)
        above = float(self.both * self.neither - self.first * self.second)
        above = max(above - n / 2, 0.0) if above > 0 else above
        return above / math.sqrt(below) if below else 0.0


def _square_and_add(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))
