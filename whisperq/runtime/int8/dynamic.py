"""Dynamic activations in integers: every row of a product's input has a grid of its own, from what it holds.

    y[r, n] = s_x[r] s_w[n] (sum_k q_x[r, k] q_w[n, k] - z_x[r] sum_k q_w[n, k]) + b[n]

q_x: codes (rows, K), uint8 (on GPUs int8), with scale s_x and zero_point z_x for each row; q_w: codes (N, K), int8;
s_w: a scale for each of the N outputs; b: bias, float32. A norm, a context or a GELU leaves `TokenCodes` where the next
product is one of these, so that all layers of one input share them. Kernels and products take a `TokenGrid` where they
take a `Grid`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.quant.grid import QParams, dequantize, quantize, storage_dtype, token_qparams
from whisperq.runtime.int8.grids import SIGN, signed_qparams
from whisperq.runtime.int8.matmuls import IntegerWeight, has_onednn


@dataclass(frozen=True)
class TokenCodes:
    """Codes (rows, K), uint8 or int8; scale (rows), float32, and zero_point (rows), int32, of each row."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def dtype(self) -> torch.dtype:
        return self.codes.dtype

    def reshape(self, *shape: int) -> "TokenCodes":
        """Rows cut into equal parts, (-1, width), each on the grid of the whole."""
        codes = self.codes.reshape(*shape)
        parts = len(codes) // len(self.codes)
        return TokenCodes(codes, *(t.repeat_interleave(parts) for t in (self.scale, self.zero_point)))


@dataclass(frozen=True)
class TokenGrid:
    """The asymmetric grids of `bits` bits of an activation (rows, K): one for each row, once it is there."""

    bits: int
    signed: bool = False

    @property
    def quant_min(self) -> int:
        return -SIGN if self.signed else 0

    @property
    def quant_max(self) -> int:
        return 2**self.bits - 1 + self.quant_min

    @property
    def fused(self) -> "TokenGrid":
        """This grid itself: kernels that compute the rows can quantize them too (see `Grid.fused`)."""
        return self

    def codes(self, x: Tensor) -> TokenCodes:
        q = token_qparams(x, self.bits)
        q = signed_qparams(q) if self.signed else q
        return TokenCodes(quantize(x, q).to(storage_dtype(q)), q.scale.squeeze(-1), q.zero_point.squeeze(-1))

    def values(self, x: TokenCodes) -> Tensor:
        return dequantize(x.codes, QParams(x.scale[:, None], x.zero_point[:, None], self.quant_min, self.quant_max))

    def rounded(self, x: Tensor | TokenCodes) -> Tensor:
        """x, floats or codes already, as these grids represent it."""
        return self.values(x if isinstance(x, TokenCodes) else self.codes(x))


class OneDnnSums:
    """Exact sums of integers by oneDNN, in float32: sum_k (q_x[r, k] - shift) q_w[n, k].

    The shift, half of the codes' range, keeps nearly all sums below 2^24, to where float32 counts every integer.
    align: N is padded to a multiple of 32; see `OneDnnMatmul`.
    """

    def __init__(self, codes: Tensor, bits: int, align: bool = False) -> None:
        self.shift, outputs = 2 ** (bits - 1), len(codes)
        self.width = outputs + (-outputs % 32 if align else 0)  # columns of the result, `outputs` of them real
        packed = torch.ops.onednn.qlinear_prepack(F.pad(codes, (0, 0, 0, self.width - outputs)), None)
        self._weight = (packed, torch.ones(self.width), torch.zeros(self.width, dtype=torch.int64))

    def __call__(self, codes: Tensor) -> Tensor:
        """(rows, K) -> (rows, width)."""
        return torch.ops.onednn.qlinear_pointwise.default(
            codes, 1.0, self.shift, *self._weight, None, 1.0, 0, torch.float32, "none", [], ""
        )


class MatmulSums:
    """Exact sums sum_k (q_x[r, k] - 128) q_w[n, k], int32, by PyTorch's INT8 matrix product (`torch._int_mm`).

    `TorchMatmul` documents the shapes that it needs.
    """

    shift = 128

    def __init__(self, codes: Tensor, device: str) -> None:
        self.width, inputs = codes.shape
        self._padding = -inputs % 8
        self._transposed = F.pad(codes, (0, self._padding, 0, -self.width % 8)).to(device).T

    def __call__(self, codes: Tensor) -> Tensor:
        """(rows, K) -> (rows, width)."""
        rows = len(codes)
        signed = F.pad((codes ^ 128).view(torch.int8), (0, self._padding, 0, max(0, 17 - rows)))
        return torch._int_mm(signed, self._transposed)[:rows, : self.width]


Sums = OneDnnSums | MatmulSums


class DynamicMatmul:
    """A `Matmul` of `TokenCodes`, finished by PyTorch's operators."""

    def __init__(self, weight: IntegerWeight, grid: TokenGrid, sums: Sums | None) -> None:
        """sums: None where a subclass computes whole products of any number of rows."""
        self.grid, self._sums, self._outputs = grid, sums, len(weight.scale)
        device = weight.bias.device
        # Part by part: a sum in another type makes a copy of what it sums.
        self._totals = torch.cat([part.sum(dim=1, dtype=torch.int32) for part in weight.codes.split(4096)]).to(device)
        self._scale, self._bias = weight.scale.to(device).contiguous(), weight.bias.contiguous()

    @property
    def sums(self) -> Sums:
        if self._sums is None:
            raise TypeError("this product has no sums by another kernel")
        return self._sums

    def __call__(self, x: TokenCodes, dtype: torch.dtype = torch.float32) -> Tensor:
        sums = self.sums(x.codes)[:, : self._outputs]
        sums = (sums - (x.zero_point - self.sums.shift)[:, None] * self._totals).float()
        return torch.addcmul(self._bias, sums * self._scale, x.scale[:, None]).to(dtype)

    def add(self, x: TokenCodes, sum: Tensor) -> Tensor:
        return sum.add_(self(x))

    def gelu(self, x: TokenCodes, grid: TokenGrid | None) -> Tensor | TokenCodes:
        result = F.gelu(self(x))
        return result if grid is None else grid.codes(result)


def integer_sums(codes: Tensor, bits: int, device: str, align: bool = False) -> Sums:
    """The quickest of this machine for a weight's codes (N, K)."""
    return OneDnnSums(codes, bits, align) if has_onednn(device) else MatmulSums(codes, device)
