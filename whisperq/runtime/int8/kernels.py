"""What an integer layer computes between its products: norms, quantization, gated attention.

`TorchKernels` (torch_kernels.py) runs anywhere and says what each kernel means; `native_kernels` and `triton_kernels`
compute the same in one pass over each tensor. Rows are (batch * length); a context is (rows, heads * head_dim).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor


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
    past_on_device: `past` as a number on the device, (1,), int32, while a recorded step fills the cache (replay.py).
    """

    keys: Tensor
    values: Tensor
    past: int = 0
    scales: tuple[Tensor, Tensor] | None = None
    past_on_device: Tensor | None = None

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
    """Kernels between products; results are codes where a grid is given, else float32.

    signed: codes are int8 from -128 on, as tensor cores multiply them; else uint8 from 0 on.
    """

    @property
    def signed(self) -> bool: ...

    def own_matmul(self, weight: Any, grid: AnyGrid, device: str) -> Any:
        """A product of these kernels' own making; None: they have none, and the machine's library has one."""

    def layer_norm(self, x: Tensor, norm: Norm, grid: AnyGrid, gelu: bool = False) -> AnyCodes:
        """x (rows, width), float32; gelu: of the norm."""

    def quantize(self, x: Tensor, grid: AnyGrid) -> AnyCodes:
        """x float32; without a grid, x itself."""

    def halves(self, x: Tensor, grid: AnyGrid) -> Tensor:
        """The codes of 16 bits of x (rows, K), float32, in two: the high halves of all rows, then the low ones.

        grid: a WideGrid; -> (2 * rows, wide channels).
        """

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
