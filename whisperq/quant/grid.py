"""The uniform affine grid of b bits on which tensors are quantized.

    q   = clip(round(x / s) + z, quant_min, quant_max)
    x_q = s * (q - z)                                     (Wagner et al. 2024, equation 2)

x: tensor (...); s: `scale`, float32 > 0; z: `zero_point`, int32; both () per tensor, broadcastable to x, or
(C1, ..., Cn, groups): then every `group` consecutive values of a channel, its dimensions flattened, share a scale.
Asymmetric: quant_min 0, quant_max 2^b - 1. Symmetric: z = 0 and quant_max = -quant_min = 2^(b-1) - 1.
Rounding is half to even, and real zero is always a grid point. x / s is a true division, as in ONNX;
libraries that multiply by 1 / s may differ by one code where x / s is within an ulp of a tie.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

WIDE_BITS = (14, 16)  # of activations whose codes are two INT8 codes each: quant/wide.py
# The smallest normal float32. A finer scale has lost digits, or is zero and would be divided by.
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class QParams:
    """One grid, or one for each channel or group."""

    scale: Tensor
    zero_point: Tensor
    quant_min: int
    quant_max: int
    group: int | None = None  # values that share a scale; the last group of a channel may have fewer

    def spread(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Scale and zero_point, broadcastable to a tensor of this shape."""
        if self.group is None:
            return self.scale, self.zero_point
        size = shape[self.scale.dim() - 1 :].numel()
        within = min(self.group, size)  # a group that is longer ends with its channel
        scale, zero_point = (
            t.repeat_interleave(within, dim=-1)[..., :size].reshape(shape) for t in (self.scale, self.zero_point)
        )
        return scale, zero_point


def range_qparams(minimum: Tensor | float, maximum: Tensor | float, bits: int) -> QParams:
    """The asymmetric grid over [minimum, maximum], widened where needed to contain zero.

    A range of nothing but zero gets scale 1 and zero_point 0.
    """
    quant_max = 2 ** _checked_bits(bits) - 1
    low = torch.as_tensor(minimum).to(torch.float32)
    high = torch.as_tensor(maximum).to(torch.float32)
    if not torch.isfinite(high - low).all():
        raise ValueError(f"a quantization range must be finite in float32, not {minimum} to {maximum}")
    if (low > high).any():
        raise ValueError(f"the minimum of a quantization range exceeds its maximum: {minimum} > {maximum}")
    return _asymmetric(low, high, quant_max)


def token_qparams(x: Tensor, bits: int) -> QParams:
    """Dynamic ranges: an asymmetric grid for each token, x (..., d), from its own minimum and maximum; scale (..., 1).

    A token with NaN or infinity gets a grid of no meaning, and no error: this runs in every layer.
    """
    x = x.detach().to(torch.float32)
    return _asymmetric(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), 2 ** _checked_bits(bits) - 1)


def weight_qparams(
    weight: Tensor, bits: int, *, symmetric: bool, channel_dims: int, group: int | None = None
) -> QParams:
    """The grid of `weight`: from its greatest magnitude if `symmetric`, else from its minimum and maximum.

    channel_dims 0 is per tensor, scale (); n gives every index of the first n dimensions its own scale,
    shape (C1, ..., Cn, 1, ...), and with `group` every so many values of it, (C1, ..., Cn, groups).
    A channel or group of zeros gets scale 1.
    """
    if group is not None:
        return by_group(weight_qparams, weight, bits, symmetric=symmetric, channel_dims=channel_dims, group=group)
    low, high = (reduced(weight, channel_dims, f) for f in (torch.amin, torch.amax))
    return range_weight_qparams(low, high, bits, symmetric)


def range_weight_qparams(low: Tensor, high: Tensor, bits: int, symmetric: bool) -> QParams:
    """Grid of a weight from the ends of each channel; symmetric: from the greater of their magnitudes."""
    if not symmetric:
        return range_qparams(low, high, bits)
    quant_max = 2 ** (_checked_bits(bits) - 1) - 1
    amax = torch.maximum(-low, high)
    if not torch.isfinite(amax).all():
        raise ValueError("a weight holds NaN or infinite values")
    scale = _usable_scale(amax / quant_max)
    return QParams(scale, torch.zeros_like(scale, dtype=torch.int32), -quant_max, quant_max)


