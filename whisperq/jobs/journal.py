"""Append-only journal of long work beside its future result; a killed run resumes after the last complete line.

    NAME-partial/settings.json   the settings and inputs that the work belongs to
    NAME-partial/*.jsonl         what is done, a line for each piece

After a kill all complete lines count.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from whisperq import artifact
from whisperq.disk import replace, system_errors
from whisperq.errors import InputError, UsageError, WhisperqError

SETTINGS = "settings.json"


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Line = TypeVar("Line", bound=Dataclass)


class Journal:
    """One command's work folder; `what` names its lines to the user, and `pattern` their files."""

    computation: ClassVar[tuple[str, ...]] = ()  # settings on which no line depends, rounding apart

    def __init__(
        self, out: Path, config: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]], what: str, pattern: str
    ) -> None:
        self.out, self.config, self.inputs = out, config, inputs
        self.folder, self.what, self.pattern = out.with_name(f"{out.name}-partial"), what, pattern
        hashes = {f"input {role}": entry["sha256"] for role, entry in inputs.items()}
        self.settings = json.loads(json.dumps({**config, **hashes}))  # as they will be read back

    def refuse_finished(self, command: str, force: bool) -> None:
        """Raises as `artifact.refuse_overwrite` does, without the lock: commands that find it finished never collide.

        With a work folder beside it somebody may be about to write there, which `look` finds out behind the lock.
        """
        if not self.folder.exists():
            artifact.refuse_overwrite(self.out, command, self.config, self.inputs, force)

    def look(self, command: str, force: bool) -> None:
        """Before long work begins: raises as `artifact.refuse_overwrite` does, and where not forced as `check` does.

        To be called by a process that holds the lock (jobs/distributed.py): files may not change meanwhile.
        """
        try:
            artifact.refuse_overwrite(self.out, command, self.config, self.inputs, force)
        except artifact.Finished:
            self.remove_leftovers()
            raise
        if not force:
            self.check()

    def check(self) -> None:
        """Raises UsageError where the lines belong to another command, InputError where that cannot be determined.

        --skip-bad may be added: what was done without it is the same with it. Settings of the computation may change:
        where the memory does not suffice for a batch, a smaller one goes on.
        """
        if (old := self._read_settings()) is None:
            return
        if old.get("skip_bad") is False:
            old["skip_bad"] = self.settings["skip_bad"]
        deciding = {*old, *self.settings}.difference(self.computation)
        keys = sorted(k for k in deciding if old.get(k) != self.settings.get(k))
        if keys:
            raise UsageError(
                f"{self.folder} holds unfinished {self.what} of another command (it differs in {', '.join(keys)}); "
                "repeat that one, give --force to begin anew, or --out to write elsewhere"
            )

    def prepare(self) -> None:
        """Make the folder ready for lines, without another command's; for one of the processes to do."""
        try:
            self.check()
        except WhisperqError:
            self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        replace(self.folder / SETTINGS, json.dumps(self.settings, indent=2) + "\n")

    def _read_settings(self) -> dict[str, Any] | None:
        """Settings of the journal that lies there; None where it has no lines. Raises InputError for a damaged file."""
        if not self.files():
            return None
        try:
            return dict(json.loads((self.folder / SETTINGS).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.folder} holds {self.what}, but its {SETTINGS} cannot be read; give --force to begin anew"
            ) from error

    def files(self) -> list[Path]:
        return sorted(self.folder.glob(self.pattern))

    def remove_leftovers(self) -> None:
        """Remove the work folder of this same command, killed after it wrote its result and before it tidied up."""
        with suppress(OSError, ValueError):
            if json.loads((self.folder / SETTINGS).read_text()) == self.settings:
                self.remove()

    def remove(self) -> None:
        """Delete the journal's files, and the folder where nothing else is in it."""
        for path in (*self.files(), self.folder / SETTINGS):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


@contextmanager
def appending(path: Path, kind: type[Line]) -> Iterator[Callable[[Sequence[Line]], None]]:
    """A function that keeps lines: when it returns they are on the disk. A torn last line is dropped before."""
    if path.exists():
        os.truncate(path, whole_lines(path, kind)[1])
    with open(path, "a", encoding="utf-8", newline="\n") as file:

        def keep(lines: Sequence[Line]) -> None:
            with system_errors(path.parent):
                file.writelines(json.dumps(asdict(line)) + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())

        yield keep


def whole_lines(path: Path, kind: type[Line]) -> tuple[list[Line], int]:
    """The lines up to the first one that is torn or, after a failure of the machine, damaged; and their bytes."""
    lines: list[Line] = []
    size = 0
    for line in path.read_bytes().split(b"\n")[:-1]:  # behind the last newline lies nothing, or a torn line
        try:
            lines.append(kind(**json.loads(line)))
        except (ValueError, TypeError):
            break
        size += len(line) + 1
    return lines, size
