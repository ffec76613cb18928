"""Decoding that stops at the next token."""

from collections.abc import Callable
from typing import Any


class Stopped(Exception):
    """Somebody said to stop in the middle of a batch; what of it was heard is lost."""


class Stoppable:
    """A runtime of either kind that looks, before it computes anything, whether a signal told to. Raises Stopped.

    stopping: as `stop_requested` gives it; one that no signal can reach is asked between batches alone.
    """

    def __init__(self, runtime: Any, stopping: Callable[[], bool]) -> None:
        self._runtime, self._stopping = runtime, getattr(stopping, "told", lambda: False)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._runtime, name)
        return self._checked(found) if name in ("encode", "decode_step", "logits") else found

    def _checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            if self._stopping():
                raise Stopped
            return function(*arguments)

        return run
