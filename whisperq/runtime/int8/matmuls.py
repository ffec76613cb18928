"""Matrix products of linear layers: in integers where weight and input are quantized, else in float.

    y = s_x s_w (q_x - z_x) q_w^T + b          accumulated in int32

q_x: codes (rows, K), uint8 (on GPUs int8); q_w: codes (N, K), int8; s_w: a scale for each of the N outputs;
b: bias, float32.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.kernels import AnyCodes, AnyGrid


@dataclass(frozen=True)
class IntegerWeight:
    """Weight codes (N, K), int8; scale (N), float32; bias (N), float32, zeros where the layer has none."""

    codes: Tensor
    scale: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        """Raises ValueError for what no kernel may get: they read as many scales and biases as there are outputs."""
        outputs = (len(self.codes),)
        floats = all(t.shape == outputs and t.dtype == torch.float32 for t in (self.scale, self.bias))
        if self.codes.dim() != 2 or self.codes.dtype != torch.int8 or not floats:
            found = ", ".join(f"{t.dtype} {list(t.shape)}" for t in (self.codes, self.scale, self.bias))
            raise ValueError(f"codes (N, K) are int8, scales and biases (N) float32, not {found}")

    def chunk(self, count: int) -> list["IntegerWeight"]:
        """The outputs in so many equal parts."""
        parts = zip(*(t.chunk(count) for t in (self.codes, self.scale, self.bias)), strict=True)
        return [IntegerWeight(*part) for part in parts]


class Rounding(Protocol):
    """A grid of any kind."""

    def rounded(self, x: Tensor) -> Tensor:
        """x as the grid represents it, float32."""


class Matmul(Protocol):
    """One matrix product. Its input is codes of `grid`, or float32 where that is None."""

    @property
    def grid(self) -> AnyGrid: ...

    def __call__(self, x: AnyCodes, dtype: torch.dtype = torch.float32) -> Tensor:
        """x (rows, K) -> (rows, N)."""

    def add(self, x: AnyCodes, sum: Tensor) -> Tensor:
        """The product added to `sum` (rows, N), float32, whose memory may be reused."""

    def gelu(self, x: AnyCodes, grid: AnyGrid) -> AnyCodes:
        """gelu of the product: codes of `grid`, or float32."""


@runtime_checkable
class Rescalable(Protocol):
    """A product whose outputs can be scaled anew."""

    def rescaled(self, factor: Tensor, bias: Tensor) -> Matmul:
        """A copy with the scales of the outputs multiplied by `factor` (N) and another bias (N)."""


class Finished:
    """Base of products: `add` and `gelu` in terms of the call."""

    def __call__(self, x: AnyCodes, dtype: torch.dtype = torch.float32) -> Tensor:
        raise NotImplementedError

    def add(self, x: AnyCodes, sum: Tensor) -> Tensor:
        return sum.add_(self(x))

    def gelu(self, x: AnyCodes, grid: AnyGrid) -> AnyCodes:
        result = F.gelu(self(x))
        return result if grid is None else grid.codes(result)


BLOCK, WHOLE = 125, 1000  # rows


def row_blocks(rows: int) -> Iterator[slice]:
    """Rows in blocks of 500, 250 and 125, and what is left; as they are from WHOLE rows on.

    oneDNN compiles a kernel for each number of rows that it meets. For a recording whose padding is left out that
    takes as long as the encoder; such recordings have many lengths, but blocks of them few.
    """
    first = 0
    while first < rows:
        left = rows - first
        size = left if left <= BLOCK or rows >= WHOLE else BLOCK << (left // BLOCK).bit_length() - 1
        yield slice(first, first + size)
        first += size


class OneDnnMatmul:
    """oneDNN's quantized linear layer, for x86. The weight is prepacked here and only here, never saved.

    align: N is padded to a multiple of 32, and the result is a view without the padding: rows that share no cache
    line are written faster, 3,860 columns of bfloat16 by a seventh. For plain calls only.
    """

    def __init__(self, weight: IntegerWeight, grid: Grid, align: bool = False) -> None:
        self.grid, self._outputs = grid, len(weight.scale)
        if align:
            missing = -self._outputs % 32
            codes = F.pad(weight.codes, (0, 0, 0, missing))
            weight = IntegerWeight(codes, F.pad(weight.scale, (0, missing)), F.pad(weight.bias, (0, missing)))
        packed = torch.ops.onednn.qlinear_prepack(weight.codes, None)
        zero_points = torch.zeros(len(weight.scale), dtype=torch.int64)
        self._arguments = (grid.scale, grid.zero_point, packed, weight.scale.contiguous(), zero_points)
        self._bias = weight.bias.contiguous()

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._blocks(x, 1.0, 0, dtype, "none", [], "")[:, : self._outputs]

    def add(self, x: Tensor, sum: Tensor) -> Tensor:
        for rows in row_blocks(len(x)):
            torch.ops.onednn.qlinear_pointwise.binary(
                x[rows], *self._arguments, sum[rows], self._bias, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none",
                [], "",
            )  # fmt: skip
        return sum

    def gelu(self, x: Tensor, grid: Grid | None) -> Tensor:
        scale, zero_point, dtype = (
            (1.0, 0, torch.float32) if grid is None else (grid.scale, grid.zero_point, torch.uint8)
        )
        result = self._blocks(x, scale, zero_point, dtype, "gelu", [], "none")
        if grid is not None and grid.quant_max < 255:  # the kernel saturates at eight bits
            result.clamp_(max=grid.quant_max)
        return result

    def _blocks(self, x: Tensor, *how: object) -> Tensor:
        run = torch.ops.onednn.qlinear_pointwise.default
        parts = [run(x[rows], *self._arguments, self._bias, *how) for rows in row_blocks(len(x))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rescaled(self, factor: Tensor, bias: Tensor) -> "OneDnnMatmul":
        """A copy with scales multiplied by `factor` and another bias; for a product made without `align`."""
        other = copy(self)
        *first, scale, zero_points = self._arguments
        other._arguments, other._bias = (*first, scale * factor, zero_points), bias.contiguous()
        return other


class TorchMatmul(Finished):
    """Elsewhere: PyTorch's INT8 matrix product, s8 times s8 (on CUDA cublasLt's).

    It wants more than 16 rows, and K and N in multiples of 8: both are padded with zeros.
    """

    def __init__(self, weight: IntegerWeight, grid: Grid, device: str = "cpu") -> None:
        self.grid = grid
        outputs, inputs = weight.codes.shape
        self._outputs, self._padding = outputs, -inputs % 8
        codes = F.pad(weight.codes, (0, self._padding, 0, -outputs % 8)).to(device)
        self._transposed = codes.T  # a view with columns contiguous, as the kernel is quickest with
        # uint8 codes are taken in as int8 of 128 less.
        self._correction = codes.sum(dim=1, dtype=torch.int32)[:outputs] * (grid.zero_point - 128)
        self._scale = (weight.scale * grid.scale).to(device)
        self._bias = weight.bias.to(device)

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        rows = x.shape[0]
        signed = (x ^ 128).view(torch.int8)
        signed = F.pad(signed, (0, self._padding, 0, max(0, 17 - rows)))
        sums = torch._int_mm(signed, self._transposed)[:rows, : self._outputs] - self._correction
        return torch.addcmul(self._bias, sums.float(), self._scale).to(dtype)

    def rescaled(self, factor: Tensor, bias: Tensor) -> "TorchMatmul":
        other = copy(self)
        other._scale, other._bias = self._scale * factor, bias
        return other


class FloatMatmul(Finished):
    """A layer of which not both sides are quantized: float32, its input through `rounding` where there is one."""

    grid = None

    def __init__(self, weight: Tensor, bias: Tensor | None, rounding: Rounding | None = None) -> None:
        self.weight, self.bias, self.rounding = weight, bias, rounding

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if self.rounding is not None:
            x = self.rounding.rounded(x)  # the encoder's output comes as codes already
        return _linear(x, self.weight, self.bias).to(dtype)

    def rescaled(self, factor: Tensor, bias: Tensor) -> "FloatMatmul":
        return FloatMatmul(self.weight * factor[:, None], bias, self.rounding)


class MixedMatmuls(Finished):
    """Several layers of one quantized input, of which some have a float weight: outputs side by side."""

    def __init__(self, grid: AnyGrid, parts: Sequence[Matmul]) -> None:
        self.grid, self.parts = grid, parts

    def __call__(self, x: AnyCodes, dtype: torch.dtype = torch.float32) -> Tensor:
        values = self.grid.values(x)
        return torch.cat([part(values if part.grid is None else x, dtype) for part in self.parts], dim=1)


def integer_matmul(weight: IntegerWeight, grid: Grid, device: str, align: bool = False) -> OneDnnMatmul | TorchMatmul:
    """The quickest integer kernel of this machine; `align` as oneDNN's understands it."""
    return OneDnnMatmul(weight, grid, align) if has_onednn(device) else TorchMatmul(weight, grid, device)


def has_onednn(device: str) -> bool:
    """Whether this build of PyTorch has oneDNN's quantized linear layer for the device."""
    return device == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_prepack")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's for many rows: MKL's leaves half of the vector width of other makers' CPUs idle."""
    if len(x) > 64 and has_onednn(x.device.type):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
