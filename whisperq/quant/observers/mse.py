"""MSE: the range whose grid has the least expected squared error, clipping and rounding together.

    argmin over (low, high) of E[(x - x_q)^2]

x_q: x on the asymmetric grid over (low, high), clipped and rounded; E: over the histogram's counts.
"""

import torch
from torch import Tensor

from whisperq.quant.grid import QParams, range_qparams
from whisperq.quant.histogram import Histogram
from whisperq.quant.observer import EstimatorSettings, Observations, Observer, RangeEnds

CANDIDATES = 100  # of each end
COARSE = 12  # candidates of each end in the first, joint search
ROUNDS = 8


def mse_range(histogram: Histogram, bits: int) -> RangeEnds:
    """The range whose grid has the least expected squared error, clipping and rounding together.

    Each end has CANDIDATES fractions of its full value, from 1 to 1/100 in equal ratios. The best coarse
    pair comes first: with outliers on both sides, cutting either alone gains nothing. Then each end moves
    with the other held, in turn until neither does.
    """
    histogram.require_values()
    shrink = torch.logspace(0, -2, CANDIDATES, dtype=torch.float64)
    lows, highs = shrink * min(histogram.minimum, 0.0), shrink * max(histogram.maximum, 0.0)
    coarse = slice(None, None, CANDIDATES // COARSE)
    pairs = torch.cartesian_prod(lows[coarse], highs[coarse])
    low, high = pairs[_squared_errors(histogram, range_qparams(pairs[:, 0], pairs[:, 1], bits)).argmin()]
    for _ in range(ROUNDS):
        before = low, high
        high = highs[_squared_errors(histogram, range_qparams(low.expand_as(highs), highs, bits)).argmin()]
        low = lows[_squared_errors(histogram, range_qparams(lows, high.expand_as(lows), bits)).argmin()]
        if low == before[0] and high == before[1]:
            break
    return float(low), float(high)


def _squared_errors(histogram: Histogram, qparams: QParams) -> Tensor:
    """Total squared error, float64 (C,), of each of the C grids, taking a bin's values as uniform in it.

    The integral of (x - x_q)^2 has a closed form, so that it stays right where a grid step is finer than
    a bin. With t = x / s, t' = t clipped to the grid and r = round(t'), an antiderivative over t is
    r / 12 + (t' - r)^3 / 3 + (t - t')^3 / 3.
    """
    scale, zero_point = (part.to(torch.float64).unsqueeze(1) for part in (qparams.scale, qparams.zero_point))
    counts = torch.cat([histogram.counts, histogram.counts.new_zeros(1)])  # of the bin right of each edge
    # Empty bins add no error; where there are outliers, most bins are empty.
    used = (counts > 0) | (counts.roll(1) > 0)
    t = histogram.edges()[used] / scale
    clipped = t.clamp(qparams.quant_min - zero_point, qparams.quant_max - zero_point)
    rounded = clipped.round()
    integral = rounded / 12 + (clipped - rounded).pow_(3) / 3 + t.sub_(clipped).pow_(3) / 3
    per_grid = (integral.diff(dim=1) * counts[used][:-1]).sum(dim=1)
    return per_grid * scale.squeeze(1).pow(3) / 2.0**histogram.exponent


def estimate(seen: Observations, how: EstimatorSettings, bits: int) -> RangeEnds:
    return mse_range(seen.counted(), bits)


OBSERVER = Observer(estimate, needs_histogram=True, per_bitwidth=True)
