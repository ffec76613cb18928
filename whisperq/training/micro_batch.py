"""The micro-batch of --micro-batch auto: the largest power of two that divides a process's share of a batch and fits.

On a GPU that is tried, with 1, 2, 4, ... windows of full length and longest text: forward and backward pass beside all
that a step holds, while a tenth of the memory is left alone.

On a CPU, where a process that takes too much is ended, it is reckoned: what one window's forward pass keeps for its
backward pass, times the micro-batch, is at most half of the memory that is free.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from whisperq.data.batches import Batch, Loader
from whisperq.errors import UsageError
from whisperq.jobs.distributed import Processes
from whisperq.training.checkpoints import Checkpoint
from whisperq.training.feed import Feed
from whisperq.training.loop import Learner
from whisperq.training.memory import free_memory

SHARE_OF_GPU, SHARE_OF_FREE = 0.9, 0.5


def settle_micro_batch(
    learner: Learner, feed: Feed, start: Checkpoint | None, processes: Processes, say: Callable[[str], None]
) -> None:
    """Give the feed its micro-batch where it is to be found out; a training that goes on keeps the one it began with.

    Raises UsageError where not even one window fits.
    """
    if feed.config.micro_batch != "auto":
        return
    known = start.progress.micro_batch if start else None
    found = known or min(processes.gather(_found(learner, feed.loader, feed.config.batch_size // processes.world)))
    if not found:
        raise UsageError("--micro-batch auto: not even one window fits into memory; --recompute needs less of it")
    feed.micro_batch = found
    say(f"--micro-batch auto: {found} at a time" + (", as this training began" if known else ""))


def _found(learner: Learner, loader: Loader, share: int) -> int:
    """Zero where nothing fits."""
    if learner.device != "cuda":
        return affordable(share, kept_bytes(learner, fullest(loader, 1)), free_memory())
    with _spare_memory():
        return largest_that_fits(share, lambda count: try_out(learner, fullest(loader, count)))


def powers_within(share: int) -> list[int]:
    """Powers of two that divide it: 12 -> 1, 2, 4."""
    return [2**i for i in range(share.bit_length()) if share % 2**i == 0]


def largest_that_fits(share: int, attempt: Callable[[int], None]) -> int:
    """The last of 1, 2, 4, ... whose attempt raises no torch.OutOfMemoryError; zero where the first does."""
    found = 0
    for count in powers_within(share):
        try:
            attempt(count)
        except torch.OutOfMemoryError:
            break
        finally:
            if torch.cuda.is_initialized():
                gc.collect()
                torch.cuda.empty_cache()
        found = count
    return found


def affordable(share: int, window: float, free: float) -> int:
    """The largest whose windows, of so many bytes each, take no more than their share of what is free; at least one."""
    return max(count for count in powers_within(share) if count == 1 or count * window <= SHARE_OF_FREE * free)


def fullest(loader: Loader, count: int) -> Batch:
    """Windows that hold as much sound and text as the model takes, on the device."""
    codec = loader.codec
    tokens = codec.pad([[codec.end] * (codec.max_tokens + 1)] * count)
    silence = np.zeros(loader.extractor.n_samples, np.float32)
    return loader.batch(loader.features([silence] * count), tokens, (), 0.0)


def try_out(learner: Learner, batch: Batch) -> None:
    """Forward and backward pass of a micro-batch beside all that a step holds; nothing is changed by it."""
    learner.pair.set_modes()
    # The optimiser takes its two moments at its first step. Compiled layers need less, and minutes for each size.
    moments = [
        torch.empty_like(p) for p in learner.trained.values() for _ in range(0 if learner.optimizer.state else 2)
    ]
    try:
        with torch.compiler.set_stance("force_eager"):
            learner.accumulate(batch, 1, last=False)
    finally:
        moments.clear()
        learner.student.zero_grad(set_to_none=True)


def kept_bytes(learner: Learner, batch: Batch) -> int:
    """Bytes that a micro-batch's forward pass keeps for its backward pass, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in learner.pair.parameters()}
    found: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return x.detach()  # a saved output that stood for itself would keep itself alive

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        try_out(learner, batch)
    return sum(found.values())


@contextmanager
def _spare_memory() -> Iterator[None]:
    torch.cuda.set_per_process_memory_fraction(SHARE_OF_GPU)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
