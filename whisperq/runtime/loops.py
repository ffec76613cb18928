"""Decoding that ends at a loop: a model that repeats itself writes on until its last token, and says nothing new.

A young student does so in most utterances, and then decoding costs more than training.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LOOK = 8  # tokens from one look for loops to the next
LONGEST = 32  # tokens of an n-gram
LEAST = 8  # tokens of a loop


def in_loop(tokens: Sequence[int], times: int) -> bool:
    """Whether the last tokens are one n-gram so many times in a row, each of at most LONGEST, LEAST or more in all."""
    for n in range(1, min(LONGEST, len(tokens) // times) + 1):
        tail = tokens[-n * times :]
        if len(tail) >= LEAST and list(tail[n:]) == list(tail[:-n]):
            return True
    return False


def looping(written: Sequence[Tensor], done: Tensor, times: int) -> Tensor:
    """Which utterances, (batch,), are in a loop; written: a token of each, (batch,), for every step so far."""
    rows = torch.stack(list(written[-LONGEST * times :]), dim=1).tolist()
    found = [not over and in_loop(row, times) for row, over in zip(rows, done.tolist(), strict=True)]
    return torch.tensor(found, device=done.device)
