"""What an integer layer computes between its products, in PyTorch: norms, quantization, gated attention.

`TorchKernels` runs anywhere and says what each kernel means; `native_kernels` computes the same in one pass
over each tensor. Rows are (batch * length); a context is (rows, heads * head_dim).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.quant.grid import QParams, dequantize, quantize


@dataclass(frozen=True)
class Grid:
    """The grid of one activation; its channels (K) are divided by `divisor` first, where a convolution takes it in."""

    qparams: QParams
    divisor: Tensor | None = None

    @cached_property
    def scale(self) -> float:
        return float(self.qparams.scale)

    @cached_property
    def zero_point(self) -> int:
        return int(self.qparams.zero_point)

    @property
    def quant_max(self) -> int:
        return self.qparams.quant_max

    @property
    def fused(self) -> "Grid | None":
        """The grid for a kernel that quantizes what it has computed; None: it leaves floats, and `quantize` divides."""
        return self if self.divisor is None else None

    def codes(self, x: Tensor) -> Tensor:
        return quantize(x if self.divisor is None else x / self.divisor, self.qparams).to(torch.uint8)

    def values(self, codes: Tensor) -> Tensor:
        return dequantize(codes, self.qparams)

    def rounded(self, x: Tensor) -> Tensor:
        """x, floats or codes already, as this grid represents it."""
        return self.values(x if x.dtype == torch.uint8 else self.codes(x))


@dataclass(frozen=True)
class Norm:
    """A layer norm: weight, bias (width), float32."""

    weight: Tensor
    bias: Tensor
    epsilon: float = 1e-5


@dataclass(frozen=True)
class Heads:
    """How an attention block divides its width."""

    count: int
    dim: int

    @cached_property
    def scaling(self) -> float:
        return self.dim**-0.5


@dataclass(frozen=True)
class GateLogits:
    """G(x): (rows, heads) or (rows, heads * head_dim), before the sigmoid; factor is 1 / pi_init."""

    logits: Tensor
    factor: float


@dataclass
class Cache:
    """Keys (batch, heads, head_dim, capacity) and values (batch, heads, capacity, head_dim); `past` are filled.

    scales: of keys and values that are codes, int8, those of their channels, (heads * head_dim) each, float32.
    """

    keys: Tensor
    values: Tensor
    past: int = 0
    scales: tuple[Tensor, Tensor] | None = None

    @classmethod
    def empty(cls, batch: int, heads: Heads, capacity: int, like: Tensor) -> "Cache":
        keys = like.new_empty(batch, heads.count, heads.dim, capacity)
        return cls(keys, like.new_empty(batch, heads.count, capacity, heads.dim))

    def branch(self, rows: Tensor) -> "Cache":
        """A cache of the batch rows `rows` (rows,), which may repeat; only filled positions are copied."""
        keys, values = (x.new_empty(len(rows), *x.shape[1:]) for x in (self.keys, self.values))
        keys[..., : self.past] = self.keys[..., : self.past][rows]
        values[:, :, : self.past] = self.values[:, :, : self.past][rows]
        return Cache(keys, values, self.past)

    def repeated(self, batch: int) -> "Cache":
        """The cache of one utterance, repeated for a batch of `batch`."""
        keys, values = (x.repeat(batch, 1, 1, 1) for x in (self.keys, self.values))
        return Cache(keys, values, self.past, self.scales)

    def put(self, utterances: Sequence[int], start: "Cache") -> None:
        """The first entries of these utterances, in place: as many as the other has filled."""
        self.keys[utterances, :, :, : start.past] = start.keys
        self.values[utterances, :, : start.past] = start.values


# A Grid, whose codes are a Tensor, or a TokenGrid (dynamic.py), whose codes are TokenCodes: two of a pair, which the
# annotation of one cannot say.
AnyGrid = Any
AnyCodes = Any


class Kernels(Protocol):
    """Kernels between products; results are codes, uint8, where a grid is given, else float32."""

    def layer_norm(self, x: Tensor, norm: Norm, grid: AnyGrid, gelu: bool = False) -> AnyCodes:
        """x (rows, width), float32; gelu: of the norm."""

    def quantize(self, x: Tensor, grid: AnyGrid) -> AnyCodes:
        """x float32; without a grid, x itself."""

    def attention(
        self, qkv: Tensor, batch: int, heads: Heads, gate: GateLogits | None, grid: AnyGrid,
        kept: Tensor | None = None,
    ) -> AnyCodes:  # fmt: skip
        """Self-attention over whole utterances; qkv (rows, at least 3 * heads * head_dim). -> a context.

        kept (window, 2 * heads * head_dim): keys and values of the rows that qkv does not reach; the same for all.
        """

    def append(self, keys: Tensor, values: Tensor, cache: Cache) -> None:
        """keys, values (rows, heads * head_dim) into the cache."""

    def attend(
        self, query: Tensor, cache: Cache, causal: int, heads: Heads, gate: GateLogits | None, grid: AnyGrid
    ) -> AnyCodes:
        """query (rows, heads * head_dim) against the cache; `causal`: its last entries are the queries' own.

        -> a context.
        """


class TorchKernels:
    """The kernels as PyTorch operators."""

    def layer_norm(self, x: Tensor, norm: Norm, grid: Grid | None, gelu: bool = False) -> Tensor:
        normed = F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.epsilon)
        return self.quantize(F.gelu(normed) if gelu else normed, grid)

    def quantize(self, x: Tensor, grid: Grid | None) -> Tensor:
        return x if grid is None else grid.codes(x)

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


def scaled_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, (batch, heads, length, head_dim)."""
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
