"""A command under --dry-run: its own path up to the step, whose call is written down instead of made."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from whisperq.artifact import Artifact
from whisperq.declaration import Declaration
from whisperq.declared import declaration_of
from whisperq.errors import InputError, UsageError
from whisperq.settings import Context

NOT_TRIED = (
    "Not tried: what only the run itself finds out, such as damaged data, a model that does not fit, "
    "a library or memory that is missing."
)
Origin = Literal["flag", "environment", "configuration", "default", "chosen"]  # chosen: for these inputs


@dataclass(frozen=True)
class Call:
    """A step's call: its inputs by the names that its function gives them."""

    step: str
    inputs: Mapping[str, Any]
    out: Path | None
    config: Any
    context: Context

    @property
    def declared(self) -> Declaration:
        return declaration_of(self.step)


@dataclass(frozen=True)
class Setting:
    value: Any
    origin: Origin


@dataclass(frozen=True)
class Read:
    role: str
    what: str
    state: str
    missing: bool = False  # the real run stops here


@dataclass(frozen=True)
class Write:
    what: str
    state: str
    refused: bool = False  # the real run stops here


@dataclass(frozen=True)
class Plan:
    """What --dry-run tells of one command: settings, what it would read, and what it would write."""

    command: str
    settings: dict[str, Setting]
    reads: tuple[Read, ...]
    writes: tuple[Write, ...]

    def as_json(self) -> str:
        return json.dumps({"dry_run": True, **asdict(self)})

    def check(self) -> None:
        """Raises InputError for a missing input, UsageError for a refused output: what would stop the real run."""
        if missing := next((r for r in self.reads if r.missing), None):
            raise InputError(f"this would stop: {missing.role} {missing.what} is {missing.state}")
        if refused := next((w for w in self.writes if w.refused), None):
            raise UsageError(f"this would be refused: {refused.what}: {refused.state}")


_calls: ContextVar[list[Call] | None] = ContextVar("calls", default=None)


def under_way() -> bool:
    return _calls.get() is not None


@contextmanager
def written_down() -> Iterator[list[Call]]:
    """Context in which no step runs: calls of steps are appended to the list that it gives."""
    calls: list[Call] = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def instead_of(step: str) -> Callable[..., Artifact] | None:
    """A function that records the call of a step under --dry-run; None outside of it."""
    calls = _calls.get()
    if calls is None:
        return None

    def write_down(out: Path | None, config: Any, context: Context, **inputs: Any) -> Artifact:
        calls.append(Call(step, inputs, out, config, context))
        return Artifact(out or Path(), {})

    return write_down


def parts(*values: Any) -> tuple[Any, ...]:
    """A plain tuple in place of the dataclasses that steps take, under --dry-run."""
    return values
