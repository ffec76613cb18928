"""Dynamic activations by the compiled kernels: each row's grid and codes in the pass that makes the row."""

import ctypes
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from whisperq.native.checks import address, rows_address
from whisperq.runtime.int8.dynamic import DynamicMatmul, Sums, TokenCodes, TokenGrid
from whisperq.runtime.int8.kernels import AnyCodes, AnyGrid, Cache, GateLogits, Heads, Norm
from whisperq.runtime.int8.matmuls import IntegerWeight
from whisperq.runtime.int8.native_kernels import NativeKernels, Weight, norm_addresses
from whisperq.runtime.int8.native_matmuls import (
    ADDED,
    GELU_CODES,
    GELU_VALUES,
    HALVES,
    VALUES,
    result_address,
    weight_of,
)

MOST = 2**63 - 1  # rows
ROWS = 256  # of sums at a time: they are finished while they lie in the cache


class _Tokens(Structure):
    _fields_ = [("codes", c_void_p), ("scale", c_void_p), ("zero_point", c_void_p), ("quant_max", c_float)]


class _RowGrids(Structure):
    _fields_ = [("scale", c_void_p), ("zero_point", c_void_p)]


_POINTER, _COUNT = c_void_p, c_int64
_ARGUMENTS = {
    "quantize_tokens": [_POINTER, _COUNT, _COUNT, c_int32, _Tokens],
    "layer_norm_tokens": [_POINTER, _POINTER, _POINTER, c_float, _COUNT, _COUNT, c_int32, _Tokens],
    "finish_tokens": [
        _POINTER, _COUNT, _COUNT, _COUNT, _RowGrids, c_int32, Weight, c_int32, _POINTER, _COUNT, _Tokens,
    ],
    "token_product": [_POINTER, _COUNT, _RowGrids, Weight, c_int32, _POINTER],
}  # fmt: skip


class TokenKernels(NativeKernels):
    """`NativeKernels` that take a `TokenGrid` too; the result is then `TokenCodes`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        super().__init__(library)
        for name, types in _ARGUMENTS.items():
            if hasattr(library, name):
                function = getattr(library, name)
                function.argtypes, function.restype = types, None

    def layer_norm(self, x: Tensor, norm: Norm, grid: AnyGrid, gelu: bool = False) -> AnyCodes:
        if not isinstance(grid, TokenGrid):
            return super().layer_norm(x, norm, grid, gelu)
        rows, width = x.shape
        result, out = _empty(rows, width, grid)
        self.library.layer_norm_tokens(*norm_addresses(x, norm), norm.epsilon, *x.shape, gelu, out)
        return result

    def quantize(self, x: Tensor, grid: AnyGrid, gelu: bool = False) -> AnyCodes:
        """Codes of x on the grid; gelu: codes of GELU(x), for a TokenGrid."""
        if not isinstance(grid, TokenGrid):
            return super().quantize(x, grid)
        x = x.contiguous()
        rows, width = x.shape
        result, out = _empty(rows, width, grid)
        self.library.quantize_tokens(address(x, torch.float32, *x.shape), *x.shape, gelu, out)
        return result

    def attention(
        self, qkv: Tensor, batch: int, heads: Heads, gate: GateLogits | None, grid: AnyGrid, kept: Tensor | None = None
    ) -> AnyCodes:
        if not isinstance(grid, TokenGrid):
            return super().attention(qkv, batch, heads, gate, grid, kept)
        return self.quantize(super().attention(qkv, batch, heads, gate, None, kept), grid)

    def attend(
        self, query: Tensor, cache: Cache, causal: int, heads: Heads, gate: GateLogits | None, grid: AnyGrid
    ) -> AnyCodes:
        if not isinstance(grid, TokenGrid):
            return super().attend(query, cache, causal, heads, gate, grid)
        return self.quantize(super().attend(query, cache, causal, heads, gate, None), grid)


class NativeDynamicMatmul(DynamicMatmul):
    """`DynamicMatmul` in one C++ pass up to the kernels' most rows, else with sums that C++ finishes.

    few_rows: whether up to so many rows use the weight as it is on disk; without `sums` all do.
    """

    def __init__(
        self, weight: IntegerWeight, grid: TokenGrid, sums: Sums | None, kernels: TokenKernels, few_rows: bool
    ) -> None:
        super().__init__(weight, grid, sums)
        self._kernels, self._few = kernels, kernels.most_rows if few_rows else 0
        if sums is None:
            self._few = MOST
        self._codes = weight.codes.contiguous() if self._few else None
        self._inputs = weight.codes.shape[1]
        self._weight = weight_of(self._codes, self._totals, self._scale, self._bias, self._inputs)

    def __call__(self, x: TokenCodes, dtype: torch.dtype = torch.float32) -> Tensor:
        width = self._outputs if len(x) <= self._few else self.sums.width
        result = self._bias.new_empty(len(x), width, dtype=dtype)[:, : self._outputs]
        return self._into(x, result, HALVES if dtype == torch.bfloat16 else VALUES)

    def add(self, x: TokenCodes, sum: Tensor) -> Tensor:
        return self._into(x, sum, ADDED)

    def gelu(self, x: TokenCodes, grid: TokenGrid | None) -> AnyCodes:
        if grid is None or len(x) <= self._few:
            values = self._bias.new_empty(len(x), self._outputs)
            self._into(x, values, VALUES if grid else GELU_VALUES)
            return self._kernels.quantize(values, grid, gelu=True) if grid else values
        result, out = _empty(len(x), self._outputs, grid)
        self._finish(x, GELU_CODES, None, 0, out)
        return result

    def _into(self, x: TokenCodes, result: Tensor, kind: int) -> Tensor:
        """Compute the product into `result` (rows, outputs), whose rows may lie further apart."""
        if len(x) > self._few:
            dtype = torch.bfloat16 if kind == HALVES else torch.float32
            start = rows_address(result, dtype, len(x), self._outputs)
            self._finish(x, kind, start, result.stride(0), _Tokens())
        else:
            run, codes = self._kernels.library.token_product, x.codes.contiguous()
            start = address(codes, torch.uint8, len(x), self._inputs)
            run(start, len(x), _grids(x), self._weight, kind, result_address(result, kind, len(x), self._outputs))
        return result

    def _finish(self, x: TokenCodes, kind: int, result: int | None, stride: int, tokens: _Tokens) -> None:
        """Multiply and finish ROWS rows at a time, into the memory at `result` or into `tokens`."""
        for first in range(0, len(x), ROWS):
            sums = self.sums(x.codes[first : first + ROWS]).float()
            start = rows_address(sums, torch.float32, len(sums), self._outputs)
            self._kernels.library.finish_tokens(
                start, sums.stride(0), len(sums), first, _grids(x), self.sums.shift, self._weight, kind,
                result, stride, tokens,
            )  # fmt: skip


def _grids(x: TokenCodes) -> _RowGrids:
    return _RowGrids(address(x.scale, torch.float32, len(x)), address(x.zero_point, torch.int32, len(x)))


def _empty(rows: int, width: int, grid: TokenGrid) -> tuple[TokenCodes, _Tokens]:
    """Codes to be filled, and the kernels' view of them."""
    codes = torch.empty(rows, width, dtype=torch.uint8)
    result = TokenCodes(codes, torch.empty(rows), torch.empty(rows, dtype=torch.int32))
    pointers = (t.data_ptr() for t in (codes, result.scale, result.zero_point))
    return result, _Tokens(*pointers, grid.quant_max)
