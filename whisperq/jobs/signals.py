"""Being told to stop: by a signal, or because the job's time is over.

SLURM sends what `--signal` names, clusters send TERM before they preempt, a terminal that closes HUP; which of the
processes of a job receives it is their decision, so that processes must agree (`Processes.any`).
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from whisperq.disk import first_process
from whisperq.standard_error import unheard
from whisperq.stopping import watched_signals

STARTED = time.monotonic()  # the process's start, near enough: max_time counts from there


class Stopping:
    """Whether to stop, asked as a function."""

    def __init__(self, max_seconds: float | None) -> None:
        self.received: list[int] = []  # signals
        self.max_seconds = max_seconds
        self.raised: type[Exception] | None = None  # by a signal, at once

    def __call__(self) -> bool:
        return self.told() or (self.max_seconds is not None and time.monotonic() - STARTED >= self.max_seconds)

    def told(self) -> bool:
        """Whether a signal has come. For work that keeps nothing, which a time limit would make start over for ever."""
        return bool(self.received)

    @contextmanager
    def raising(self, error: type[Exception]) -> Iterator[None]:
        """Inside, a signal raises this, between two operations of Python's: for work that may be lost."""
        self.raised = error
        try:
            if self.received:
                raise error
            yield
        finally:
            self.raised = None


@contextmanager
def stop_requested(max_seconds: float | None = None) -> Iterator[Stopping]:
    """Inside, the first TERM, HUP, USR1, USR2 or Ctrl-C only sets a flag, and so does the end of `max_seconds`.

    Further ones change nothing, but a second Ctrl-C raises KeyboardInterrupt, since somebody at the keyboard insists.
    """
    stopping = Stopping(max_seconds)

    def handle(number: int, _frame: object) -> None:
        if number == signal.SIGINT and stopping.received:
            raise KeyboardInterrupt
        if not stopping.received and first_process():
            # Nothing that buffers: Python runs this in the middle of whatever the process writes.
            with unheard():
                os.write(
                    2, f"whisperq: {signal.Signals(number).name}: stopping; a further Ctrl-C ends at once\n".encode()
                )
        stopping.received.append(number)
        if stopping.raised is not None:
            error, stopping.raised = stopping.raised, None
            raise error

    if threading.current_thread() is not threading.main_thread():  # Python allows no handler there
        yield stopping
        return
    before = {number: signal.signal(number, handle) for number in watched_signals()}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
