"""The compiled kernels behind the interface of `kernels`; CPU tensors only."""

import ctypes
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from whisperq.native import processor
from whisperq.native.checks import address, rows_address
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.kernels import AnyGrid, Cache, GateLogits, Heads, Norm
from whisperq.runtime.int8.torch_kernels import TorchKernels, scaled_attention, split_qkv


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
_ATTENTION = [
    _POINTER, _POINTER, _POINTER, _COUNT, _POINTER, _POINTER, _COUNT, _COUNT, _Shape, c_float, _Gate, _COUNT, _Out
]  # fmt: skip
_ARGUMENTS = {
    "integer_product": [_POINTER, _COUNT, Weight, c_int32, _POINTER, CGrid],
    "wide_product": [_POINTER, _COUNT, c_float, c_int32, c_float, c_int32, Weight, c_int32, _POINTER, CGrid],
    "add_narrow_product": [
        _POINTER,
        _COUNT,
        _COUNT,
        c_float,
        c_int32,
        c_float,
        c_int32,
        _POINTER,
        _POINTER,
        _POINTER,
        _COUNT,
        _POINTER,
    ],
    "layer_norm": [_POINTER, _POINTER, _POINTER, c_float, _COUNT, _COUNT, c_int32, _Out],
    "quantize": [_POINTER, _COUNT, _Out],
    "quantize_divided": [_POINTER, _POINTER, _COUNT, _COUNT, _Out],
    "quantize_halves": [_POINTER, _COUNT, _COUNT, _POINTER, _COUNT, c_float, c_float, c_float, c_int32, _POINTER],
    "gate_context": [_POINTER, _COUNT, _COUNT, _COUNT, _Gate, _Out],
    "attention_bf16": _ATTENTION,
    "attend_bf16": _ATTEND,
    "attend_float": _ATTEND,
    "append_bf16": _APPEND,
    "append_float": _APPEND,
    "attend_codes_bf16": [*_ATTEND, _POINTER, _POINTER],
    "attend_codes_float": [*_ATTEND, _POINTER, _POINTER],
    "append_codes": [*_APPEND, _POINTER, _POINTER],
}


class NativeKernels(TorchKernels):
    """One pass over each tensor, in the threads that PyTorch has."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.multiplies_bf16 = bool(library.bf16_products())
        library.most_rows.restype = c_int64
        self.most_rows = library.most_rows()  # of a product that is best done here; 0: of none
        # Exactly, where sums of eight bits by others are not.
        self.multiplies_all = bool(library.any_rows()) and not processor.has_vnni()
        for name, types in _ARGUMENTS.items():
            if hasattr(library, name):  # what this CPU has no instructions for is not compiled
                function = getattr(library, name)
                function.argtypes, function.restype = types, None
        self.library = library

    def layer_norm(self, x: Tensor, norm: Norm, grid: Grid | None, gelu: bool = False) -> Tensor:
        rows, width = x.shape
        result, out = _result(rows, width, grid)
        self.library.layer_norm(*norm_addresses(x, norm), norm.epsilon, rows, width, gelu, out)
        return result

    def quantize(self, x: Tensor, grid: Grid | None) -> Tensor:
        if grid is None:
            return x
        x = x.contiguous()
        codes = torch.empty_like(x, dtype=torch.uint8)
        out = _Out(codes.data_ptr(), None, CGrid(grid.scale, grid.zero_point, grid.quant_max))
        if grid.divisor is None:
            self.library.quantize(address(x, torch.float32, *x.shape), x.numel(), out)
        else:
            width = x.shape[-1]
            divisor = address(grid.divisor, torch.float32, width)
            self.library.quantize_divided(address(x, torch.float32, *x.shape), divisor, x.numel() // width, width, out)
        return codes

    def halves(self, x: Tensor, grid: AnyGrid) -> Tensor:
        channels, wide = grid.channels, grid.wide
        count = x.shape[1] if channels is None else len(channels)
        if channels is not None and not 0 <= int(channels.min()) <= int(channels.max()) < x.shape[1]:
            raise ValueError(f"{x.shape[1]} channels do not hold the wide ones, {channels.tolist()}")
        x, codes = x.contiguous(), torch.empty(2 * len(x), count, dtype=torch.uint8)
        start = address(x, torch.float32, *x.shape)
        self.library.quantize_halves(
            start, *x.shape, None if channels is None else address(channels, torch.int64, count), count,
            float(wide.scale), float(wide.zero_point), wide.quant_max, grid.half_bits, codes.data_ptr(),
        )  # fmt: skip
        return codes

    def attention(
        self, qkv: Tensor, batch: int, heads: Heads, gate: GateLogits | None, grid: Grid | None,
        kept: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if qkv.dtype == torch.float32:
            return self._gated(_float_context(qkv, batch, heads, kept), heads, gate, grid)
        rows, width = qkv.shape[0], heads.count * heads.dim
        result, out = _result(rows, width, grid)
        start, step = rows_address(qkv, torch.bfloat16, batch * (rows // batch), 3 * width), width * qkv.element_size()
        # Twice as many tasks as threads, so that none waits long for the last one.
        parts = -(-2 * torch.get_num_threads() // (batch * heads.count))
        shape = _Shape(batch, rows // batch, heads.count, heads.dim)
        self.library.attention_bf16(
            start, start + step, start + 2 * step, qkv.stride(0), *_beyond(kept, heads, shape.length), shape,
            heads.scaling, _gate(gate, heads, rows), parts, out,
        )  # fmt: skip
        return result

    def append(self, keys: Tensor, values: Tensor, cache: Cache) -> None:
        batch, heads, dim, capacity = cache.keys.shape
        length, dtype = keys.shape[0] // batch, torch.float32 if cache.scales is not None else cache.keys.dtype
        if keys.stride(0) != values.stride(0) or not 0 <= cache.past <= capacity - length:
            raise ValueError(f"a cache of {capacity} entries, {cache.past} of them filled, has no room for {length}")
        name = "codes" if cache.scales is not None else "float" if dtype == torch.float32 else "bf16"
        new = (rows_address(x, dtype, batch * length, heads * dim) for x in (keys, values))
        getattr(self.library, f"append_{name}")(
            *new, keys.stride(0), *_held(cache, Heads(heads, dim)), capacity, cache.past,
            _Shape(batch, length, heads, dim), *_scales(cache),
        )  # fmt: skip
        cache.past += length

    def attend(
        self, query: Tensor, cache: Cache, causal: int, heads: Heads, gate: GateLogits | None, grid: Grid | None
    ) -> Tensor:
        rows, (batch, _, _, capacity) = query.shape[0], cache.keys.shape
        result, out = _result(rows, heads.count * heads.dim, grid)
        if not 0 <= causal <= cache.past <= capacity or (causal and causal != rows // batch):
            raise ValueError(
                f"{rows // batch} queries cannot attend to {cache.past} entries, {causal} of them their own"
            )
        dtype = torch.float32 if query.dtype == torch.float32 else torch.bfloat16
        name = ("" if cache.scales is None else "codes_") + ("float" if dtype == torch.float32 else "bf16")
        getattr(self.library, f"attend_{name}")(
            rows_address(query, dtype, batch * (rows // batch), heads.count * heads.dim), query.stride(0),
            *_held(cache, heads, None if cache.scales is not None else dtype), capacity, cache.past - causal, causal,
            _Shape(batch, rows // batch, heads.count, heads.dim), heads.scaling, _gate(gate, heads, rows), out,
            *_scales(cache),
        )  # fmt: skip
        return result

    def _gated(self, context: Tensor, heads: Heads, gate: GateLogits | None, grid: Grid | None) -> Tensor:
        rows, width = context.shape
        result, out = _result(rows, width, grid)
        start = address(context, torch.float32, rows, heads.count * heads.dim)
        self.library.gate_context(start, rows, heads.count, heads.dim, _gate(gate, heads, rows), out)
        return result


def _result(rows: int, width: int, grid: Grid | None) -> tuple[Tensor, _Out]:
    """An empty result of the right kind, and the kernels' view of it."""
    if grid is None:
        result = torch.empty(rows, width)
        return result, _Out(None, result.data_ptr(), CGrid())
    result = torch.empty(rows, width, dtype=torch.uint8)
    return result, _Out(result.data_ptr(), None, CGrid(grid.scale, grid.zero_point, grid.quant_max))


