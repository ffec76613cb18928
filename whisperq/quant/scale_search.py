"""Which scales and which wide channels a site gets: what quantizing it does to the output of the layers that read it.

    s_j = a_j^alpha / w_j^(1 - alpha) over its median,      a_j >= FLOOR median(a)
    e   = mean over rows of |x W^T - fq(x / s) fq(W s)^T|^2 / |x W^T|^2

x: a sampled row (K) of the site; W: (N, K), all weights that read it, one below the other; j: input channel; a_j:
the calibration's maximum of |x_j| over all rows, the massive ones included; w_j: that of |W_ij|; fq: on its grid;
alpha: from ALPHAS by least e, or none at all where that gains less than LEAST_GAIN.
SmoothQuant (Xiao et al. 2022) has one alpha for the whole model and no measure of the output; the search per site is
what AWQ (Lin et al. 2023) does for weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whisperq.quant.grid import fake_quantize
from whisperq.quant.wide import WIDE, ActivationRange, RangeEnds, WideQParams, fake_quantize_wide, with_headroom

# Beyond 0.65 e falls further, but whole models get worse: what weights lose is the same for every token, and adds up
# where the activations' errors average out.
ALPHAS = (0.2, 0.35, 0.5, 0.65)
FLOOR = 0.1  # of the median maximum: a silent channel is not blown up
LEAST_GAIN = 0.2  # of e: below it a site is left alone
WINDOW_ALPHA, WINDOW_LIMITS = 0.5, (0.05, 20.0)  # of a convolution's input, whose scales the runtime multiplies by
COUNTS = (4, 8, 16, 32, 64)  # wide channels that a site may get
MASSIVE = 6.0  # a channel's maximum over the median channel's, from which on it is worth a grid of its own
MOST = 512  # outputs of W that e is measured on, evenly spaced: a vocabulary's rows say no more


@dataclass(frozen=True)
class Observed:
    """What a calibration knows of one site: each channel's ends, (batches, K), and rows (rows, width * K)."""

    minima: Tensor
    maxima: Tensor
    rows: Tensor

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The least and greatest value of each channel, (K,)."""
        return self.minima.amin(dim=0), self.maxima.amax(dim=0)

    @property
    def magnitudes(self) -> Tensor:
        """max|x_j|, (K,)."""
        low, high = self.ends
        return torch.maximum(-low, high).clamp(min=0.0)

    @property
    def width(self) -> int:
        """Number of time steps in a row."""
        return self.rows.shape[1] // self.minima.shape[1]

    def scaled(self, scales: Tensor) -> "Observed":
        """Statistics of x / s, for scales s (K,)."""
        return Observed(self.minima / scales, self.maxima / scales, self.rows.float() / scales.repeat(self.width))


Estimate = Callable[[Observed], RangeEnds]


@dataclass(frozen=True)
class Reading:
    """The layers that read a site: W (N, width * K), and how weights are quantized."""

    weight: Tensor
    quantized: Callable[[Tensor], Tensor]

    def some(self) -> "Reading":
        """The reader with at most MOST of its outputs, evenly spaced."""
        step = -(-len(self.weight) // MOST)
        return Reading(self.weight[::step], self.quantized)


@dataclass(frozen=True)
class Choice:
    """A site's scales (K,), None where it is left alone, with e before and after."""

    scales: Tensor | None
    alpha: float | None
    before: float
    after: float


def balanced(magnitudes: Tensor, weight_maxima: Tensor, alpha: float) -> Tensor:
    """s (K) of max|x_j| (K) and max|W_ij| (K); 1 where either is zero for all."""
    a = magnitudes.clamp(min=float(FLOOR * magnitudes.median()))
    scales = a.pow(alpha) / weight_maxima.pow(1 - alpha)
    usable = (a > 0) & (weight_maxima > 0) & torch.isfinite(scales)
    scales = torch.where(usable, scales / scales[usable].median() if usable.any() else scales, 1.0)
    return scales


def search(
    observed: Observed, reading: Reading, usual: ActivationRange, estimate: Estimate, scales: Mapping[float, Tensor]
) -> Choice:
    """The best of these scales, by alpha. usual: the site's range as it is; estimate: that of a scaled site."""
    reading = reading.some()
    before = output_error(observed, reading, usual)
    best = Choice(None, None, before, before)
    for alpha, s in scales.items():
        scaled = observed.scaled(s)
        weight = Reading(reading.weight * s.repeat(observed.width), reading.quantized)
        error = output_error(scaled, weight, ActivationRange(estimate(scaled), usual.bits))
        if error < best.after:
            best = Choice(s, alpha, before, error)
    return best if best.after <= (1 - LEAST_GAIN) * before else Choice(None, None, before, before)


def output_error(observed: Observed, reading: Reading, covered: ActivationRange) -> float:
    """e of rows through the grid over this range."""
    rows, grid = observed.rows.float(), covered.grid()
    by_step = rows.unflatten(1, (observed.width, -1))
    quantized = fake_quantize_wide(by_step, grid) if isinstance(grid, WideQParams) else fake_quantize(by_step, grid)
    exact = rows @ reading.weight.T
    found = quantized.flatten(1) @ reading.quantized(reading.weight).T
    return float(((exact - found).square().sum(dim=1) / exact.square().sum(dim=1).clamp(min=1e-30)).mean())


def outlier_ratio(magnitudes: Tensor) -> float:
    """How much greater the greatest channel's maximum is than the median channel's; (K) -> a number."""
    return float(magnitudes.max()) / max(float(magnitudes.median()), 1e-30)


def massive_channels(observed: Observed, count: int) -> Tensor:
    """The `count` channels of greatest magnitude, in their order."""
    return observed.magnitudes.topk(count).indices.sort().values


def wide_range(observed: Observed, channels: Tensor, estimate: Estimate, bits: int) -> ActivationRange:
    """The estimated range of all channels but these with `bits`, and the ends of these with 16; with 16 of all."""
    if len(channels) == observed.minima.shape[1]:
        return ActivationRange(with_headroom(estimate(observed)), WIDE)
    others = torch.ones(observed.minima.shape[1], dtype=torch.bool)
    others[channels] = False
    main = estimate(Observed(observed.minima[:, others], observed.maxima[:, others], observed.rows[:, :0]))
    low, high = observed.ends
    wide = with_headroom((float(low[channels].min()), float(high[channels].max())))
    return ActivationRange(main, bits, wide, tuple(channels.tolist()))


@dataclass(frozen=True)
class Offer:
    """A site's wide channels: what e they leave, and what they cost in products."""

    site: str
    count: int
    gain: float  # of e
    cost: float


def spend(offers: Sequence[Offer], budget: float) -> dict[str, Offer]:
    """The offers to take, at most one for each site, that gain most for what they cost within the budget.

    Greedy: the step of greatest gain for its cost that is still affordable, until none is.
    """
    chosen: dict[str, Offer] = {}
    none = Offer("", 0, 0.0, 0.0)
    while True:
        spent = sum(o.cost for o in chosen.values())
        steps = [(o, chosen.get(o.site, none)) for o in offers]
        steps = [(o, now) for o, now in steps if o.gain > now.gain and spent + o.cost - now.cost <= budget]
        if not steps:
            return chosen
        best, _ = max(steps, key=lambda s: (s[0].gain - s[1].gain) / max(s[0].cost - s[1].cost, 1e-12))
        chosen[best.site] = best
