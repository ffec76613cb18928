"""Decoding that stops at the next token, and encoding in the middle."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class Stopped(Exception):
    """A signal told to stop in the middle of a batch; what was decoded of it is lost."""


class Stoppable:
    """A runtime of either kind that a signal stops while it computes. Raises Stopped.

    stopping: as `stop_requested` gives it; one that no signal can reach is asked between batches alone.
    """

    def __init__(self, runtime: Any, stopping: Callable[[], bool]) -> None:
        self._runtime, self._raising = runtime, getattr(stopping, "raising", _never)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._runtime, name)
        return self._checked(found) if name in ("encode", "decode_step", "logits") else found

    def _checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            with self._raising(Stopped):
                return function(*arguments)

        return run


def _never(_error: type[Exception]) -> AbstractContextManager[None]:
    return nullcontext()
