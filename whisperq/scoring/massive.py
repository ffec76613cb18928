"""The largest values at a site: which channel, which row, how large, and which of them are massive.

    massive:   |x| > 100   and   |x| >= 1000 median |x|        the median over the utterance's tensor x at the site

This is the definition of Sun et al. 2024, "Massive Activations in Large Language Models" (arXiv 2402.17762, section 2):
a magnitude above 100, and at least or around 1,000 times the hidden state's median magnitude; "around" is left out.

Medians and deviations are averaged as exact fractions, and of equal values the first by utterance and row is kept:
shards merge to what one process finds, bit by bit.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor

from whisperq.quant.reading import Read, now

MAGNITUDE, TIMES_MEDIAN = 100, 1000
KEPT = 8  # channels for each role of rows


@dataclass(frozen=True)
class Peak:
    """The largest value of one channel in rows of one role."""

    channel: int
    value: float
    role: str
    position: int  # row of the utterance's tensor, from zero
    token: str | None  # which stands there; None where rows are frames
    utterance: str
    median: float  # of the magnitudes in that utterance's tensor
    deviation: float  # standard deviation of that tensor

    @property
    def rank(self) -> tuple[float, str, int, int]:
        """Sort key that puts the largest value first."""
        return -abs(self.value), self.utterance, self.position, self.channel

    def as_dict(self) -> dict[str, Any]:
        times = {f"times_{name}": _ratio(self.value, getattr(self, name)) for name in ("median", "deviation")}
        return {**asdict(self), **times, "massive": is_massive(self.value, self.median)}


def is_massive(value: float, median: float) -> bool:
    """median: of the magnitudes of the tensor that the value is from."""
    return abs(value) > MAGNITUDE and abs(value) >= TIMES_MEDIAN * median


def _ratio(value: float, unit: float) -> float:
    return abs(value) / unit if unit else math.inf


class LargestValues:
    """Running peaks of one site, of every role's largest channels; its memory does not grow with the utterances."""

    def __init__(self) -> None:
        self.utterances = 0
        self.peaks: dict[str, dict[int, Peak]] = {}  # by role and channel
        self.largest_in: Counter[int] = Counter()  # by channel: utterances whose largest magnitude it holds
        self.massive_in: Counter[tuple[str, int]] = Counter()  # by role and channel: utterances where it is massive
        self._medians, self._deviations = Fraction(), Fraction()

    def update(
        self, x: Tensor, roles: Mapping[str, range], utterance: str, tokens: Sequence[str] = (), read: Read = now
    ) -> None:
        """Take in one utterance's tensor (rows, D) of finite values; roles: which rows are what, tokens: at each."""
        x = x.detach().float()
        median = x.abs().median().double()
        largest = x.new_zeros(x.shape[1])  # of every channel
        found = []  # of each role
        for rows in filter(None, roles.values()):
            own = x[rows.start : rows.stop]
            sizes, places = own.abs().max(dim=0)
            largest = torch.maximum(largest, sizes)
            massive = (sizes > MAGNITUDE) & (sizes.double() >= TIMES_MEDIAN * median)  # is_massive
            channels = sizes.topk(min(KEPT, len(sizes))).indices
            row = places[channels]
            found += [massive, channels, rows.start + row, own[row, channels]]
        whole = torch.stack([median, x.double().std(correction=0), largest.argmax().double()])
        numbers = torch.cat([whole, *(part.double() for part in found)])
        read(numbers, partial(self._take, x.shape[1], dict(roles), utterance, tokens))

    def _take(
        self, width: int, roles: Mapping[str, range], utterance: str, tokens: Sequence[str], found: Tensor
    ) -> None:
        """found: median, deviation and leading channel of a tensor (rows, width); of each role which channels are
        massive, (width), and the largest ones' numbers, rows and values.
        """
        median, deviation, leading = found[:3].tolist()
        self.utterances += 1
        self._medians += Fraction(median)
        self._deviations += Fraction(deviation)
        self.largest_in[int(leading)] += 1
        kept_channels = min(KEPT, width)
        parts = iter(found[3:].split([width, *[kept_channels] * 3] * sum(map(bool, roles.values()))))
        for role, rows in roles.items():
            kept = self.peaks.setdefault(role, {})
            if not rows:
                continue
            massive, *peaks = (next(parts).tolist() for _ in range(4))
            self.massive_in.update((role, c) for c, one in enumerate(massive) if one)
            for channel, row, value in zip(*peaks, strict=True):
                token = tokens[int(row)] if tokens else None
                _keep(kept, Peak(int(channel), value, role, int(row), token, utterance, median, deviation))
            _trim(kept)

    def merge(self, other: "LargestValues") -> None:
        """Add other utterances' peaks: the same as having seen their tensors too, in any order."""
        self.utterances += other.utterances
        self.largest_in += other.largest_in
        self.massive_in += other.massive_in
        self._medians += other._medians
        self._deviations += other._deviations
        for role, peaks in other.peaks.items():
            kept = self.peaks.setdefault(role, {})
            for peak in peaks.values():
                _keep(kept, peak)
            _trim(kept)

    def as_dict(self) -> dict[str, Any]:
        """The peaks of all roles, the largest first. Raises ValueError where no tensor was seen.

        largest_in: utterances in which the channel holds the tensor's largest magnitude, whatever the role;
        massive_in: utterances in which it is massive in rows of this role.
        massive_channels: by role, all that are massive in any utterance.
        """
        if not self.utterances:
            raise ValueError("no tensor was observed at this site")
        found = sorted((p for peaks in self.peaks.values() for p in peaks.values()), key=lambda peak: peak.rank)
        return {
            "median": float(self._medians / self.utterances),
            "deviation": float(self._deviations / self.utterances),
            "massive_channels": {r: sorted(c for role, c in self.massive_in if role == r) for r in self.peaks},
            "peaks": [
                p.as_dict()
                | {"largest_in": self.largest_in[p.channel], "massive_in": self.massive_in[p.role, p.channel]}
                for p in found
            ],
        }


def _keep(kept: dict[int, Peak], peak: Peak) -> None:
    if peak.channel not in kept or peak.rank < kept[peak.channel].rank:
        kept[peak.channel] = peak


def _trim(kept: dict[int, Peak]) -> None:
    for peak in sorted(kept.values(), key=lambda peak: peak.rank)[KEPT:]:
        del kept[peak.channel]
