"""The compiled kernels behind the interface of `runtime.kernels`; CPU tensors only."""

import ctypes
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from whisperq.runtime.kernels import Cache, GateLogits, Grid, Heads, Norm, scaled_attention, split_qkv


class Weight(Structure):
    _fields_ = [
        ("codes", c_void_p), ("correction", c_void_p), ("scale", c_void_p), ("bias", c_void_p),
        ("outputs", c_int64), ("inputs", c_int64),
    ]  # fmt: skip


class CGrid(Structure):
    _fields_ = [("scale", c_float), ("zero_point", c_float), ("quant_max", c_float)]


class _Gate(Structure):
    _fields_ = [
        ("logits", c_void_p), ("row_stride", c_int64), ("width", c_int64), ("is_bf16", c_int32), ("factor", c_float),
    ]  # fmt: skip


class _Shape(Structure):
    _fields_ = [("batch", c_int64), ("length", c_int64), ("heads", c_int64), ("head_dim", c_int64)]


class _Out(Structure):
    _fields_ = [("codes", c_void_p), ("values", c_void_p), ("grid", CGrid)]


_POINTER, _COUNT = c_void_p, c_int64
_ATTEND = [_POINTER, _COUNT, _POINTER, _POINTER, _COUNT, _COUNT, c_int32, _Shape, c_float, _Gate, _Out]
_APPEND = [_POINTER, _POINTER, _COUNT, _POINTER, _POINTER, _COUNT, _COUNT, _Shape]
_ARGUMENTS = {
    "few_rows_product": [_POINTER, _COUNT, Weight, c_int32, _POINTER, CGrid],
    "few_rows_wide_product": [
        _POINTER, _COUNT, c_float, c_int32, c_float, c_int32, Weight, c_int32, _POINTER, CGrid
    ],
    "few_rows_narrow_add": [
        _POINTER, _COUNT, _COUNT, c_float, c_int32, c_float, c_int32, _POINTER, _POINTER, _POINTER, _COUNT, _POINTER
    ],
    "layer_norm": [_POINTER, _POINTER, _POINTER, c_float, _COUNT, _COUNT, c_int32, _Out],
    "quantize": [_POINTER, _COUNT, _Out],
    "quantize_divided": [_POINTER, _POINTER, _COUNT, _COUNT, _Out],
    "quantize_halves": [
        _POINTER, _COUNT, _COUNT, _POINTER, _COUNT, c_float, c_float, c_float, c_int32, _POINTER
    ],
    "gate_context": [_POINTER, _COUNT, _COUNT, _COUNT, _Gate, _Out],
    "attention_bf16": [
        _POINTER, _POINTER, _POINTER, _COUNT, _POINTER, _POINTER, _COUNT, _COUNT, _Shape, c_float, _Gate, _COUNT, _Out
    ],
    "attend_bf16": _ATTEND,
    "attend_float": _ATTEND,
    "append_bf16": _APPEND,
    "append_float": _APPEND,
    "attend_codes_bf16": [*_ATTEND, _POINTER, _POINTER],
    "attend_codes_float": [*_ATTEND, _POINTER, _POINTER],
    "append_codes": [*_APPEND, _POINTER, _POINTER],
}


