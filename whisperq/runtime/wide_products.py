"""Products of an input with codes of 16 bits, in all channels or in a few: INT8 products that are added up.

    y = main(q) + high(h) + low(l)

q: 8-bit codes of the channels that are not wide (the weight's other columns are zero in `main`); h and l: the halves of
the wide channels' codes, each with a grid of its own over one and the same weight (quant/wide.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.quant.grid import QParams, fake_quantize
from whisperq.quant.wide import WideQParams, fake_quantize_wide, half_codes, half_grids
from whisperq.runtime.kernels import Grid, Kernels
from whisperq.runtime.products import IntegerWeight, Product

Integer = Callable[[IntegerWeight, Grid], Product]


@dataclass(frozen=True)
class WideGrid:
    """Of an activation that has 16 bits in all channels (QParams) or in some."""

    qparams: QParams | WideQParams

    @property
    def wide(self) -> QParams:
        return self.qparams.wide if isinstance(self.qparams, WideQParams) else self.qparams

    @property
    def channels(self) -> Tensor | None:
        """None: all."""
        return self.qparams.channels if isinstance(self.qparams, WideQParams) else None

    @cached_property
    def main(self) -> Grid | None:
        return Grid(self.qparams.main) if isinstance(self.qparams, WideQParams) else None

    def rounded(self, x: Tensor) -> Tensor:
        """x (..., K), float32, as these grids represent it."""
        if isinstance(self.qparams, WideQParams):
            return fake_quantize_wide(x, self.qparams)
        return fake_quantize(x, self.qparams)


class WideProduct:
    """A `Product` that takes in floats, and quantizes them itself."""

    grid = None

    def __init__(self, grid: WideGrid, weight: IntegerWeight, kernels: Kernels, integer: Integer) -> None:
        self._grid, self._kernels = grid, kernels
        channels = grid.channels
        columns = weight.codes if channels is None else weight.codes[:, channels]
        narrow = replace(weight, codes=columns.contiguous(), bias=torch.zeros_like(weight.bias))
        grids = [Grid(half) for half in half_grids(grid.wide)]
        if channels is None:
            self._main = None
            self._halves = [integer(weight, grids[0]), integer(narrow, grids[1])]  # the bias once
        else:
            others = weight.codes.clone()
            others[:, channels] = 0
            self._main = integer(replace(weight, codes=others), grid.main)
            self._halves = [integer(narrow, half) for half in grids]

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        halves = half_codes(x if self._grid.channels is None else x[:, self._grid.channels], self._grid.wide)
        if self._main is None:
            return self._halves[1].add(halves[1], self._halves[0](halves[0])).to(dtype)
        y = self._main(self._kernels.quantize(x, self._grid.main))
        for product, codes in zip(self._halves, halves, strict=True):
            y = product.add(codes, y)
        return y.to(dtype)

    def add(self, x: Tensor, sum: Tensor) -> Tensor:
        halves = half_codes(x if self._grid.channels is None else x[:, self._grid.channels], self._grid.wide)
        if self._main is not None:
            sum = self._main.add(self._kernels.quantize(x, self._grid.main), sum)
        for product, codes in zip(self._halves, halves, strict=True):
            sum = product.add(codes, sum)
        return sum

    def gelu(self, x: Tensor, grid: Grid | None) -> Tensor:
        return self._kernels.quantize(F.gelu(self(x)), grid)


class SideBySide:
    """Products of one float input, their outputs side by side."""

    grid = None

    def __init__(self, parts: Sequence[Product]) -> None:
        self.parts = parts

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.cat([part(x, dtype) for part in self.parts], dim=1)
