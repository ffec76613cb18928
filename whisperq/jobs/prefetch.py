"""The next items made by a thread while the present one is used."""

import atexit
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Iterable[T], ahead: int = 2) -> Generator[T, None, None]:
    """Yield `items` in order, up to `ahead` read in advance by a thread; an error is raised at its item's place."""
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put(_END)
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=produce, daemon=True)

    def end() -> None:
        atexit.unregister(end)
        stop.set()
        thread.join()

    # A thread within torch when the interpreter goes aborts the process; one left open ends before that.
    atexit.register(end)
    thread.start()
    try:
        while (entry := ready.get()) is not _END:
            item, error = entry
            if error is not None:
                raise error
            yield item
    finally:
        end()
