"""Outlier statistics of the tensors at a site, one tensor x of N values for each utterance.

    kurtosis = mean((x - mu)^4) / sigma^4      plain fourth standardised moment, Gaussian = 3
    inf_norm = max |x|
    outlier:   |x - mu| > 6 sigma

mu, sigma: mean and population standard deviation of the flattened tensor. Kurtosis and inf_norm are
averaged over utterances (Bondarenko et al. 2023); `peak` is the plain maximum of |x|.

Sums over utterances are exact fractions, rounded once in the end: shards merge to what one process finds, bit by bit.
"""

import math
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor

from whisperq.quant.reading import Read, now

_OUTLIER_DEVIATIONS = 6
_TOP_DIMENSIONS = 10


class TensorStatistics:
    """Running statistics of one site; its memory does not grow with the utterances.

    A constant tensor has no kurtosis and no outliers: it is counted in `constant_utterances` and left out
    of the average kurtosis, but not of the other figures.
    """

    def __init__(self) -> None:
        self.utterances = 0
        self.constant_utterances = 0
        self.values = 0
        self.peak = 0.0
        self.outliers_per_dimension: Tensor | None = None  # int64 (D,)
        self._kurtosis_sum = Fraction()
        self._inf_norm_sum = Fraction()

    def update(self, x: Tensor, read: Read = now) -> None:
        """Take in one utterance's tensor (..., D), padding already removed.

        Raises ValueError where the tensor holds NaN or infinity, and for another D than before; with a `read` that
        waits, when it reads.
        """
        x = x.detach().to(torch.float64).reshape(-1, x.shape[-1])
        ends = torch.aminmax(x)
        squares = (x - x.mean()).square_()
        variance = squares.mean()
        outliers = (squares > _OUTLIER_DEVIATIONS**2 * variance).sum(dim=0)
        kurtosis = squares.square_().mean() / variance.square()
        figures = torch.stack([*ends, kurtosis])
        read(torch.cat([figures, outliers.to(torch.float64)]), partial(self._take, x.numel()))

    def _take(self, values: int, found: Tensor) -> None:
        """found: minimum, maximum, kurtosis, and the outliers of each dimension, of so many values."""
        low, high, kurtosis = found[:3].tolist()
        if not math.isfinite(high - low):
            raise ValueError("outlier statistics need finite values, and this tensor holds NaN or infinity")
        per_dimension = self._expect(len(found) - 3)
        inf_norm = max(-low, high)
        self.utterances += 1
        self.values += values
        self.peak = max(self.peak, inf_norm)
        self._inf_norm_sum += Fraction(inf_norm)
        if low == high:  # the variance could come out as rounding noise instead of zero
            self.constant_utterances += 1
            return
        per_dimension += found[3:].to(torch.int64)
        self._kurtosis_sum += Fraction(kurtosis)

    def merge(self, other: "TensorStatistics") -> None:
        """Add other utterances' statistics: the same as having seen their tensors too, in any order."""
        if other.outliers_per_dimension is None:
            return
        per_dimension = self._expect(len(other.outliers_per_dimension))
        per_dimension += other.outliers_per_dimension
        self.utterances += other.utterances
        self.constant_utterances += other.constant_utterances
        self.values += other.values
        self.peak = max(self.peak, other.peak)
        self._kurtosis_sum += other._kurtosis_sum
        self._inf_norm_sum += other._inf_norm_sum

    def _expect(self, dimensions: int) -> Tensor:
        """The counts of outliers (D,), to be added to in place."""
        if self.outliers_per_dimension is None:
            self.outliers_per_dimension = torch.zeros(dimensions, dtype=torch.int64)
        elif len(self.outliers_per_dimension) != dimensions:
            expected = len(self.outliers_per_dimension)
            raise ValueError(f"this site has {expected} dimensions, and now a tensor of {dimensions}")
        return self.outliers_per_dimension

    def as_dict(self) -> dict:
        """The figures as plain numbers; kurtosis is NaN if every tensor was constant."""
        if self.outliers_per_dimension is None:
            raise ValueError("no tensor was observed at this site")
        varied = self.utterances - self.constant_utterances
        return {
            "utterances": self.utterances,
            "constant_utterances": self.constant_utterances,
            "kurtosis": float(self._kurtosis_sum / varied) if varied else math.nan,
            "inf_norm": float(self._inf_norm_sum / self.utterances),
            "peak": self.peak,
            "outliers": int(self.outliers_per_dimension.sum()),
            "values": self.values,
            "outliers_per_dimension": self.outliers_per_dimension.tolist(),
            "top_dimensions": _top_dimensions(self.outliers_per_dimension.tolist()),
        }


def summarize(sites: dict[str, dict]) -> dict:
    """The figures that papers print, over the sites' dictionaries, with the list of these sites.

    `max_inf_norm` is the maximum of averages, `peak` of plain values. A site whose kurtosis is NaN does
    not enter the average.
    """
    if not sites:
        raise ValueError("no sites to summarize")
    kurtoses = [site["kurtosis"] for site in sites.values() if not math.isnan(site["kurtosis"])]
    return {
        "kurtosis": sum(kurtoses) / len(kurtoses) if kurtoses else math.nan,
        "max_inf_norm": max(site["inf_norm"] for site in sites.values()),
        "peak": max(site["peak"] for site in sites.values()),
        "outliers": sum(site["outliers"] for site in sites.values()),
        "values": sum(site["values"] for site in sites.values()),
        "sites": list(sites),
    }


def _top_dimensions(counts: list[int]) -> list[list[int | float]]:
    """[dimension, outliers, share of all outliers] of the dimensions that have most, at most ten."""
    order = sorted((dim for dim, count in enumerate(counts) if count), key=lambda dim: -counts[dim])
    total = sum(counts)
    return [[dim, counts[dim], counts[dim] / total] for dim in order[:_TOP_DIMENSIONS]]
