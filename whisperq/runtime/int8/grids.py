"""The grid of an activation as integer kernels take it: scale and zero_point as numbers, codes of eight bits.

Codes count from 0, uint8, or on GPUs from -128, int8, as tensor cores multiply them.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from whisperq.quant.grid import QParams, dequantize, quantize, storage_dtype

SIGN = 128  # between codes of eight bits from 0 on, and signed ones


@dataclass(frozen=True)
class Grid:
    """The grid of one activation; its channels (K) are divided by `divisor` first, where a convolution takes it in."""

    qparams: QParams
    divisor: Tensor | None = None

    @cached_property
    def scale(self) -> float:
        return float(self.qparams.scale)

    @cached_property
    def zero_point(self) -> int:
        return int(self.qparams.zero_point)

    @property
    def quant_min(self) -> int:
        return self.qparams.quant_min

    @property
    def quant_max(self) -> int:
        return self.qparams.quant_max

    @property
    def signed(self) -> bool:
        return self.quant_min < 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the codes: uint8, or int8 of a signed grid."""
        return storage_dtype(self.qparams)

    @property
    def fused(self) -> "Grid | None":
        """The grid for a kernel that quantizes what it has computed; None: it leaves floats, and `quantize` divides."""
        return self if self.divisor is None else None

    def codes(self, x: Tensor) -> Tensor:
        return quantize(x if self.divisor is None else x / self.divisor, self.qparams).to(self.dtype)

    def values(self, codes: Tensor) -> Tensor:
        return dequantize(codes, self.qparams)

    def rounded(self, x: Tensor) -> Tensor:
        """x, floats or codes already, as this grid represents it."""
        return self.values(x if is_codes(x) else self.codes(x))


def of_windows(grid: Any, inputs: int) -> Any:
    """A grid of any kind for windows of `inputs` values: a divisor's channels side by side for each time step."""
    if not isinstance(grid, Grid) or grid.divisor is None:
        return grid
    return replace(grid, divisor=grid.divisor.repeat(inputs // len(grid.divisor)))


def is_codes(x: Any) -> bool:
    """Whether these are codes of a grid and no floats."""
    return not x.dtype.is_floating_point


def signed_qparams(qparams: QParams) -> QParams:
    """The same grid with signed codes: 128 less, and the zero_point too."""
    return replace(
        qparams, zero_point=qparams.zero_point - SIGN, quant_min=qparams.quant_min - SIGN,
        quant_max=qparams.quant_max - SIGN,
    )  # fmt: skip
