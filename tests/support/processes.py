"""Commands in processes of their own, started quickly, that can be killed: real ones, forked from one that has
imported everything."""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["whisperq.cli.app", "whisperq.steps.distill", "whisperq.steps.mixed_precision"])
PATIENCE = 120  # seconds after which a test that waits has failed


def _run(folder: Path, log: Path, environment: dict[str, str], arguments: tuple[str, ...]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    with open(log, "ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    if limit := int(environment.get("TEST_FILE_LIMIT", 0)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    import torch

    torch.set_num_threads(1)
    from whisperq.cli.app import app

    sys.exit(app([*arguments], standalone_mode=False) or 0)


class Job:
    """One command at work; `log` holds what it said."""

    def __init__(self, folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.log = folder / f"{time.monotonic_ns()}.log"
        command = (folder, self.log, environment or {}, arguments)
        self.process = _context.Process(target=_run, args=command)
        self.process.start()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def exit_code(self) -> int:
        """After its end; negative: the signal that killed it."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"still at work: {self.said}"
        return self.process.exitcode

    def until(self, condition: Callable[[], object]) -> None:
        """Wait, the process at work, until something is true; fails where it ends before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.is_alive(), f"ended with {self.process.exitcode}: {self.said}"
            assert time.monotonic() < deadline, self.said
            time.sleep(0.001)

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""
