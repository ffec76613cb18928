"""Attention that trains fast on a CPU that multiplies bf16: softmax(scaling * Q K^T) V with a gradient of its own.

`attention_kernel` names a model's attention for training. Where C++ kernels can be compiled (native/learning.cpp),
it is theirs for all that is long, in bf16 and has no mask: the encoder's. All else, decoding too, is
PyTorch's fused attention, which computes the same.
"""

import ctypes
from ctypes import Structure, c_float, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from whisperq.native.build import NoKernels, library

NAME = "whisperq_learning"
# Encoder positions from which fused attention trains faster on a CPU (two cores of a Xeon with AMX, bfloat16): its
# backward takes twice as long as the explicit form's at 200 positions, both passes together 0.75 of it at 1,500.
FUSED_FROM = 750


class _View(Structure):
    _fields_ = [("data", c_void_p), ("batch", c_int64), ("head", c_int64), ("row", c_int64)]


class _Shape(Structure):
    _fields_ = [("batch", c_int64), ("length", c_int64), ("heads", c_int64), ("head_dim", c_int64)]


def attention_kernel(device: str, positions: int) -> str:
    """transformers' name of the attention that trains fastest."""
    if device == "cpu" and positions < FUSED_FROM:
        return "eager"
    return NAME if device == "cpu" and _kernels() is not None else "sdpa"


_loaded: list[ctypes.CDLL | None] = []


def _kernels() -> ctypes.CDLL | None:
    """The C++ kernels; None where none can be compiled, and with AMX, which PyTorch's own attention uses well."""
    if not _loaded:
        try:
            found = library()
        except NoKernels:
            found = None
        if found is not None and found.bf16_products() == 1:
            view, count, pointer = _View, c_int64, c_void_p
            forward = [view, view, view, _Shape, count, c_float, count, view, pointer]
            found.learn_attention.argtypes, found.learn_attention.restype = forward, None
            backward = [view, view, view, view, view, pointer, _Shape, count, c_float, view, view, view]
            found.learn_attention_back.argtypes, found.learn_attention_back.restype = backward, None
            _loaded.append(found)
        else:
            _loaded.append(None)
    return _loaded[0]


def learned_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers: (batch, heads, length, head_dim) -> (batch, length, heads, head_dim)."""
    causal = module.is_causal if is_causal is None else is_causal
    plain = attention_mask is None and not dropout and not causal
    if plain and _fits(query, key, value):
        return LearnedAttention.apply(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
    )


def _fits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return (
        query.device.type == "cpu"
        and {query.dtype, key.dtype, value.dtype} == {torch.bfloat16}
        and query.shape[2] >= FUSED_FROM
        and query.shape[3] % 32 == 0
        and query.shape[:2] == key.shape[:2]
        and _kernels() is not None
    )


class LearnedAttention(torch.autograd.Function):
    """bf16 alone; each head's sums are made by one thread, so that equal inputs give equal bits."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        query, key, value = (x.contiguous() for x in (query, key, value))
        batch, heads, length, dim = query.shape
        out = query.new_empty(batch, length, heads, dim)
        logarithms = query.new_empty(batch, heads, length, dtype=torch.float32)
        parts = -(-2 * torch.get_num_threads() // (batch * heads))  # so that no thread waits long for the last one
        shape, keys = _Shape(batch, length, heads, dim), key.shape[2]
        views = (_by_head(x) for x in (query, key, value))
        if (run := _kernels()) is None:
            raise RuntimeError("no attention kernel is compiled")
        run.learn_attention(*views, shape, keys, scaling, parts, _by_row(out), logarithms.data_ptr())
        ctx.save_for_backward(query, key, value, out, logarithms)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, out, logarithms = ctx.saved_tensors
        grad = grad.to(torch.bfloat16).contiguous()
        batch, heads, length, dim = query.shape
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        if (run := _kernels()) is None:
            raise RuntimeError("no attention kernel is compiled")
        run.learn_attention_back(
            *(_by_head(x) for x in (query, key, value)), _by_row(out), _by_row(grad), logarithms.data_ptr(),
            _Shape(batch, length, heads, dim), key.shape[2], ctx.scaling, *(_by_head(x) for x in grads),
        )  # fmt: skip
        return *grads, None


def _by_head(x: Tensor) -> _View:
    """View of x (batch, heads, length, head_dim) for the C++ kernels."""
    return _View(x.data_ptr(), x.stride(0), x.stride(1), x.stride(2))


def _by_row(x: Tensor) -> _View:
    """View of x (batch, length, heads, head_dim) for the C++ kernels."""
    return _View(x.data_ptr(), x.stride(0), x.stride(2), x.stride(1))


AttentionInterface.register(NAME, learned_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
