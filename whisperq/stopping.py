"""What TERM, HUP, USR1, USR2 and Ctrl-C do where no work keeps its own account of them (jobs/signals.py).

Before a command's work begins they end the process with one line. While it works they are raised where it is, so that
what it had half written is removed: `Told`, or KeyboardInterrupt for a Ctrl-C.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPT = signal.SIGINT
STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, INTERRUPT)
AGAIN, INTERRUPTED = 75, 130  # exit codes: EX_TEMPFAIL of sysexits.h; 128 and SIGINT's number
Handler = Callable[[int, FrameType | None], None]
_received: list[int] = []  # the signals of the innermost `raised`


class Told(KeyboardInterrupt):
    """Told to stop by a signal of a cluster's; like a Ctrl-C, no `except Exception` holds it up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"told to stop ({signal.Signals(number).name})")


def watched_signals() -> list[signal.Signals]:
    """All of STOPPING but a HUP that nohup has turned off."""
    return [n for n in STOPPING if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def leave_when_told() -> None:
    """Make signals end the process at once, until `raised` handles them; for a process that has begun no work."""

    def leave(number: int) -> None:
        said = "interrupted" if number == INTERRUPT else f"{Told(number)}; run the same command again"
        with suppress(OSError):
            os.write(2, f"{speaker()}: {said}\n".encode())
        os._exit(INTERRUPTED if number == INTERRUPT else AGAIN)

    for number in watched_signals():
        signal.signal(number, _of_this_process(leave))


@contextmanager
def raised() -> Iterator[list[int]]:
    """Inside, the first signal is raised, once: what then tidies up is left alone, but for a second Ctrl-C.

    Gives the list of signals received so far, since a library may swallow or replace the exception.
    """
    global _received
    received: list[int] = []

    def handle(number: int) -> None:
        received.append(number)
        if number == INTERRUPT:
            raise KeyboardInterrupt
        if len(received) == 1:
            raise Told(number)

    if threading.current_thread() is not threading.main_thread():  # Python allows no handler there
        yield received
        return
    before = {number: signal.signal(number, _of_this_process(handle)) for number in watched_signals()}
    outer, _received = _received, received
    try:
        yield received
    finally:
        _received = outer
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_swallowed() -> None:
    """Raise what a signal raised before, inside `raised`, where nobody heard it: Python swallows all in a `__del__`."""
    if _received:
        raise KeyboardInterrupt if INTERRUPT in _received else Told(_received[0])


def _of_this_process(handle: Callable[[int], None]) -> Handler:
    """A handler that a forked process does not inherit: there the signal does what it does by itself."""
    mine = os.getpid()

    def handler(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == mine:
            return handle(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    return handler


def speaker() -> str:
    """Name of this process on standard error, with its rank where there are several."""
    return "whisperq" if (rank := os.environ.get("RANK", "0")) == "0" else f"whisperq, process {rank}"
