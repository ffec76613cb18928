"""The kernels between products as PyTorch operators: for any device, and what the others are compared with."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.quant.grid import QParams, quantize
from whisperq.quant.wide import half_codes
from whisperq.runtime.int8.grids import SIGN, Grid
from whisperq.runtime.int8.kernels import AnyGrid, Cache, GateLogits, Heads, Norm


class TorchKernels:
    """The kernels as PyTorch operators."""

    signed = False

    def own_matmul(self, weight: Any, grid: AnyGrid, device: str) -> Any:
        return None

    def layer_norm(self, x: Tensor, norm: Norm, grid: Grid | None, gelu: bool = False) -> Tensor:
        normed = F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.epsilon)
        return self.quantize(F.gelu(normed) if gelu else normed, grid)

    def quantize(self, x: Tensor, grid: Grid | None) -> Tensor:
        return x if grid is None else grid.codes(x)

    def halves(self, x: Tensor, grid: AnyGrid) -> Tensor:
        codes = torch.cat(half_codes(x if grid.channels is None else x[:, grid.channels], grid.wide))
        return (codes ^ SIGN).view(torch.int8) if self.signed else codes

    def attention(
        self, qkv: Tensor, batch: int, heads: Heads, gate: GateLogits | None, grid: Grid | None,
        kept: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        query, key, value = split_qkv(qkv, batch, heads, kept)
        return self._finish(scaled_attention(query, key, value, None), heads, gate, grid)

    def append(self, keys: Tensor, values: Tensor, cache: Cache) -> None:
        batch, heads, dim, _ = cache.keys.shape
        end = cache.past + keys.shape[0] // batch
        if cache.scales is not None:
            keys, values = (channel_codes(x, s) for x, s in zip((keys, values), cache.scales, strict=True))
        cache.keys[..., cache.past : end] = split_heads(keys, batch, Heads(heads, dim)).transpose(2, 3)
        cache.values[:, :, cache.past : end] = split_heads(values, batch, Heads(heads, dim))
        cache.past = end

    def attend(
        self, query: Tensor, cache: Cache, causal: int, heads: Heads, gate: GateLogits | None, grid: Grid | None
    ) -> Tensor:
        keys, values = cache.keys[..., : cache.past].transpose(2, 3), cache.values[:, :, : cache.past]
        mask = None
        if causal > 1:
            mask = torch.ones(causal, cache.past, dtype=torch.bool, device=query.device).tril(cache.past - causal)
        if cache.scales is not None:
            query = (query * cache.scales[0]).to(query.dtype)
            keys, values = keys.to(query.dtype), values.to(query.dtype)
        context = scaled_attention(split_heads(query, len(cache.keys), heads), keys, values, mask)
        if cache.scales is not None:
            context = context * cache.scales[1].unflatten(0, (heads.count, 1, heads.dim))
        return self._finish(context, heads, gate, grid)

    def _finish(self, context: Tensor, heads: Heads, gate: GateLogits | None, grid: Grid | None) -> Tensor:
        """(batch, heads, length, head_dim) -> a gated context."""
        context = context.transpose(1, 2).flatten(0, 1).float()
        if gate is not None:
            context = context * gate_values(gate, heads)
        return self.quantize(context.flatten(1).contiguous(), grid)


def split_heads(x: Tensor, batch: int, heads: Heads) -> Tensor:
    """(rows, heads * head_dim) -> (batch, heads, length, head_dim)."""
    return x.unflatten(0, (batch, -1)).unflatten(2, (heads.count, heads.dim)).transpose(1, 2)


def split_qkv(qkv: Tensor, batch: int, heads: Heads, kept: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, (batch, heads, length, head_dim); behind the last two, what is kept beyond."""
    width = heads.count * heads.dim
    query, key, value = (split_heads(qkv[:, i * width : (i + 1) * width], batch, heads) for i in range(3))
    if kept is None:
        return query, key, value
    beyond = (split_heads(kept[query.shape[2] :, i * width : (i + 1) * width], 1, heads) for i in range(2))
    key, value = (
        torch.cat([own, more.expand(batch, -1, -1, -1)], dim=2) for own, more in zip((key, value), beyond, strict=True)
    )
    return query, key, value


def channel_codes(x: Tensor, scale: Tensor) -> Tensor:
    """x (rows, width), float -> int8, each channel on its symmetric grid; scale (width)."""
    return quantize(x, QParams(scale, torch.zeros_like(scale, dtype=torch.int32), -127, 127)).to(torch.int8)


def gate_values(gate: GateLogits, heads: Heads) -> Tensor:
    """Values of the gate, (rows, heads, 1 or head_dim), float32."""
    return (torch.sigmoid(gate.logits.float()) * gate.factor).unflatten(1, (heads.count, -1))


def aligned(x: Tensor) -> Tensor:
    """x, copied where its rows do not begin at multiples of 16 bytes.

    Fused attention on Hopper is taken to need that: its copy engine knows no other places. In a product of queries,
    keys, values and 20 gates, 3860 columns of bfloat16, every second row begins between two.
    """
    step = 16 // x.element_size()
    fits = x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(stride % step == 0 for stride in x.stride()[:-1])
    return x if fits else x.contiguous()


def scaled_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, (batch, heads, length, head_dim)."""
    if query.is_cuda:
        query, key, value = map(aligned, (query, key, value))
    slow = query.dtype == torch.bfloat16 and query.device.type == "cpu" and not torch.cpu._is_amx_tile_supported()
    if not slow or mask is not None or query.shape[2] == 1:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    # Without matrix tiles the fused kernel gains nothing from bf16; plain products of one head at a time do.
    context = torch.empty_like(query)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            scores = torch.mm(query[b, h], key[b, h].T) * query.shape[3] ** -0.5
            torch.mm(torch.softmax(scores, dim=-1), value[b, h], out=context[b, h])
    return context
