"""Jobs done by other processes: results in the order of the jobs, errors raised where their result would have come.

Processes are forked, so that an index of millions of lines is shared instead of copied. Each is asked by a thread
of its own over a pipe of its own: one job at a time, no lock between processes, no shared memory (/dev/shm is
64 MB in many a container). A process that dies is noticed by its sentinel, never waited for.
"""

import atexit
import gc
import multiprocessing
import os
import queue
import signal
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from whisperq.errors import TrainingError, WhisperqError

# What a cluster sends to all of a job's processes is for the one that can save its work.
NOT_FOR_US = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
AHEAD = 4  # jobs made before they are asked for, for each process
PATIENCE = 5.0  # seconds that the last job may take when workers are to end


@contextmanager
def workers(work: Callable[[Any], Any], count: int) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """A `map(work, jobs)` that `count` processes share, none left behind; without any, this one's own."""
    if not count:
        yield lambda jobs: map(work, jobs)
        return
    pool = Pool(work, count)
    try:
        yield pool.map
    finally:
        pool.close()


class Pool:
    """Processes that all do the same work. Close it, or they stay until this process ends."""

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        # A tokenizer's own threads would not survive the fork, of which it would warn.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.workers: list[Worker] = []
        for _ in range(count):
            self.workers.append(Worker(work, [w.pipe for w in self.workers]))
        self.free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers:
            self.free.put(worker)
        self.threads = ThreadPoolExecutor(count, "audio")
        self.closed = False
        atexit.register(self.close)  # before multiprocessing's own end, which waits for processes to heed SIGTERM

    def map(self, jobs: Iterable[Any]) -> Iterator[Any]:
        pending: deque[Future] = deque()
        for job in jobs:
            pending.append(self.threads.submit(self._ask_one, job))
            if len(pending) > AHEAD * len(self.workers):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _ask_one(self, job: Any) -> Any:
        worker = self.free.get()
        try:
            return worker.ask(job)
        finally:
            self.free.put(worker)

    def close(self) -> None:
        if self.closed:  # at the end of the process, before a generator that was left open
            return
        self.closed = True
        atexit.unregister(self.close)
        self.threads.shutdown(wait=False, cancel_futures=True)
        for worker in self.workers:
            with suppress(OSError):  # one that is gone already
                worker.stop.send(None)
        for worker in self.workers:
            worker.end()
        self.threads.shutdown()


class Worker:
    """One process, and this side of its pipe."""

    def __init__(self, work: Callable[[Any], Any], inherited: list[Connection]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        listener, self.stop = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_serve, args=(work, theirs, listener, [*inherited, self.pipe, self.stop]), daemon=True
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_US)  # until the child ignores them
        with warnings.catch_warnings():  # of threads beside the fork: the child touches nothing that they hold
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that no copy is left when the process dies
        listener.close()

    def ask(self, job: Any) -> Any:
        """The result; raises what the work raised, TrainingError where the process is gone."""
        try:
            self.pipe.send(job)
            wait([self.pipe, self.process.sentinel])
            result, error, warned = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(PATIENCE)
            raise TrainingError(
                f"a process that decodes audio ended with code {self.process.exitcode}, for want of memory perhaps; "
                "--workers sets their number"
            ) from None
        for message in warned:
            warnings.warn(message, stacklevel=1)
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()
        self.stop.close()


def _serve(work: Callable[[Any], Any], pipe: Connection, stop: Connection, inherited: list[Connection]) -> None:
    """A process's life: until it is told to stop, or the one that asks is gone."""
    for other in inherited:
        other.close()
    for number in NOT_FOR_US:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOT_FOR_US)
    gc.freeze()  # what the parent made is the parent's to collect, its GPU memory above all
    import torch  # the parent has it already

    torch.set_num_threads(1)  # OpenMP's threads did not come along
    starter = multiprocessing.parent_process()
    assert starter is not None, "only a process that was forked serves"
    parent = starter.sentinel
    while True:
        ready = wait([pipe, stop, parent])
        if stop in ready or parent in ready:
            return
        try:
            job = pipe.recv()
            pipe.send(_answer(work, job))
        except (EOFError, OSError):
            return


def _answer(work: Callable[[Any], Any], job: Any) -> tuple[Any, Exception | None, list[str]]:
    """The result, else the error as a value, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        result: Any = None
        error: Exception | None = None
        try:
            result = work(job)
        except WhisperqError as known:
            error = type(known)(str(known))
        except Exception:
            error = RuntimeError(f"in a process that decodes audio:\n{traceback.format_exc()}")
    return result, error, [str(w.message) for w in warned]
