"""Convolutions over time as integer products, of one utterance: x (length, channels), floats or codes.

    y(t) = W w(t) + b,    w(t) = [x(s t), ..., x(s t + k - 1)],    t < (length - k) // s + 1

k: `width`; s: `stride`; w(t): a window (k * channels); W (N, k * channels) and b as a `Matmul` holds them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.runtime.int8.grids import Grid, is_codes
from whisperq.runtime.int8.kernels import Kernels, Norm
from whisperq.runtime.int8.matmuls import Matmul, Rescalable

EPSILON = 1e-5  # of wav2vec 2.0's norm


def windows(x: Tensor, width: int, stride: int) -> Tensor:
    """x (length, channels) -> (frames, width * channels), a view whose rows overlap in memory."""
    x = x.contiguous()
    channels = x.shape[1]
    frames = (len(x) - width) // stride + 1
    return x.as_strided((frames, width * channels), (stride * channels, 1))


@dataclass(frozen=True)
class TimeNorm:
    """A group norm with a channel a group: each channel over the time of the utterance.

        z = gamma (y - mean y) / sqrt(var y + epsilon) + beta

    y is linear in the windows, so that their moments give its own: mean y = W mean(w) + b, var y = W Cov(w) W^T.
    The norm is then another scale and bias of the product, and nothing reads y, the model's largest tensor, again.
    Moments and weights are float64: a filter that passes little of its input has a variance near the rounding's.
    """

    grid: Grid | None  # of the convolution's input
    weight: Tensor  # W, float64
    gamma: Tensor
    beta: Tensor

    def into(self, convolution: "Convolution", x: Tensor) -> Matmul:
        """The convolution's product of this x, the norm in it."""
        values = self.grid.values(x) if self.grid is not None and is_codes(x) else x
        seen = windows(values, convolution.width, convolution.stride).double()
        mean = seen.mean(dim=0)
        centred = seen - mean
        variance = ((self.weight @ (centred.T @ centred / len(seen))) * self.weight).sum(dim=1)
        factor = self.gamma / (variance.clamp(min=0.0) + EPSILON).sqrt()
        # (W w + b - mean y) * factor + beta: b cancels.
        bias = self.beta - self.weight @ mean * factor
        product = convolution.product
        if not isinstance(product, Rescalable):
            raise TypeError(f"a {type(product).__name__} takes in no norm over time")
        return product.rescaled(factor.float(), bias.float())


@dataclass(frozen=True)
class Convolution:
    """gelu(norm(y)): without padding; the norm over time, over the channels of each frame, or none."""

    product: Matmul
    width: int
    stride: int
    norm: TimeNorm | Norm | None = None

    def __call__(self, x: Tensor, grid: Grid | None, kernels: Kernels) -> Tensor:
        """x (length, channels): codes of the product's grid, or float32 -> codes of `grid`, or float32."""
        grid = None if grid is None else grid.fused
        if not is_codes(x):
            x = kernels.quantize(x, self.product.grid)
        seen = windows(x, self.width, self.stride)
        if isinstance(self.norm, Norm):
            return kernels.layer_norm(self.product(seen).contiguous(), self.norm, grid, gelu=True)
        product = self.product if self.norm is None else self.norm.into(self, x)
        return product.gelu(seen, grid)


@dataclass(frozen=True)
class PositionalConvolution:
    """gelu(y) of as many frames as there are: half of the width in padding before them, the rest after them.

    Each group of channels is a product of its own. `scale` and `shift` (channels) come before it, HuBERT's batch norm.
    """

    products: Sequence[Matmul]
    width: int
    scale: Tensor | None = None
    shift: Tensor | None = None

    def add(self, x: Tensor, kernels: Kernels) -> Tensor:
        """x (frames, channels), float32, and what this makes of it are added up, in the memory of x."""
        grid = self.products[0].grid
        inputs = x if self.scale is None or self.shift is None else torch.addcmul(self.shift, x, self.scale)
        left, zero = self.width // 2, 0 if grid is None else grid.zero_point
        padded = F.pad(kernels.quantize(inputs, grid), (0, 0, left, self.width - 1 - left), value=zero)
        groups = zip(self.products, x.chunk(len(self.products), dim=1), strict=True)
        parts = padded.chunk(len(self.products), dim=1)
        for own, (product, sums) in zip(parts, groups, strict=True):
            sums.add_(product.gelu(windows(own, self.width, 1), None))
        return x
