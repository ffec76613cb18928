"""The compiled kernels behind the interface of `runtime.kernels`; CPU tensors only."""

import ctypes
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from whisperq.runtime.kernels import Cache, GateLogits, Grid, Heads, Norm, scaled_attention, split_heads


class _Grid(Structure):
    _fields_ = [("scale", c_float), ("zero_point", c_float), ("quant_max", c_float)]


class _Gate(Structure):
    _fields_ = [
        ("logits", c_void_p), ("row_stride", c_int64), ("width", c_int64), ("is_bf16", c_int32), ("factor", c_float),
    ]  # fmt: skip


class _Shape(Structure):
    _fields_ = [("batch", c_int64), ("length", c_int64), ("heads", c_int64), ("head_dim", c_int64)]


class _Out(Structure):
    _fields_ = [("codes", c_void_p), ("values", c_void_p), ("grid", _Grid)]


class NativeKernels:
    """One pass over each tensor, in the threads that PyTorch has."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.multiplies_bf16 = bool(library.bf16_products())

    def layer_norm(self, x: Tensor, norm: Norm, grid: Grid | None) -> Tensor:
        result, out = _result(*x.shape, grid)
        weight, bias = norm.weight.data_ptr(), norm.bias.data_ptr()
        self._library.layer_norm(
            c_void_p(x.data_ptr()), c_void_p(weight), c_void_p(bias), c_float(norm.epsilon), c_int64(x.shape[0]),
            c_int64(x.shape[1]), out,
        )  # fmt: skip
        return result

    def quantize(self, x: Tensor, grid: Grid | None) -> Tensor:
        if grid is None:
            return x
        x = x.contiguous()
        codes = torch.empty_like(x, dtype=torch.uint8)
        out = _Out(codes.data_ptr(), None, _Grid(grid.scale, grid.zero_point, grid.quant_max))
        self._library.quantize(c_void_p(x.data_ptr()), c_int64(x.numel()), out)
        return codes

    def attention(self, qkv: Tensor, batch: int, heads: Heads, gate: GateLogits | None, grid: Grid | None) -> Tensor:
        if qkv.dtype == torch.float32:
            return self._gated(_float_context(qkv, batch, heads), heads, gate, grid)
        rows, width = qkv.shape[0], heads.count * heads.dim
        result, out = _result(rows, width, grid)
        start, step = qkv.data_ptr(), width * qkv.element_size()
        # Twice as many tasks as threads, so that none waits long for the last one.
        parts = -(-2 * torch.get_num_threads() // (batch * heads.count))
        self._library.attention_bf16(
            c_void_p(start), c_void_p(start + step), c_void_p(start + 2 * step), c_int64(qkv.stride(0)),
            _Shape(batch, rows // batch, heads.count, heads.dim), c_float(heads.scaling), _gate(gate, heads),
            c_int64(parts), out,
        )  # fmt: skip
        return result

    def append(self, keys: Tensor, values: Tensor, cache: Cache) -> None:
        batch, heads, dim, capacity = cache.keys.shape
        length = keys.shape[0] // batch
        append = self._library.append_float if keys.dtype == torch.float32 else self._library.append_bf16
        append(
            c_void_p(keys.data_ptr()), c_void_p(values.data_ptr()), c_int64(keys.stride(0)),
            c_void_p(cache.keys.data_ptr()), c_void_p(cache.values.data_ptr()), c_int64(capacity),
            c_int64(cache.past), _Shape(batch, length, heads, dim),
        )  # fmt: skip
        cache.past += length

    def attend(
        self, query: Tensor, cache: Cache, causal: int, heads: Heads, gate: GateLogits | None, grid: Grid | None
    ) -> Tensor:
        rows, batch = query.shape[0], cache.keys.shape[0]
        result, out = _result(rows, heads.count * heads.dim, grid)
        attend = self._library.attend_float if query.dtype == torch.float32 else self._library.attend_bf16
        attend(
            c_void_p(query.data_ptr()), c_int64(query.stride(0)), c_void_p(cache.keys.data_ptr()),
            c_void_p(cache.values.data_ptr()), c_int64(cache.keys.shape[3]), c_int64(cache.past - causal),
            c_int32(causal), _Shape(batch, rows // batch, heads.count, heads.dim), c_float(heads.scaling),
            _gate(gate, heads), out,
        )  # fmt: skip
        return result

    def _gated(self, context: Tensor, heads: Heads, gate: GateLogits | None, grid: Grid | None) -> Tensor:
        result, out = _result(*context.shape, grid)
        self._library.gate_context(
            c_void_p(context.data_ptr()), c_int64(context.shape[0]), c_int64(heads.count), c_int64(heads.dim),
            _gate(gate, heads), out,
        )  # fmt: skip
        return result


def _result(rows: int, width: int, grid: Grid | None) -> tuple[Tensor, _Out]:
    """An empty result of the right kind, and the kernels' view of it."""
    if grid is None:
        result = torch.empty(rows, width)
        return result, _Out(None, result.data_ptr(), _Grid())
    result = torch.empty(rows, width, dtype=torch.uint8)
    return result, _Out(result.data_ptr(), None, _Grid(grid.scale, grid.zero_point, grid.quant_max))


def _gate(gate: GateLogits | None, heads: Heads) -> _Gate:
    if gate is None:
        return _Gate()
    logits = gate.logits
    width = logits.shape[1] // heads.count
    return _Gate(logits.data_ptr(), logits.stride(0), width, logits.dtype == torch.bfloat16, gate.factor)


def _float_context(qkv: Tensor, batch: int, heads: Heads) -> Tensor:
    """Attention in float32 is PyTorch's own: its matrix products are as good as any."""
    width = heads.count * heads.dim
    query, key, value = (split_heads(qkv[:, i * width : (i + 1) * width], batch, heads) for i in range(3))
    return scaled_attention(query, key, value, None).transpose(1, 2).reshape(-1, width)
