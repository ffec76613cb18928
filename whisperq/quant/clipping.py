"""Weight grids of least squared error: each channel's or group's range is clipped where that pays.

    c* = argmin over c of sum (w - w_q(c))^2,   c in {1/80, 2/80, ..., 1}

w: the values of one channel or group; w_q(c): w on the grid over [c * min w, c * max w], symmetric over
c * max |w|, clipped and rounded. c = 1 is plain rounding to nearest (RTN), and wins a draw. A narrow grid rounds
finely and cuts off the extremes: with few bits and heavy tails that is the lesser error (Banner et al. 2019).
"""

import torch
from torch import Tensor

from whisperq.quant.grid import QParams, by_group, fake_quantize, range_weight_qparams, reduced

FRACTIONS = 80


def mse_weight_qparams(
    weight: Tensor, bits: int, *, symmetric: bool, channel_dims: int, group: int | None = None
) -> QParams:
    """Grid of `weight` clipped to the fraction c of its range with the least squared error.

    Arguments and shapes as in `weight_qparams`, which is the case c = 1.
    """
    if group is not None:
        return by_group(mse_weight_qparams, weight, bits, symmetric=symmetric, channel_dims=channel_dims, group=group)
    low, high = (reduced(weight, channel_dims, f) for f in (torch.amin, torch.amax))
    best, least = torch.ones_like(low), torch.full_like(low, torch.inf)
    for step in range(FRACTIONS, 0, -1):
        fraction = step / FRACTIONS
        grid = range_weight_qparams(fraction * low, fraction * high, bits, symmetric)
        error = reduced(fake_quantize(weight, grid).sub_(weight).square_(), channel_dims, torch.sum)
        best, least = torch.where(error < least, fraction, best), torch.minimum(error, least)
    return range_weight_qparams(best * low, best * high, bits, symmetric)
