"""Products of an input with codes of 16 bits as ONNX operators: two or three products of integers, added up.

    high = s_h (round(x / s_h) + z_h - z_h),  s_h = 2^b s        low = s round((x - high) / s)
    y = main(x) + high W + low W

x: the wide channels; s: the scale of their grid of 2b bits; W: their rows of the weight. No engine multiplies codes
of 16 bits with weights of 8. So the low half is what the high one, rounded to nearest, leaves of x: high + low is the
value that the integer runtime has, but for codes at the very end of the range.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from whisperq.graphs.graph import Graph
from whisperq.models.sites import canonical
from whisperq.ptq.arrays import Stored
from whisperq.quant.grid import QParams
from whisperq.quant.wide import WideQParams


@dataclass(frozen=True)
class WideWeight:
    """Codes (d_in, d_out) and a scale for each column, or one for all."""

    name: str
    codes: np.ndarray
    scale: np.ndarray


class Layers(Protocol):
    """`graphs.layers.Layers`, as far as it is needed here."""

    @property
    def graph(self) -> Graph: ...
    @property
    def stored(self) -> Stored: ...
    def rounded(self, x: str, grid: QParams, name: str) -> str: ...
    def product(self, address: str, x: str, weight: str) -> str: ...
    def dequantized(self, name: str, codes: np.ndarray, scale: np.ndarray, again: bool = False) -> str: ...


def wide_product(layers: Layers, x: str, address: str, weight: WideWeight) -> str:
    """x (..., d_in) -> x @ W, (..., d_out), of the layer at `address`, whose input has wide channels."""
    g, site = layers.graph, canonical(f"{address}:input")
    grid, codes, parts = layers.stored.activations[site], weight.codes, []
    if isinstance(grid, WideQParams):
        channels, codes = grid.channels.numpy(), weight.codes.copy()
        narrow, codes[channels] = codes[channels], 0
        main = layers.dequantized(f"{weight.name}.main", codes, weight.scale)
        parts.append(layers.product(address, layers.rounded(x, grid.main, site), main))
        indices = g.constant(f"{site}.channels", channels)
        x, codes, grid = g.once("Gather", x, indices, name=f"{site}/channels", axis=-1), narrow, grid.wide
    if not isinstance(grid, QParams):
        raise TypeError(f"{site} has no channels of 16 bits")
    high_grid, low_grid = _halves(grid)
    high = layers.rounded(x, high_grid, f"{site}/high")
    rest = g.once("Sub", x, high, name=f"{site}/rest")
    low = layers.rounded(rest, low_grid, f"{site}/low")
    for y in (high, low):
        matrix = layers.dequantized(f"{weight.name}.wide", codes, weight.scale, again=y == low)
        parts.append(layers.product(address, y, matrix))
    total = parts[0]
    for part in parts[1:]:
        total = g.op("Add", total, part, name=f"{address}/sum")
    return total


def _halves(grid: QParams) -> tuple[QParams, QParams]:
    """The grids of the high half and of what it leaves, which is as often negative as positive."""
    half = grid.quant_max.bit_length() // 2
    high = torch.tensor(min(round(int(grid.zero_point) / 2**half), 2**half - 1), dtype=torch.int32)
    middle = torch.tensor(2 ** (half - 1), dtype=torch.int32)
    return (
        QParams(grid.scale * 2**half, high, 0, 2**half - 1),
        QParams(grid.scale, middle, 0, 2**half - 1),
    )
