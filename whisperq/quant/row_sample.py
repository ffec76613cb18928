"""A sample of the rows that a product takes in, to measure what quantizing does to its output.

A row is one token's or frame's input (K); a convolution's is the window that one output frame reads, (width * K),
each time step's channels side by side. Rows are drawn evenly over recordings, padding of the encoder's window included,
for the model computes on it too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whisperq.quant.reading import Read, now

ROWS = 256  # of each site


@dataclass(frozen=True)
class Window:
    """How a convolution reads its input over time."""

    width: int
    stride: int
    padding: int

    @classmethod
    def of(cls, module: nn.Conv1d) -> "Window":
        if isinstance(module.padding, str):
            raise ValueError(f"a convolution's padding must be a number, not {module.padding!r}")
        return cls(module.kernel_size[0], module.stride[0], module.padding[0])

    def count(self, length: int) -> int:
        return (length + 2 * self.padding - self.width) // self.stride + 1

    def rows(self, x: Tensor, frames: Tensor) -> Tensor:
        """x (time, channels), frames (n,) -> what those output frames read, (n, width * channels)."""
        padded = F.pad(x, (0, 0, self.padding, self.padding))
        steps = frames[:, None] * self.stride + torch.arange(self.width, device=frames.device)
        return padded[steps].flatten(1)


@lru_cache(maxsize=16)  # most sites of a batch have as many rows as one another
def drawn(number: int, counts: tuple[int, ...], each: int, device: torch.device) -> tuple[Tensor, ...]:
    """Which rows are taken of each recording of batch `number`, that has so many: (each,) or fewer."""
    generator = torch.Generator().manual_seed(number)
    places = [torch.randperm(count, generator=generator)[:each] for count in counts]
    return moved(torch.cat(places), device).split([len(chosen) for chosen in places])


def moved(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device, which is not waited for."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


@dataclass
class RowSample:
    """`each` rows of every recording, drawn by the recording's place in the data."""

    each: int
    window: Window | None = None
    batches: list[Tensor] = field(default_factory=list)  # of each batch (rows, K), as `rows`
    numbers: list[int] = field(default_factory=list)  # of the batches, in the order of the data

    def observe(self, tensors: Iterable[Tensor], number: int | None = None, read: Read = now) -> None:
        """One batch as its utterances' tensors (time, K).

        number: the batch's, where this is a shard's or read later; default: the next.
        """
        tensors, number = list(tensors), len(self.numbers) if number is None else number
        counts = tuple(len(x) if self.window is None else self.window.count(len(x)) for x in tensors)
        places = drawn(number, counts, self.each, tensors[0].device)
        rows = [
            x[chosen] if self.window is None else self.window.rows(x, chosen)
            for x, chosen in zip(tensors, places, strict=True)
        ]
        read(torch.cat(rows).to(torch.float32), partial(self._take, number))

    def _take(self, number: int, rows: Tensor) -> None:
        """rows (rows, K)"""
        half = rows.to(torch.float16)
        self.batches.append(half if half.isfinite().all() else rows.clone())
        self.numbers.append(number)

    def merge(self, other: "RowSample") -> None:
        """Add what was drawn from other batches, in the order of their numbers."""
        numbers, batches = self.numbers + other.numbers, self.batches + other.batches
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        self.numbers, self.batches = [numbers[i] for i in order], [batches[i] for i in order]

    @property
    def rows(self) -> Tensor:
        """The sampled rows, (rows, K), float16; float32 where a value is beyond its 65,504."""
        return torch.cat(self.batches)
