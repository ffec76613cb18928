"""Integer products by the compiled kernels, of inputs on grids of 8 or of 16 bits.

They are for the few rows of decoding, up to `most_rows` of the kernels; where sums of eight bits saturate, for all.
"""

from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.native.checks import address
from whisperq.quant.grid import QParams
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.matmuls import IntegerWeight, Matmul
from whisperq.runtime.int8.native_kernels import CGrid, NativeKernels, Weight

NARROW = 64  # channels, up to which sums of 16-bit codes fit in 32 bits
VALUES, HALVES, ADDED, GELU_CODES, GELU_VALUES = range(5)  # `Kind` of few_rows.h


def weight_of(codes: Tensor | None, correction: Tensor, scale: Tensor, bias: Tensor, inputs: int = 0) -> Weight:
    """The kernels' view of codes (outputs, inputs) and what belongs to them, (outputs) each. Raises ValueError."""
    outputs = len(bias)
    inputs = inputs if codes is None else codes.shape[1]
    start = None if codes is None else address(codes, torch.int8, outputs, inputs)
    whole, floats = (
        address(correction, torch.int32, outputs),
        (address(t, torch.float32, outputs) for t in (scale, bias)),
    )
    return Weight(start, whole, *floats, outputs, inputs)


def result_address(result: Tensor, kind: int, rows: int, outputs: int) -> int:
    """Address of a product's result, whose number format `kind` decides. Raises ValueError for another tensor."""
    dtype = {HALVES: torch.bfloat16, GELU_CODES: torch.uint8}.get(kind, torch.float32)
    return address(result, dtype, rows, outputs)


class NativeMatmul:
    """A `Matmul` whose weight stays codes (N, K), as on disk.

    many: what it hands over to beyond the kernels' most rows; None where they take any number.
    """

    def __init__(self, weight: IntegerWeight, grid: Grid, kernels: NativeKernels, many: Matmul | None) -> None:
        self.grid, self.codes, self._many, self._most = grid, weight.codes.contiguous(), many, kernels.most_rows
        # Part by part: a sum in another type makes a copy of what it sums.
        sums = torch.cat([part.sum(dim=1, dtype=torch.int32) for part in self.codes.split(4096)])
        self._correction = sums * grid.zero_point
        self._scale, self._bias = weight.scale * grid.scale, weight.bias.contiguous()
        self._weight = weight_of(self.codes, self._correction, self._scale, self._bias)
        self._run = kernels.library.integer_product

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if self._many and len(x) > self._most:
            return self._many(x, dtype)
        return self._into(
            x, x.new_empty(len(x), len(self.codes), dtype=dtype), HALVES if dtype == torch.bfloat16 else VALUES
        )

    def add(self, x: Tensor, sum: Tensor) -> Tensor:
        if self._many and len(x) > self._most:
            return self._many.add(x, sum)
        return self._into(x, sum, ADDED)

    def gelu(self, x: Tensor, grid: Grid | None) -> Tensor:
        if self._many and len(x) > self._most:
            return self._many.gelu(x, grid)
        dtype = torch.float32 if grid is None else torch.uint8
        return self._into(
            x, x.new_empty(len(x), len(self.codes), dtype=dtype), GELU_VALUES if grid is None else GELU_CODES, grid
        )

    def _into(self, x: Tensor, result: Tensor, kind: int, grid: Grid | None = None) -> Tensor:
        out = CGrid() if grid is None else CGrid(grid.scale, grid.zero_point, grid.quant_max)
        x = x.contiguous()  # the windows of a convolution lie over each other
        start = address(x, torch.uint8, len(x), self.codes.shape[1])
        self._run(start, len(x), self._weight, kind, result_address(result, kind, len(x), len(self.codes)), out)
        return result

    def rescaled(self, factor: Tensor, bias: Tensor) -> "NativeMatmul":
        """A copy with scales multiplied by `factor` and another bias. Raises TypeError where it hands rows over."""
        if self._many is not None:
            raise TypeError("a product that hands over to another cannot be rescaled")
        other = copy(self)
        other._scale, other._bias = self._scale * factor, bias.contiguous()
        other._weight = weight_of(self.codes, self._correction, other._scale, other._bias)
        return other


class NativeWideProduct:
    """Product of at most `most_rows` contiguous rows of floats, (rows, K), which the kernel quantizes to 16 bits."""

    def __init__(self, weight: IntegerWeight, grid: QParams, kernels: NativeKernels) -> None:
        self.codes, self._bias = weight.codes.contiguous(), weight.bias.contiguous()
        self._sums = self.codes.sum(dim=1, dtype=torch.int32)
        self._scale = weight.scale * float(grid.scale)
        self._weight = weight_of(self.codes, self._sums, self._scale, self._bias)
        half = grid.quant_max.bit_length() // 2
        self._grid = (float(grid.scale), int(grid.zero_point), float(grid.quant_max), half)
        self._run = kernels.library.wide_product

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        result = x.new_empty(len(x), len(self.codes), dtype=dtype)
        return self._into(x, result, HALVES if dtype == torch.bfloat16 else VALUES)

    def add(self, x: Tensor, sum: Tensor) -> Tensor:
        return self._into(x, sum, ADDED)

    def gelu(self, x: Tensor, grid: Grid | None) -> Tensor:
        dtype = torch.float32 if grid is None else torch.uint8
        kind = GELU_VALUES if grid is None else GELU_CODES
        return self._into(x, x.new_empty(len(x), len(self.codes), dtype=dtype), kind, grid)

    def _into(self, x: Tensor, result: Tensor, kind: int, grid: Grid | None = None) -> Tensor:
        out = CGrid() if grid is None else CGrid(grid.scale, grid.zero_point, grid.quant_max)
        start, end = address(x, torch.float32, len(x), self.codes.shape[1]), len(self.codes)
        self._run(start, len(x), *self._grid, self._weight, kind, result_address(result, kind, len(x), end), out)
        return result


class NativeNarrowProduct:
    """Product of at most NARROW 16-bit channels of up to `most_rows` rows, (rows, K) floats, added to a result."""

    def __init__(self, weight: IntegerWeight, grid: QParams, kernels: NativeKernels) -> None:
        outputs, channels = weight.codes.shape
        missing = -outputs % 16
        codes = F.pad(weight.codes, (0, -channels % 4, 0, missing))
        self._packed = codes.unflatten(0, (-1, 16)).unflatten(2, (-1, 4)).transpose(1, 2).contiguous()
        self._sums = codes.sum(dim=1, dtype=torch.int32)
        self._scale = F.pad(weight.scale * float(grid.scale), (0, missing))
        self._outputs, self._inputs, half = outputs, channels, grid.quant_max.bit_length() // 2
        self._grid = (float(grid.scale), int(grid.zero_point), float(grid.quant_max), half)
        self._run = kernels.library.add_narrow_product

    def add(self, x: Tensor, sum: Tensor) -> Tensor:
        rows, weight = len(x), (t.data_ptr() for t in (self._packed, self._sums, self._scale))
        start, end = (address(t, torch.float32, rows, n) for t, n in ((x, self._inputs), (sum, self._outputs)))
        self._run(start, rows, self._inputs, *self._grid, *weight, self._outputs, end)
        return sum
