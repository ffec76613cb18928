"""What a part of gpu.sh is told, and how it says what it has found."""

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gpu_record import update

LONGEST = 400  # characters of an error


class Failed(Exception):
    """A part that is not what it should be, in one sentence; what it found is kept."""


def in_a_line(error: Exception) -> str:
    """An error of anybody's, short enough for a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST]


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
