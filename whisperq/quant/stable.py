"""StableQuant's ranges (Hong et al. 2025, arXiv 2504.14915): which layers are searched, and a range for each cut-off.

    h_p      = the histogram h without the mass beyond Q((100 - p) / 200) and Q((100 + p) / 200)
    (l, u)_p = argmin over (l, u) of sum over h_p of (x - x_q)^2

p: cut-off, the percent of the mass that is kept; Q: quantile function of h; x_q: x on the asymmetric grid over
(l, u), clipped and rounded, l and u inside the ends of h_p. What lies beyond a cut-off has no say in the scale.

    searched by WER   layers with  100 (WER_k - WER_float) > gamma
    searched by SNR   the fewest whose noise leaves  10 log10( sum n / (sum n - sum of the others' n) ) <= delta

WER_k, n_k = 10^(-SNR_k / 10): of the model with layer k alone quantized at its full range; gamma: percentage points;
delta: dB. Noise of layers adds up where each is small, so that delta is what clipping the others could win at most.

The authors' README gives the order of the four steps, gamma = 0.25 and the full range of all other layers. Their code
is not public. Ours are the grid of cut-offs, that what is cut off has no say in the squared error, that a searched
layer may go back to its full range, that a draw goes to the lesser cut, and the SNR.
"""

import math
from collections.abc import Mapping

import torch

from whisperq.quant.histogram import Histogram
from whisperq.quant.observers.mse import mse_range
from whisperq.quant.observers.percentile import percentile_range

ROUNDING = 1e-9  # points: so many errors of so many words may be the threshold exactly
CUT_OFFS = (100.0, 99.999, 99.99, 99.95, 99.9, 99.8, 99.5, 99.0)


def clipped(histogram: Histogram, kept: float) -> Histogram:
    """Histogram without the values outside the percentile; bins cut by an end keep the share inside."""
    low, high = percentile_range(histogram, kept)
    edges = histogram.edges()
    width = edges[1] - edges[0]
    inside = (edges[1:].clamp(low, high) - edges[:-1].clamp(low, high)) / width
    if kept == 100.0 or low == high:  # the outermost values lie anywhere in their bins
        inside = torch.ones_like(inside)
    found = Histogram(histogram.bins)
    found.counts = (histogram.counts * inside).round().to(torch.int64)
    found.first, found.exponent = histogram.first, histogram.exponent
    found.minimum, found.maximum = low, high
    return found


def stable_range(histogram: Histogram, kept: float, bits: int) -> tuple[float, float]:
    """The range of least squared error inside what a cut-off leaves."""
    return mse_range(clipped(histogram, kept), bits)


def costly_by_wer(alone: Mapping[str, float], exact: float, points: float) -> list[str]:
    """alone: WER, a fraction, with one layer quantized, by layer; exact: of the float model."""
    return [layer for layer, wer in alone.items() if 100 * (wer - exact) > points + ROUNDING]


def costly_by_snr(alone: Mapping[str, float], decibels: float) -> list[str]:
    """alone: SNR in dB with one layer quantized, by layer; those left out could win at most so many together."""
    noise = {layer: 10 ** (-snr / 10) for layer, snr in alone.items() if snr > -math.inf}  # NaN: it broke the logits
    left = sum(noise.values()) * (1 - 10 ** (-decibels / 10))
    spared: set[str] = set()
    for layer in sorted(noise, key=noise.__getitem__):
        left -= noise[layer]
        if left < 0:
            break
        spared.add(layer)
    return [layer for layer in alone if layer not in spared]


def best_cut_off(found: Mapping[float | None, float], metric: str) -> float | None:
    """The best cut-off (None: the full range), from each one's WER or SNR; a draw goes to the one that cuts least."""
    sign = 1 if metric == "wer" else -1
    return min(found, key=lambda kept: (sign * _number(found[kept], sign), -math.inf if kept is None else -kept))


def _number(value: float, sign: int) -> float:
    """NaN, where a model's logits broke, is worse than anything."""
    return sign * math.inf if math.isnan(value) else value