def norm_addresses(x: Tensor, norm: Norm) -> tuple[int, int, int]:
    """Addresses of the rows x, and of the norm's weight and bias."""
    rows, width = x.shape
    weight, bias = (address(t, torch.float32, width) for t in (norm.weight, norm.bias))
    return address(x, torch.float32, rows, width), weight, bias


def _held(cache: Cache, heads: Heads, dtype: torch.dtype | None = None) -> tuple[int, int]:
    """Addresses of a cache's keys and values; dtype None: whatever their number format."""
    batch, _, _, capacity = cache.keys.shape
    dtype = torch.int8 if cache.scales is not None else dtype or cache.keys.dtype
    return (
        address(cache.keys, dtype, batch, heads.count, heads.dim, capacity),
        address(cache.values, dtype, batch, heads.count, capacity, heads.dim),
    )


def _scales(cache: Cache) -> list[int]:
    width = cache.keys.shape[1] * cache.keys.shape[2]
    return [address(s, torch.float32, width) for s in cache.scales or ()]


def _gate(gate: GateLogits | None, heads: Heads, rows: int) -> _Gate:
    if gate is None:
        return _Gate()
    logits = gate.logits
    width = heads.dim if logits.shape[1] == heads.count * heads.dim else 1
    is_bf16 = logits.dtype == torch.bfloat16
    start = rows_address(logits, torch.bfloat16 if is_bf16 else torch.float32, rows, width * heads.count)
    return _Gate(start, logits.stride(0), width, is_bf16, gate.factor)


def _beyond(kept: Tensor | None, heads: Heads, length: int) -> tuple[int | None, int | None, int, int]:
    """Where kept keys and values lie, how far apart their rows, and how many rows there are with them."""
    if kept is None:
        return None, None, 0, length
    if len(kept) < length:
        raise ValueError(f"{length} rows are more than the {len(kept)} of which keys and values are kept")
    width = heads.count * heads.dim
    start = rows_address(kept, torch.bfloat16, len(kept), 2 * width)
    return start, start + width * kept.element_size(), kept.stride(0), len(kept)


def _float_context(qkv: Tensor, batch: int, heads: Heads, kept: Tensor | None) -> Tensor:
    """Attention in float32 is PyTorch's own: its matrix products are as good as any."""
    width = heads.count * heads.dim
    return scaled_attention(*split_qkv(qkv, batch, heads, kept), None).transpose(1, 2).reshape(-1, width)
