"""Activations of 16 bits in INT8 products: all channels of a site, or the few that hold its massive values.

    q   = clip(round(x / s) + z, 0, 2^(2b) - 1) = 2^b h + l,      0 <= h, l < 2^b
    y_i = s w_i (2^b sum_j h_j q_ij + sum_j l_j q_ij - z sum_j q_ij) + b_i

x: (..., K); s, z: scale and zero_point of the grid of 2b bits; b: 8, or 7 where a CPU's sums of products would
saturate; q_ij: INT8 codes of the weight and w_i their scale. The two sums are two INT8 products of one and the same
weight, the halves' grids being (2^b s, z_h) and (s, z_l) with z = 2^b z_h + z_l.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whisperq.quant.grid import QParams, fake_quantize, quantize, range_qparams

RangeEnds = tuple[float, float]
WIDE = 16  # bits
HEADROOM = 2.0  # of a grid of 16 bits over what calibration saw: half of 65,536 levels are plenty, and nothing clips


@dataclass(frozen=True)
class WideQParams:
    """`main` is the grid of all channels but `channels` (n,), int64, which have the grid `wide`."""

    main: QParams
    wide: QParams
    channels: Tensor


@dataclass(frozen=True)
class ActivationRange:
    """What a static grid covers: `ends` with `bits`, but `wide` with 16 bits at `channels`."""

    ends: RangeEnds
    bits: int = 8
    wide: RangeEnds | None = None
    channels: tuple[int, ...] = ()

    def grid(self, most_bits: int = 8) -> QParams | WideQParams:
        """most_bits: of one INT8 product's input; two make a code of 16 bits."""
        bits = 2 * min(8, most_bits)
        main = range_qparams(*self.ends, bits if self.bits == WIDE else min(self.bits, most_bits))
        if self.wide is None:
            return main
        return WideQParams(main, range_qparams(*self.wide, bits), torch.tensor(self.channels, dtype=torch.int64))

    def as_dict(self) -> dict[str, Any]:
        """Entry of qparams.json. Its range decides; scale and zero_point are written for people who read the file."""
        entry = _entry(self.ends, self.bits)
        if self.wide is not None:
            entry["a16"] = {"channels": list(self.channels), **_entry(self.wide, WIDE)}
        return entry

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "ActivationRange":
        """Raises KeyError, TypeError and ValueError for what is no such entry."""
        ends, bits = _ends(entry), int(entry["quant_max"]).bit_length()
        if "a16" not in entry:
            return cls(ends, bits)
        return cls(ends, bits, _ends(entry["a16"]), tuple(int(c) for c in entry["a16"]["channels"]))


def with_headroom(ends: RangeEnds) -> RangeEnds:
    """What a grid of 16 bits covers where calibration saw `ends`."""
    return HEADROOM * ends[0], HEADROOM * ends[1]


def _entry(ends: RangeEnds, bits: int) -> dict[str, Any]:
    grid = range_qparams(*ends, bits)
    return {
        "scale": float(grid.scale),
        "zero_point": int(grid.zero_point),
        "quant_min": 0,
        "quant_max": grid.quant_max,
        "granularity": "per-tensor",
        "range": list(ends),
    }


def _ends(entry: Mapping[str, Any]) -> RangeEnds:
    low, high = entry["range"]
    return float(low), float(high)


def fake_quantize_wide(x: Tensor, grid: WideQParams, dim: int = -1) -> Tensor:
    """x (..., K, ...) with its channels along `dim`, each through its own grid, in x's dtype."""
    channels = grid.channels.to(x.device)
    massive = fake_quantize(x.index_select(dim, channels), grid.wide)
    return fake_quantize(x, grid.main).index_copy_(dim, channels, massive)


def is_wide(grid: QParams) -> bool:
    """Whether its codes need more than one byte."""
    return grid.quant_max > 255


def half_grids(grid: QParams) -> tuple[QParams, QParams]:
    """The grids of the high and of the low halves of its codes; dequantized, they add up to the value."""
    half = grid.quant_max.bit_length() // 2
    zero_point = int(grid.zero_point)
    high, low = zero_point >> half, zero_point & (2**half - 1)
    first, second = (
        QParams(grid.scale * factor, torch.tensor(zero, dtype=torch.int32), 0, 2**half - 1)
        for factor, zero in ((2**half, high), (1, low))
    )
    return first, second


def half_codes(x: Tensor, grid: QParams) -> tuple[Tensor, Tensor]:
    """The high and low halves, uint8, of the codes of x (...)."""
    half, codes = grid.quant_max.bit_length() // 2, quantize(x, grid)
    return (codes >> half).to(torch.uint8), (codes & (2**half - 1)).to(torch.uint8)