def by_group(
    find: Callable[..., QParams], weight: Tensor, bits: int, *, symmetric: bool, channel_dims: int, group: int
) -> QParams:
    """Grid by groups: `find` sees each group as a channel; zeros, which are in any range, fill up the last one."""
    if group < 1:
        raise ValueError(f"a group has one value or more, not {group}")
    rows = weight.flatten(channel_dims)
    within = min(group, rows.shape[-1])
    parts = F.pad(rows, (0, -rows.shape[-1] % within)).unflatten(-1, (-1, within))
    grid = find(parts, bits, symmetric=symmetric, channel_dims=channel_dims + 1)
    return replace(grid, scale=grid.scale.squeeze(-1), zero_point=grid.zero_point.squeeze(-1), group=group)


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """x (...) -> int32 codes (...). A NaN has no code: keep it out."""
    return _rounded_codes(x, *qparams.spread(x.shape), qparams).to(torch.int32)


def dequantize(codes: Tensor, qparams: QParams) -> Tensor:
    """Codes (...) of any integer dtype -> float32 (...)."""
    scale, zero_point = qparams.spread(codes.shape)
    return (codes.to(torch.int32) - zero_point).to(torch.float32) * scale


def fake_quantize(x: Tensor, qparams: QParams) -> Tensor:
    """dequantize(quantize(x)) in x's own dtype, and bit for bit the same in float32; NaN stays NaN."""
    scale, zero_point = qparams.spread(x.shape)
    real = _rounded_codes(x, scale, zero_point, qparams).sub_(zero_point).mul_(scale)
    return real.to(x.dtype)


def storage_dtype(qparams: QParams) -> torch.dtype:
    """The 8-bit dtype that holds the codes: int8 of a symmetric grid, uint8 of an asymmetric one."""
    return torch.int8 if qparams.quant_min < 0 else torch.uint8


def reduced(values: Tensor, channel_dims: int, reduction: Callable[..., Tensor]) -> Tensor:
    """One number for each channel, (C1, ..., Cn, 1, ...), or for all, (); reduction: amin, amax or sum of torch."""
    # A reduction over no dimension at all would take every one of them, so the last must not be a channel
    if not 0 <= channel_dims < max(values.dim(), 1):
        raise ValueError(f"channel_dims {channel_dims} does not fit a weight of {values.dim()} dimensions")
    values = values.detach().to(torch.float32)
    return reduction(values, dim=tuple(range(channel_dims, values.dim())), keepdim=channel_dims > 0)


def _rounded_codes(x: Tensor, scale: Tensor, zero_point: Tensor, qparams: QParams) -> Tensor:
    """The codes as float32, in one new tensor: codes of up to 16 bits are exact there."""
    codes = x.to(torch.float32) / scale
    return codes.round_().add_(zero_point).clamp_(qparams.quant_min, qparams.quant_max)


def _asymmetric(low: Tensor, high: Tensor, quant_max: int) -> QParams:
    """low, high: float32 of any shape, widened where needed to contain zero."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = _usable_scale((high - low) / quant_max)
    zero_point = (-low / scale).round().clamp(0, quant_max).to(torch.int32)
    return QParams(scale, zero_point, 0, quant_max)


def _usable_scale(scale: Tensor) -> Tensor:
    # What lies in so narrow a range (about 1e-36 at 8 bits) becomes exactly zero at scale 1.
    return torch.where(scale >= _SMALLEST_SCALE, scale, 1.0)


def _checked_bits(bits: int) -> int:
    if not 2 <= bits <= 8 and bits not in WIDE_BITS:
        raise ValueError(f"bits must be between 2 and 8, or {' or '.join(map(str, WIDE_BITS))}, not {bits}")
    return bits
