"""Equal bits from equal runs, where the device's own sums could come out in any order."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from whisperq.errors import UsageError

FILLING: Any = torch.utils.deterministic  # a module with a property, of which its annotations do not know


def prepare_determinism() -> None:
    """Set the cuBLAS workspace that makes its sums repeatable.

    Must be called before anything runs on a GPU: cuBLAS reads the variable once, at its first product.
    Raises UsageError where the environment sets another workspace, with which sums may be split in any order.
    """
    known = (":4096:8", ":16:8")
    if os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", known[0]) not in known:
        raise UsageError(f"--deterministic needs CUBLAS_WORKSPACE_CONFIG to be {' or '.join(known)}")


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Equal bits from equal input and thread count: scattered gradients are otherwise summed in any order."""
    before = torch.are_deterministic_algorithms_enabled(), FILLING.fill_uninitialized_memory
    torch.use_deterministic_algorithms(wanted or before[0])
    FILLING.fill_uninitialized_memory = False  # it costs percents, and nothing here reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        FILLING.fill_uninitialized_memory = before[1]
