"""Random inputs, grids and gates for kernels, compiled and portable."""

import pytest
import torch

from whisperq.native.build import NoKernels, library
from whisperq.quant.grid import range_qparams
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.kernels import GateLogits, Heads
from whisperq.runtime.int8.native_kernels import NativeKernels

PORTABLE = ("-mno-amx-tile", "-mno-amx-bf16")  # what a CPU without matrix tiles compiles
GRIDS = {
    "asymmetric": (-1.0, 3.0, 8), "symmetric": (-2.0, 2.0, 8), "six bits": (-1.0, 3.0, 6), "positive": (0.0, 2.5, 8),
    "all zero": (0.0, 0.0, 8), "narrow": (-0.01, 0.02, 8),
}  # fmt: skip


def native(*flags: str) -> NativeKernels:
    try:
        return NativeKernels(library(flags))
    except NoKernels as reason:
        pytest.skip(str(reason))


def grid(name: str) -> Grid:
    low, high, bits = GRIDS[name]
    return Grid(range_qparams(low, high, bits))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gates(kind: str, rows: int, heads: Heads, dtype: torch.dtype) -> GateLogits | None:
    width = {"none": 0, "headwise": heads.count, "elementwise": heads.count * heads.dim}[kind]
    return GateLogits(random(rows, width, seed=5).to(dtype) * 2, 2.0) if width else None
