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

from whisperq.quant.grid import QParams, fake_quantize
from whisperq.quant.wide import WideQParams, fake_quantize_wide, half_grids
from whisperq.runtime.int8.dynamic import TokenCodes, TokenGrid
from whisperq.runtime.int8.grids import Grid, signed_qparams
from whisperq.runtime.int8.kernels import AnyGrid, Kernels
from whisperq.runtime.int8.matmuls import Finished, IntegerWeight, Matmul
from whisperq.runtime.int8.native_kernels import NativeKernels
from whisperq.runtime.int8.native_matmuls import NARROW, NativeNarrowProduct, NativeWideProduct

Integer = Callable[[IntegerWeight, AnyGrid], Matmul]


@dataclass(frozen=True)
class WideGrid:
    """Grid of an activation with 16 bits in all channels (QParams) or in some (WideQParams)."""

    qparams: QParams | WideQParams
    signed: bool = False  # whether codes of eight bits, and the halves, are
    device: str = "cpu"

    @property
    def wide(self) -> QParams:
        return self.qparams.wide if isinstance(self.qparams, WideQParams) else self.qparams

    @cached_property
    def channels(self) -> Tensor | None:
        """Indices of the channels with 16 bits; None: all."""
        return self.qparams.channels.to(self.device) if isinstance(self.qparams, WideQParams) else None

    @property
    def half_bits(self) -> int:
        return self.wide.quant_max.bit_length() // 2

    @cached_property
    def main(self) -> Grid | None:
        if not isinstance(self.qparams, WideQParams):
            return None
        return Grid(signed_qparams(self.qparams.main) if self.signed else self.qparams.main)

    def half_grids(self) -> list[QParams]:
        """Of the high and the low halves."""
        grids = half_grids(self.wide)
        return [signed_qparams(grid) if self.signed else grid for grid in grids]

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
        (high, low), grids = (
            self.kernels.halves(x, self.grid).chunk(2),
            self._of(1 << (rows - 1).bit_length(), x.device),
        )
        first, second = ((scale[:rows], zero_point[:rows]) for scale, zero_point in grids)
        return TokenCodes(high, *first), TokenCodes(low, *second)

    def _of(self, rows: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Both grids, a scale and a zero_point for each of so many rows. Kept: a recorded step goes on reading them."""
        if rows not in self._grids:

            def each(value: Tensor) -> Tensor:
                return value.expand(rows).contiguous().to(device)

            self._grids[rows] = [(each(g.scale.float()), each(g.zero_point)) for g in self.grid.half_grids()]
        return self._grids[rows]


class WideMatmul:
    """A `Matmul` that takes in floats, and quantizes them itself."""

    grid = None

    def __init__(
        self, grid: WideGrid, weight: IntegerWeight, kernels: Kernels, integer: Integer, few_rows: bool = False
    ) -> None:
        self._grid, self._kernels, self._halves = grid, kernels, Halves(grid, kernels)
        channels, halves = (
            None if grid.channels is None else grid.channels.cpu(),
            TokenGrid(grid.half_bits, grid.signed),
        )
        self._few: NativeWideProduct | None = None  # where all channels are wide
        self._few_wide: NativeNarrowProduct | None = None
        self._main: Matmul | None = None
        native = kernels if isinstance(kernels, NativeKernels) and kernels.most_rows else None
        self._most = native.most_rows if native else 0
        if channels is None:  # both halves add the bias
            self._wide = integer(replace(weight, bias=weight.bias / 2), halves)
            if few_rows and native:
                self._few = NativeWideProduct(weight, grid.wide, native)
            return
        others = weight.codes.clone()
        others[:, channels] = 0
        self._main = integer(replace(weight, codes=others), grid.main)
        codes = weight.codes[:, channels].contiguous()
        narrow = replace(weight, codes=codes, bias=torch.zeros_like(weight.bias))
        self._wide = integer(narrow, halves)
        if native and codes.shape[1] <= NARROW:
            self._few_wide = NativeNarrowProduct(narrow, grid.wide, native)

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if self._main is not None:
            return self._add_wide(x, self._main(self._kernels.quantize(x, self._grid.main))).to(dtype)
        if self._few and len(x) <= self._most:
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
        if few and len(x) <= self._most:
            channels = self._grid.channels
            return few.add(x.contiguous() if channels is None else x[:, channels], sum)
        high, low = self._halves(x)
        return self._wide.add(low, self._wide.add(high, sum))

    def gelu(self, x: Tensor, grid: Grid | None) -> Tensor:
        if self._few and len(x) <= self._most:
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
