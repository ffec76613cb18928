"""Products of an input with codes of 16 bits, in all channels or in a few: INT8 products that are added up.

    y = main(q) + high(h) + low(l)

q: 8-bit codes of the channels that are not wide (the weight's other columns are zero in `main`); h and l: the halves of
the wide channels' codes, each with a grid of its own over one and the same weight (quant/wide.py): rows of a product
whose rows have grids of their own (runtime/int8/dynamic.py). Of a few rows both meet the weight in one pass over it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.native.checks import address
from whisperq.quant.grid import QParams, fake_quantize
from whisperq.quant.wide import WideQParams, fake_quantize_wide, half_codes, half_grids
from whisperq.runtime.int8.dynamic import TokenCodes, TokenGrid
from whisperq.runtime.int8.kernels import AnyGrid, Grid, Kernels
from whisperq.runtime.int8.matmuls import Finished, IntegerWeight, Matmul
from whisperq.runtime.int8.native_kernels import NativeKernels
from whisperq.runtime.int8.native_matmuls import FEW, NARROW, FewRowsNarrowProduct, FewRowsWideProduct

Integer = Callable[[IntegerWeight, AnyGrid], Matmul]


@dataclass(frozen=True)
class WideGrid:
    """Grid of an activation with 16 bits in all channels (QParams) or in some (WideQParams)."""

    qparams: QParams | WideQParams

    @property
    def wide(self) -> QParams:
        return self.qparams.wide if isinstance(self.qparams, WideQParams) else self.qparams

    @property
    def channels(self) -> Tensor | None:
        """Indices of the channels with 16 bits; None: all."""
        return self.qparams.channels if isinstance(self.qparams, WideQParams) else None

    @property
    def half_bits(self) -> int:
        return self.wide.quant_max.bit_length() // 2

    @cached_property
    def main(self) -> Grid | None:
        return Grid(self.qparams.main) if isinstance(self.qparams, WideQParams) else None

    def rounded(self, x: Tensor) -> Tensor:
        """x (..., K), float32, as these grids represent it."""
        if isinstance(self.qparams, WideQParams):
            return fake_quantize_wide(x, self.qparams)
        return fake_quantize(x, self.qparams)


@dataclass
class Halves:
    """x (rows, K), float32 -> the high and the low halves of its wide channels' codes."""

    grid: WideGrid
    kernels: Kernels
    _grids: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)  # by rows: scales and zero_points

    def __call__(self, x: Tensor) -> tuple[TokenCodes, TokenCodes]:
        rows = len(x)
        if rows not in self._grids:

            def each(value: Tensor) -> Tensor:
                return value.expand(rows).contiguous().to(x.device)

            self._grids = {rows: [(each(g.scale.float()), each(g.zero_point)) for g in half_grids(self.grid.wide)]}
        (high, low), (first, second) = self._codes(x).chunk(2), self._grids[rows]
        return TokenCodes(high, *first), TokenCodes(low, *second)

    def _codes(self, x: Tensor) -> Tensor:
        channels, wide = self.grid.channels, self.grid.wide
        if not isinstance(self.kernels, NativeKernels):
            return torch.cat(half_codes(x if channels is None else x[:, channels], wide))
        count = x.shape[1] if channels is None else len(channels)
        if channels is not None and not 0 <= int(channels.min()) <= int(channels.max()) < x.shape[1]:
            raise ValueError(f"{x.shape[1]} channels do not hold the wide ones, {channels.tolist()}")
        x, codes = x.contiguous(), torch.empty(2 * len(x), count, dtype=torch.uint8)
        start = address(x, torch.float32, *x.shape)
        self.kernels.library.quantize_halves(
            start, *x.shape, None if channels is None else address(channels, torch.int64, count), count,
            float(wide.scale), float(wide.zero_point), wide.quant_max, self.grid.half_bits, codes.data_ptr(),
        )  # fmt: skip
        return codes


class WideMatmul:
    """A `Product` that takes in floats, and quantizes them itself."""

    grid = None

    def __init__(
        self, grid: WideGrid, weight: IntegerWeight, kernels: Kernels, integer: Integer, few_rows: bool = False
    ) -> None:
        self._grid, self._kernels, self._halves = grid, kernels, Halves(grid, kernels)
        channels, halves = grid.channels, TokenGrid(grid.half_bits)
        self._few: FewRowsWideProduct | None = None  # where all channels are wide
        self._few_wide: FewRowsNarrowProduct | None = None
        self._main: Matmul | None = None
        native = kernels if isinstance(kernels, NativeKernels) and kernels.multiplies_few_rows else None
        if channels is None:  # both halves add the bias
            self._wide = integer(replace(weight, bias=weight.bias / 2), halves)
            if few_rows and native:
                self._few = FewRowsWideProduct(weight, grid.wide, native)
            return
        others = weight.codes.clone()
        others[:, channels] = 0
        self._main = integer(replace(weight, codes=others), grid.main)
        codes = weight.codes[:, channels].contiguous()
        narrow = replace(weight, codes=codes, bias=torch.zeros_like(weight.bias))
        self._wide = integer(narrow, halves)
        if native and codes.shape[1] <= NARROW:
            self._few_wide = FewRowsNarrowProduct(narrow, grid.wide, native)

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if self._main is not None:
            return self._add_wide(x, self._main(self._kernels.quantize(x, self._grid.main))).to(dtype)
        if self._few and len(x) <= FEW:
            return self._few(x.contiguous(), dtype)
        high, low = self._halves(x)
        return self._wide.add(low, self._wide(high)).to(dtype)

    def add(self, x: Tensor, sum: Tensor) -> Tensor:
        if self._main is not None:
            sum = self._main.add(self._kernels.quantize(x, self._grid.main), sum)
        return self._add_wide(x, sum)

    def _add_wide(self, x: Tensor, sum: Tensor) -> Tensor:
        """The wide channels' part added to `sum`."""
        few = self._few or self._few_wide
        if few and len(x) <= FEW:
            channels = self._grid.channels
            return few.add(x.contiguous() if channels is None else x[:, channels], sum)
        high, low = self._halves(x)
        return self._wide.add(low, self._wide.add(high, sum))

    def gelu(self, x: Tensor, grid: Grid | None) -> Tensor:
        if self._few and len(x) <= FEW:
            return self._few.gelu(x.contiguous(), grid)
        y = F.gelu(self(x))
        return y if grid is None else self._kernels.quantize(y, grid)


class SideBySide(Finished):
    """Products of one float input, their outputs side by side."""

    grid = None

    def __init__(self, parts: Sequence[Matmul]) -> None:
        self.parts = parts

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.cat([part(x, dtype) for part in self.parts], dim=1)
