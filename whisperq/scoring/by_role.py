"""One site's statistics: of whole tensors, of their rows by role, and where asked for its largest values.

A role (data/roles.py) says what a row stands for: speech or padding, prompt or tokens. Whole tensors give the figures
that papers print; rows of a role are a tensor of their own, with its own mean and deviation.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from whisperq.kinds.observations import LargestValue, MassiveValues
from whisperq.quant.reading import Read, now
from whisperq.scoring.massive import MAGNITUDE, TIMES_MEDIAN, LargestValues
from whisperq.scoring.outliers import TensorStatistics, summarize

LEFT_OUT = "outliers_per_dimension"  # of rows of a role: the whole tensor's are there, and each role's top dimensions


class SiteStatistics:
    """Running statistics of one site."""

    def __init__(self, massive: bool = False) -> None:
        self.whole = TensorStatistics()
        self.roles: dict[str, TensorStatistics] = {}
        self.largest = LargestValues() if massive else None

    def update(
        self, x: Tensor, roles: Mapping[str, range], utterance: str, tokens: Sequence[str] = (), read: Read = now
    ) -> None:
        """Take in one utterance's tensor (rows, D), padding that is masked already removed.

        roles: which rows are what; tokens: at each row of a decoder; read: reads what was found of the tensor, when it
        likes. Raises ValueError for values that are not finite, then.
        """
        self.whole.update(x, read)
        for role, rows in roles.items():
            statistics = self.roles.setdefault(role, TensorStatistics())
            if rows:
                statistics.update(x[rows.start : rows.stop], read)
        if self.largest:
            self.largest.update(x, roles, utterance, tokens, read)

    def merge(self, other: "SiteStatistics") -> None:
        """Add other utterances' statistics, in any order."""
        self.whole.merge(other.whole)
        for role, statistics in other.roles.items():
            self.roles.setdefault(role, TensorStatistics()).merge(statistics)
        if self.largest and other.largest:
            self.largest.merge(other.largest)

    def as_dict(self) -> dict[str, Any]:
        """The whole tensor's figures; in `roles` the same of the rows of each that there are; in `massive` peaks."""
        roles = {role: s.as_dict() for role, s in self.roles.items() if s.utterances}
        shown = {role: {k: v for k, v in s.items() if k != LEFT_OUT} for role, s in roles.items()}
        largest = {"massive": self.largest.as_dict()} if self.largest else {}
        return {**self.whole.as_dict(), "roles": shown, **largest}


def summarize_roles(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Role -> `summarize` over the sites that have rows of it."""
    roles = dict.fromkeys(role for site in sites.values() for role in site["roles"])
    return {r: summarize({a: site["roles"][r] for a, site in sites.items() if r in site["roles"]}) for r in roles}


def largest_values(sites: Mapping[str, Mapping[str, Any]], rows: int) -> MassiveValues:
    """Summary of massive values: how many sites have them, and which have the largest.

    `largest` holds the largest peak of each site that has one above the magnitude of massive values, at most `rows`, or
    the five largest where there are none; in the order of the sites.
    """
    peaks = {a: {"site": a, **_first(site["massive"]["peaks"])} for a, site in sites.items()}
    channels = {a: set().union(*site["massive"]["massive_channels"].values()) for a, site in sites.items()}
    large = [a for a, peak in peaks.items() if abs(peak["value"]) > MAGNITUDE]
    chosen = sorted(large or peaks, key=lambda a: -abs(peaks[a]["value"]))[: rows if large else 5]
    return {
        "definition": {"magnitude": MAGNITUDE, "times_median": TIMES_MEDIAN},
        "sites": len(sites),
        "massive_sites": sum(map(bool, channels.values())),
        "massive_channels": sum(map(len, channels.values())),
        "largest": [cast(LargestValue, peak) for address, peak in peaks.items() if address in chosen],
    }


def _first(peaks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The largest massive peak or, where none is massive, the largest peak; `peaks` are sorted."""
    return next((peak for peak in peaks if peak["massive"]), peaks[0])
