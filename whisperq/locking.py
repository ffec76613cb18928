"""One command at a time: a lock file that says who is at work.

    with locked(out, "distill"):     run/.distilled.lock names host, process, its start and the command

The file is made exclusively, which network file systems do too, and touched while its owner lives. It is stale, and
gives way, where its process on this host is gone, or where nobody has touched it for PATIENCE seconds.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_type_hints

from whisperq.errors import Interrupted

BEAT = 20.0  # seconds between two touches
PATIENCE = 15 * BEAT  # with other hosts, whose processes cannot be looked at
WRITING = 10.0  # seconds within which the process that made the file writes its name into it, unless it was killed


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    host: str
    process: int
    started: str  # of the process, as `started` gives it: numbers of processes come again
    command: str
    since: str  # for people

    @classmethod
    def me(cls, command: str) -> "Owner":
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(_host(), os.getpid(), started(os.getpid()) or "", command, since)

    def gone(self) -> bool:
        """Certainly: of another host nobody can tell."""
        if self.host != _host():
            return False
        now = started(self.process)
        return now is None or (now != self.started and "" not in (now, self.started))


def _host() -> str:
    """The host and, as containers share its name, the space in which its processes are numbered."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def started(process: int) -> str | None:
    """When a process of this host started, in the system's own unit; None for one that has ended, "" where it hides."""
    try:
        state, *rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    except (OSError, ValueError, IndexError):
        pass  # no such process, a system without /proc, or one that hides the processes of others
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass  # somebody else's, and alive
    return ""


@contextmanager
def locked(out: Path, command: str) -> Iterator[None]:
    """Raises Interrupted where another command is at work on `out`. Where nothing can be written nothing is locked."""
    path = out.parent / f".{out.name}.lock"
    new_parents = [folder for folder in out.parents if not folder.exists()]
    me = Owner.me(command)
    over = threading.Event()
    try:
        with suppress(OSError):  # who cannot write the lock cannot write the result either, and that is reported
            out.parent.mkdir(parents=True, exist_ok=True)
            _take(path, out, me)
            threading.Thread(target=_touch, args=(path, over), daemon=True).start()
        yield
    finally:
        over.set()
        if _owner(path) == me:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # a refusal leaves no empty folder
            for parent in new_parents:
                parent.rmdir()


def _take(path: Path, out: Path, me: Owner) -> None:
    """Raises Interrupted where the lock is another's."""
    while True:
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            _refuse_or_clear(path, out)
            continue
        try:
            os.write(file, (json.dumps(asdict(me)) + "\n").encode())
        finally:
            os.close(file)
        return


def _refuse_or_clear(path: Path, out: Path) -> None:
    """Raises Interrupted for a living lock; a stale one is gone afterwards, one not signed yet is waited for."""
    owner, quiet = _owner(path), _quiet_seconds(path)
    if quiet is None:
        return  # given back in this moment
    if owner is None and quiet < WRITING:
        return time.sleep(WRITING / 200)
    if owner and quiet < PATIENCE and not owner.gone():
        raise Interrupted(
            f"whisperq {owner.command} is at work on {out} already (process {owner.process} on "
            f"{owner.host.split()[0]}, since {owner.since}); run this again when that has ended"
        )
    aside = path.with_name(f"{path.name}.stale-{socket.gethostname()}-{os.getpid()}")
    with suppress(FileNotFoundError):
        path.rename(aside)  # of two that find it stale one moves it
        if _owner(aside) != owner and not path.exists():
            aside.rename(path)  # the other was quicker, and this is its new one
        aside.unlink(missing_ok=True)


def _owner(path: Path) -> Owner | None:
    """Who holds the lock; None where it is gone, incomplete or written by another program."""
    try:
        content = json.loads(path.read_text())
        kinds = get_type_hints(Owner)
        found = {f.name: content[f.name] for f in fields(Owner)}
        return Owner(**found) if all(isinstance(found[name], kind) for name, kind in kinds.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _quiet_seconds(path: Path) -> float | None:
    """Seconds since the owner last touched the lock, by the file system's clock, which hosts share; None if gone."""
    probe = path.with_name(f"{path.name}.clock-{socket.gethostname()}-{os.getpid()}")
    try:
        touched = path.stat().st_mtime
        probe.touch()
        return probe.stat().st_mtime - touched
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def _touch(path: Path, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with suppress(OSError):
            os.utime(path)
