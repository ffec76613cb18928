"""The uniform affine grid of b bits on which tensors are quantized.

    q   = clip(round(x / s) + z, quant_min, quant_max)
    x_q = s * (q - z)                                     (Wagner et al. 2024, equation 2)

x: tensor (...); s: `scale`, float32 > 0; z: `zero_point`, int32; both () per tensor, or broadcastable to x.
Asymmetric: quant_min 0, quant_max 2^b - 1. Symmetric: z = 0 and quant_max = -quant_min = 2^(b-1) - 1.
Rounding is half to even, and real zero is always a grid point. x / s is a true division, as in ONNX;
libraries that multiply by 1 / s may differ by one code where x / s is within an ulp of a tie.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# The smallest normal float32. A finer scale has lost digits, or is zero and would be divided by.
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class QParams:
    """One grid, or one for each channel."""

    scale: Tensor
    zero_point: Tensor
    quant_min: int
    quant_max: int


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
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = _usable_scale((high - low) / quant_max)
    zero_point = (-low / scale).round().clamp(0, quant_max).to(torch.int32)
    return QParams(scale, zero_point, 0, quant_max)


def weight_qparams(weight: Tensor, bits: int, *, symmetric: bool, channel_dims: int) -> QParams:
    """The grid of `weight`: from its greatest magnitude if `symmetric`, else from its minimum and maximum.

    channel_dims 0 is per tensor, scale (); n gives every index of the first n dimensions its own scale,
    shape (C1, ..., Cn, 1, ...). A channel of zeros gets scale 1.
    """
    low, high = _channel_range(weight, channel_dims)
    if not symmetric:
        return range_qparams(low, high, bits)
    quant_max = 2 ** (_checked_bits(bits) - 1) - 1
    amax = torch.maximum(-low, high)
    if not torch.isfinite(amax).all():
        raise ValueError("a weight holds NaN or infinite values")
    scale = _usable_scale(amax / quant_max)
    return QParams(scale, torch.zeros_like(scale, dtype=torch.int32), -quant_max, quant_max)


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """x (...) -> int32 codes (...). A NaN has no code: keep it out."""
    return _rounded_codes(x, qparams).to(torch.int32)


def dequantize(codes: Tensor, qparams: QParams) -> Tensor:
    """Codes (...) of any integer dtype -> float32 (...)."""
    return (codes.to(torch.int32) - qparams.zero_point).to(torch.float32) * qparams.scale


def fake_quantize(x: Tensor, qparams: QParams) -> Tensor:
    """dequantize(quantize(x)) in x's own dtype, and bit for bit the same in float32; NaN stays NaN."""
    real = _rounded_codes(x, qparams).sub_(qparams.zero_point).mul_(qparams.scale)
    return real.to(x.dtype)


def storage_dtype(qparams: QParams) -> torch.dtype:
    """The 8-bit dtype that holds the codes: int8 of a symmetric grid, uint8 of an asymmetric one."""
    return torch.int8 if qparams.quant_min < 0 else torch.uint8


def _rounded_codes(x: Tensor, qparams: QParams) -> Tensor:
    """The codes as float32, in one new tensor: codes of 8 bits are exact there."""
    codes = x.to(torch.float32) / qparams.scale
    return codes.round_().add_(qparams.zero_point).clamp_(qparams.quant_min, qparams.quant_max)


def _channel_range(weight: Tensor, channel_dims: int) -> tuple[Tensor, Tensor]:
    """Minimum and maximum (C1, ..., Cn, 1, ...) of each channel, or both () if channel_dims is 0."""
    # amin over no dimension at all would reduce every one of them, so the last must not be a channel
    if not 0 <= channel_dims < max(weight.dim(), 1):
        raise ValueError(f"channel_dims {channel_dims} does not fit a weight of {weight.dim()} dimensions")
    weight = weight.detach().to(torch.float32)
    if channel_dims == 0:
        return weight.amin(), weight.amax()
    dims = tuple(range(channel_dims, weight.dim()))
    return weight.amin(dims, keepdim=True), weight.amax(dims, keepdim=True)


def _usable_scale(scale: Tensor) -> Tensor:
    # What lies in so narrow a range (about 1e-36 at 8 bits) becomes exactly zero at scale 1.
    return torch.where(scale >= _SMALLEST_SCALE, scale, 1.0)


def _checked_bits(bits: int) -> int:
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be between 2 and 8, not {bits}")
    return bits
