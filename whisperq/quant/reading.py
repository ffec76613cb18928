"""Numbers that were computed where the tensors are, and are read on the host: at once, or many together.

Each reading waits until a GPU has done all that it was told before; what is read together waits once.
"""

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor

MOST = 2**26  # bytes that wait to be read; with more, one reading comes early

Take = Callable[[Tensor], None]  # is given the numbers, on the CPU and in their shape: a view, to be copied if kept
Read = Callable[[Tensor, Take], None]


def now(numbers: Tensor, take: Take) -> None:
    """The numbers are read at once."""
    take(numbers.cpu())


class Later:
    """The numbers wait for `read`."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Take]] = []
        self._bytes = 0

    def __call__(self, numbers: Tensor, take: Take) -> None:
        self._waiting.append((numbers, take))
        self._bytes += numbers.nbytes
        if self._bytes > MOST:
            self.read()

    def read(self) -> None:
        """Give all numbers away in the order in which they came; one transfer for each kind of number."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        found: dict[int, Tensor] = {}
        places = sorted(range(len(waiting)), key=lambda i: str(waiting[i][0].dtype))
        for _, same in groupby(places, key=lambda i: waiting[i][0].dtype):
            chosen = list(same)
            flat = torch.cat([waiting[i][0].reshape(-1) for i in chosen]).cpu()
            found |= zip(chosen, flat.split([waiting[i][0].numel() for i in chosen]), strict=True)
        for i, (numbers, take) in enumerate(waiting):
            take(found[i].view(numbers.shape))


def explained(read: Read, explain: Callable[[ValueError], Exception]) -> Read:
    """`read`, but for a ValueError of who takes the numbers what `explain` makes of it is raised."""

    def reads(numbers: Tensor, take: Take) -> None:
        def checked(found: Tensor) -> None:
            try:
                take(found)
            except ValueError as error:
                raise explain(error) from error

        read(numbers, checked)

    return reads
