"""What decoding, scoring and the tables need of any runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Products:
    """The matrix products of a network, by address: those that run in integers, and why the others do not.

    Attention's two products are `enc.<i>.scores` and `enc.<i>.context`.
    """

    integer: tuple[str, ...] = ()
    floating: Mapping[str, str] = field(default_factory=dict)  # address -> why

    def __str__(self) -> str:
        return f"{len(self.integer)} of {len(self.integer) + len(self.floating)} matrix products in integers"


class Runtime(Protocol):
    """A Whisper that can be run."""

    name: str  # as in whisperq/runtimes.py
    notices: Sequence[str]  # what a user should know of how it runs here

    def encode(self, features: Tensor) -> Any:
        """features (batch, mel bins, frames) -> a decoder state."""

    def decode_step(self, tokens: Tensor, state: Any) -> Tensor:
        """tokens (batch, new tokens) -> logits (batch, vocabulary), float32, after the last; moves the state on."""

    def branch(self, state: Any, rows: Tensor) -> None:
        """Go on, between two steps, with these rows of the batch: an utterance's stay together, as many of each.

        Self-attention's keys and values move with them. Those of cross-attention are an utterance's, the same for all
        its rows: where these become more they are shared or repeated, and nothing computes them again.
        """

    def products(self) -> Products:
        """Read from what is executed where the runtime can tell; else from what it was built from."""