class NativeKernels:
    """One pass over each tensor, in the threads that PyTorch has."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.multiplies_bf16, self.multiplies_few_rows = bool(library.bf16_products()), bool(library.few_rows())
        for name, types in _ARGUMENTS.items():
            if hasattr(library, name):  # what this CPU has no instructions for is not compiled
                function = getattr(library, name)
                function.argtypes, function.restype = types, None
        self.library = library

    def layer_norm(self, x: Tensor, norm: Norm, grid: Grid | None, gelu: bool = False) -> Tensor:
        rows, width = x.shape
        result, out = _result(rows, width, grid)
        weight, bias = norm.weight.data_ptr(), norm.bias.data_ptr()
        self.library.layer_norm(x.data_ptr(), weight, bias, norm.epsilon, rows, width, gelu, out)
        return result

    def quantize(self, x: Tensor, grid: Grid | None) -> Tensor:
        if grid is None:
            return x
        x = x.contiguous()
        codes = torch.empty_like(x, dtype=torch.uint8)
        out = _Out(codes.data_ptr(), None, CGrid(grid.scale, grid.zero_point, grid.quant_max))
        if grid.divisor is None:
            self.library.quantize(x.data_ptr(), x.numel(), out)
        else:
            width = len(grid.divisor)
            self.library.quantize_divided(x.data_ptr(), grid.divisor.data_ptr(), x.numel() // width, width, out)
        return codes

    def attention(
        self, qkv: Tensor, batch: int, heads: Heads, gate: GateLogits | None, grid: Grid | None,
        kept: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if qkv.dtype == torch.float32:
            return self._gated(_float_context(qkv, batch, heads, kept), heads, gate, grid)
        rows, width = qkv.shape[0], heads.count * heads.dim
        result, out = _result(rows, width, grid)
        start, step = qkv.data_ptr(), width * qkv.element_size()
        # Twice as many tasks as threads, so that none waits long for the last one.
        parts = -(-2 * torch.get_num_threads() // (batch * heads.count))
        shape = _Shape(batch, rows // batch, heads.count, heads.dim)
        self.library.attention_bf16(
            start, start + step, start + 2 * step, qkv.stride(0), *_beyond(kept, step, shape.length), shape,
            heads.scaling, _gate(gate, heads), parts, out,
        )  # fmt: skip
        return result

    def append(self, keys: Tensor, values: Tensor, cache: Cache) -> None:
        batch, heads, dim, capacity = cache.keys.shape
        length = keys.shape[0] // batch
        name = "codes" if cache.scales is not None else "float" if keys.dtype == torch.float32 else "bf16"
        getattr(self.library, f"append_{name}")(
            keys.data_ptr(), values.data_ptr(), keys.stride(0), cache.keys.data_ptr(), cache.values.data_ptr(),
            capacity, cache.past, _Shape(batch, length, heads, dim), *_scales(cache),
        )  # fmt: skip
        cache.past += length

    def attend(
        self, query: Tensor, cache: Cache, causal: int, heads: Heads, gate: GateLogits | None, grid: Grid | None
    ) -> Tensor:
        rows, (batch, _, _, capacity) = query.shape[0], cache.keys.shape
        result, out = _result(rows, heads.count * heads.dim, grid)
        name = ("" if cache.scales is None else "codes_") + ("float" if query.dtype == torch.float32 else "bf16")
        getattr(self.library, f"attend_{name}")(
            query.data_ptr(), query.stride(0), cache.keys.data_ptr(), cache.values.data_ptr(), capacity,
            cache.past - causal, causal, _Shape(batch, rows // batch, heads.count, heads.dim), heads.scaling,
            _gate(gate, heads), out, *_scales(cache),
        )  # fmt: skip
        return result

    def _gated(self, context: Tensor, heads: Heads, gate: GateLogits | None, grid: Grid | None) -> Tensor:
        result, out = _result(*context.shape, grid)
        rows = context.shape[0]
        self.library.gate_context(context.data_ptr(), rows, heads.count, heads.dim, _gate(gate, heads), out)
        return result


def _result(rows: int, width: int, grid: Grid | None) -> tuple[Tensor, _Out]:
    """An empty result of the right kind, and the kernels' view of it."""
    if grid is None:
        result = torch.empty(rows, width)
        return result, _Out(None, result.data_ptr(), CGrid())
    result = torch.empty(rows, width, dtype=torch.uint8)
    return result, _Out(result.data_ptr(), None, CGrid(grid.scale, grid.zero_point, grid.quant_max))


def _scales(cache: Cache) -> list[int]:
    return [s.data_ptr() for s in cache.scales or ()]


def _gate(gate: GateLogits | None, heads: Heads) -> _Gate:
    if gate is None:
        return _Gate()
    logits = gate.logits
    width = logits.shape[1] // heads.count
    return _Gate(logits.data_ptr(), logits.stride(0), width, logits.dtype == torch.bfloat16, gate.factor)


def _beyond(kept: Tensor | None, step: int, length: int) -> tuple[int | None, int | None, int, int]:
    """Where kept keys and values lie, how far apart their rows, and how many rows there are with them."""
    if kept is None:
        return None, None, 0, length
    return kept.data_ptr(), kept.data_ptr() + step, kept.stride(0), len(kept)


def _float_context(qkv: Tensor, batch: int, heads: Heads, kept: Tensor | None) -> Tensor:
    """Attention in float32 is PyTorch's own: its matrix products are as good as any."""
    width = heads.count * heads.dim
    return scaled_attention(*split_qkv(qkv, batch, heads, kept), None).transpose(1, 2).reshape(-1, width)
