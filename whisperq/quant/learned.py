"""Weights whose grids are learned: scales by their gradient, and a mixture over candidate bit-widths.

    w^ = sum_k p_k Q_k(w),   Q_k(w) = s_k clip(round(w / s_k), -n_k, n_k),   n_k = 2^(b_k - 1) - 1

w: a weight (channels, ...), one for all candidates; b_k: candidate k's bits; s_k: its scales, one for each output
channel, so that scales are (K, channels, 1, ...); p (K,): probabilities, one-hot once the width is chosen.
Rounding passes the gradient straight through, and the scale's is that of LSQ (Esser et al. 2020, equations 3 to 5):

    dQ/dw = [|w/s| < n]     dQ/ds = round(w/s) - w/s inside, -n or n outside, times g = 1 / sqrt(N n)

N: values that share the scale. What is learned is log s, whose gradient is s times that: Adam's steps are of one
size whatever the gradient's, and in the logarithm that size is relative, alike for 2 bits and 8 (Jain et al. 2020).
Q_k is `quant.grid.fake_quantize` to the last bit. A candidate of probability zero is not computed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from whisperq.quant.clipping import mse_weight_qparams
from whisperq.quant.grid import QParams, fake_quantize, weight_qparams


def greatest_code(bits: int) -> int:
    """Greatest code n of a symmetric grid: codes are -n to n."""
    return 2 ** (bits - 1) - 1


def symmetric_qparams(scale: Tensor, bits: int) -> QParams:
    """The symmetric grid with these scales."""
    scale = scale.detach()
    return QParams(scale, torch.zeros_like(scale, dtype=torch.int32), -greatest_code(bits), greatest_code(bits))


def initial_scales(weight: Tensor, widths: Sequence[int], channel_dims: int, fit: str = "mse") -> Tensor:
    """(K, channels, 1, ...): for each width the scales of least squared error; `minmax`: those that span all values."""
    find = {"mse": mse_weight_qparams, "minmax": weight_qparams}[fit]
    return torch.stack([find(weight, b, symmetric=True, channel_dims=channel_dims).scale for b in widths])


def relative_errors(weight: Tensor, scales: Tensor, widths: Sequence[int]) -> Tensor:
    """(K,): the squared error of each candidate over the weight's own square; no more than one."""
    square = weight.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
    errors = [
        (fake_quantize(weight, symmetric_qparams(s, b)) - weight).square().sum() / square
        for s, b in zip(scales, widths, strict=True)
    ]
    return torch.stack(errors).clamp(max=1.0)


def mixture(
    weight: Tensor, scales: Tensor, probabilities: Tensor, widths: Sequence[int], known: Sequence[float] | None = None
) -> Tensor:
    """w^, differentiable in weight, scales and probabilities; `known`: their values, so that no GPU is waited for."""
    known = probabilities.tolist() if known is None else known
    present = tuple((k, b, p) for k, (b, p) in enumerate(zip(widths, known, strict=True)) if p > 0)
    return _Mixture.apply(weight, scales, probabilities, present)


class _Mixture(torch.autograd.Function):
    """Candidates are computed again in the backward pass: kept, they would take K times the weight's memory."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, scales: Tensor, probabilities: Tensor, present: Sequence[tuple[int, int, float]]
    ) -> Tensor:
        ctx.save_for_backward(weight, scales, probabilities)
        ctx.present = present
        mixed = torch.zeros_like(weight)
        for k, bits, p in present:  # p of a chosen width is one exactly: neither the product nor the sum rounds
            mixed += p * fake_quantize(weight, symmetric_qparams(scales[k], bits))
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        weight, scales, probabilities = ctx.saved_tensors
        to_weight, to_scales, to_probabilities = map(torch.zeros_like, (weight, scales, probabilities))
        for k, bits, p in ctx.present:
            codes, inside, by_scale = _parts(weight, scales[k], greatest_code(bits))
            to_probabilities[k] = (gradient * codes * scales[k]).sum()
            to_weight += p * gradient * inside
            to_scales[k] = p * _lsq_factor(weight, scales[k], bits) * _summed(gradient * by_scale, scales[k])
        return to_weight, to_scales, to_probabilities, None


def _parts(weight: Tensor, scale: Tensor, greatest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, which values lie inside the grid, and dQ/ds."""
    real = weight / scale
    codes = real.round().clamp_(-greatest, greatest)
    inside = real.abs() < greatest
    return codes, inside, torch.where(inside, codes - real, codes)


def _summed(values: Tensor, scale: Tensor) -> Tensor:
    """Sums of `values` over the values that share a scale, in the shape of `scale`."""
    shared = [d for d, size in enumerate(scale.shape) if size == 1 and values.shape[d] != 1]
    return values.sum(dim=shared, keepdim=True) if shared else values.clone()


def _lsq_factor(weight: Tensor, scale: Tensor, bits: int) -> float:
    return (weight.numel() / scale.numel() * greatest_code(bits)) ** -0.5
