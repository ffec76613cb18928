"""What a part of gpu.sh is told, and how it says what it has found."""

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gpu_record import update


class Failed(Exception):
    """A part that is not what it should be, in one sentence; what it found is kept."""


@dataclass
class Task:
    """What a part is told, and what it has found."""

    name: str
    device: str  # cuda or cpu
    smallest: bool  # shows that it works, measures nothing
    compile: bool  # compiled contenders too
    out: str
    work: str
    until: float  # time.time() when it is ended
    results: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        return Path(self.work)

    def left(self) -> float:
        """Seconds until it is ended."""
        return self.until - time.time()

    def save(self) -> None:
        update(Path(self.out), self.name, results=self.results)
