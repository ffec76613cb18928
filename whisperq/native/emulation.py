"""Fake quantization of activations in one pass over the tensor, where PyTorch's operators take seven.

    x_q = (clip(round(x / s) + z, quant_min, quant_max) - z) * s,      bit for bit `quant.grid.fake_quantize`

x: float32 of any shape on a CPU; s, z: one scale and zero_point, or one of each for every row (..., d).
"""

import ctypes
from collections.abc import Callable
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from whisperq.native.build import NoKernels, library
from whisperq.quant.grid import QParams, fake_quantize, token_qparams

_TINY = torch.finfo(torch.float32).tiny  # a finer scale is replaced by 1, as in quant.grid
_ARGUMENTS = {
    "fake_quantize": [c_void_p, c_int64, c_float, c_float, c_float, c_float, c_void_p],
    "fake_quantize_rows": [c_void_p, c_int64, c_int64, c_float, c_float, c_void_p],
}


@dataclass(frozen=True)
class Put:
    """What puts a site's tensor on a grid; in_parts: scores and probabilities may come head by head."""

    put: Callable[[Tensor], Tensor]
    in_parts: bool

    def __call__(self, x: Tensor) -> Tensor:
        return self.put(x)


@cache
def kernels() -> ctypes.CDLL | None:
    """The C++ kernels; None where there is no compiler, and PyTorch computes the same, but slower."""
    try:
        found = library()
    except NoKernels:
        return None
    for name, types in _ARGUMENTS.items():
        function = getattr(found, name)
        function.argtypes, function.restype = types, None
    return found


def on_grid(grid: QParams, in_place: bool = False) -> Callable[[Tensor], Tensor]:
    """What puts a tensor (...) on one grid.

    in_place: it may write into the tensor that it is given, which nobody else may then read.
    """
    if grid.scale.dim():
        return lambda x: fake_quantize(x, grid)
    ends = float(grid.scale), float(grid.zero_point), float(grid.quant_min), float(grid.quant_max)

    def put(x: Tensor) -> Tensor:
        if not _suits(x) or (native := kernels()) is None:
            return fake_quantize(x, grid)
        result = x if in_place else torch.empty_like(x)
        native.fake_quantize(x.data_ptr(), x.numel(), *ends, result.data_ptr())
        return result

    return put


def on_token_grids(bits: int) -> Callable[[Tensor], Tensor]:
    """What puts each token of a tensor (..., d) on the grid of its own range; one that holds NaN or infinity has none.

    Such a token becomes NaN here, and a grid of no meaning's values where PyTorch computes.
    """

    def put(x: Tensor) -> Tensor:
        if not _suits(x) or x.numel() == 0 or (native := kernels()) is None:
            return fake_quantize(x, token_qparams(x, bits))
        result, width = torch.empty_like(x), x.shape[-1]
        native.fake_quantize_rows(x.data_ptr(), x.numel() // width, width, 2**bits - 1, _TINY, result.data_ptr())
        return result

    return put


def _suits(x: Tensor) -> bool:
    """Whether the kernels, where there are any, take it: no gradient passes through them."""
    plain = x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous()
    return plain and not x.requires_grad
