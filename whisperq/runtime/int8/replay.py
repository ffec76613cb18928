"""A decoder's step recorded on a GPU and replayed: one launch instead of one for every kernel, which takes longer than
running it.

A recorded step reads the same memory every time. So tokens are copied to where they were when it was recorded, and
how many positions a cache holds is a number on the device, which the step itself increases.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from whisperq.runtime.int8.kernels import Cache


class Recording(Protocol):
    def replay(self) -> None: ...


Record = Callable[[Callable[[], None]], Recording]


def record(step: Callable[[], None]) -> Recording:
    """A CUDA graph of the step. Raises RuntimeError for a step that cannot be recorded.

    torch.cuda.graph would give all cached memory back before it records, which each batch would allocate anew.
    """
    step()  # compiles what is compiled when first used
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")  # other threads may load data meanwhile
        try:
            step()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


class Replay:
    """Steps of one token for each row, over the caches of one batch.

    tokens: (batch, 1), of the first step that is to be replayed.
    """

    def __init__(
        self, step: Callable[[Tensor], Tensor], caches: Sequence[Cache], tokens: Tensor, record: Record = record
    ) -> None:
        self.caches, self.tokens = caches, tokens.clone()
        self.past_on_device = torch.tensor([caches[0].past], dtype=torch.int32, device=tokens.device)
        for cache in caches:
            cache.past_on_device = self.past_on_device
        self.logits = torch.empty(0)
        try:
            self.recording = record(lambda: self._once(step))
        except BaseException:
            self.end()
            raise
        self.past_on_device.fill_(caches[0].past)  # recording may have run it

    def _once(self, step: Callable[[Tensor], Tensor]) -> None:
        self.logits = step(self.tokens)
        self.past_on_device.add_(1)

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens (batch, 1) -> logits (batch, vocabulary), which the next call overwrites."""
        if self.caches[0].past >= self.caches[0].keys.shape[3]:
            raise ValueError(f"a cache of {self.caches[0].past} entries is full")
        self.tokens.copy_(tokens)
        self.recording.replay()
        for cache in self.caches:
            cache.past += 1
        return self.logits

    def end(self) -> None:
        """The caches are counted by the host again."""
        for cache in self.caches:
            cache.past_on_device = None
