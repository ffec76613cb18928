"""What an attention block and a feed-forward block consist of, read and ready to run."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from whisperq.runtime.int8.kernels import GateLogits, Heads, Norm
from whisperq.runtime.int8.matmuls import Matmul


@dataclass(frozen=True)
class Attention:
    """Norm, query (key, value) and gate in one product, output projection."""

    norm: Norm
    inputs: Matmul
    out: Matmul
    heads: Heads
    width: int  # columns of `inputs` before the gate's
    by_head: Callable[[Tensor], Tensor] | None
    gate_factor: float | None  # 1 / pi_init

    def gate(self, normed: Tensor, projected: Tensor) -> GateLogits | None:
        if self.gate_factor is None:
            return None
        logits = projected[:, self.width :] if self.by_head is None else self.by_head(normed)
        return GateLogits(logits, self.gate_factor)


@dataclass(frozen=True)
class FeedForward:
    norm: Norm
    fc1: Matmul
    fc2: Matmul
