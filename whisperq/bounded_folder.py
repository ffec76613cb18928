"""A folder of entries that several processes fill and read, bounded in size and safe under kills.

    DIR/<first two digits>/<key><suffix>       one entry: the digest of the rest, then its content
    DIR/size                                   bytes taken together, changed under its lock

Keys are SHA-256 of all that decides an entry, so that none is ever changed. An entry is written beside its place and
renamed; one that does not have the digest that it begins with is made again. Where the folder holds as much as it may,
what is there stays: an epoch passes over all entries in turn, so that taking out the oldest would take out the one that
is needed next.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whisperq.errors import UsageError
from whisperq.hashing import bytes_sha256
from whisperq.locking import started
from whisperq.publishing import PARTIAL, sibling

DIGEST = 64  # characters that a file begins with
GIB = 2**30


class BoundedFolder:
    """At most `limit` bytes of entries named *suffix in `folder`. Raises UsageError for one that takes no file.

    flag: the option that named the folder, for that error.
    """

    def __init__(self, folder: Path, limit: float, suffix: str, flag: str) -> None:
        self.folder, self.limit, self.suffix = folder, int(limit), suffix
        self.full = False  # whether an entry found no room
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._clear_killed_writers()
            with self._size_locked() as size:
                size.value = sum(path.stat().st_size for path in folder.glob(f"*/*{suffix}"))
        except OSError as error:
            raise UsageError(f"{flag} {folder} cannot be used: {error.strerror or error}") from error

    def get(self, key: str) -> bytes | None:
        """An entry's content; None where there is none, or a broken one."""
        try:
            content = self._path(key).read_bytes()
            return content[DIGEST:] if content[:DIGEST].decode("ascii") == bytes_sha256(content[DIGEST:]) else None
        except (OSError, ValueError):
            return None

    def put(self, key: str, body: bytes) -> None:
        """Where there is no room, or the disk takes no more, nothing is kept."""
        content = bytes_sha256(body).encode("ascii") + body
        path = self._path(key)
        partial = sibling(path, PARTIAL)
        try:
            path.parent.mkdir(exist_ok=True)
            broken = path.stat().st_size if path.exists() else 0
            if not self._reserved(len(content) - broken):
                return
            partial.write_bytes(content)
            partial.rename(path)
        except OSError:  # a full disk; a training goes on without it
            self.full = True
            with suppress(OSError):
                partial.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{self.suffix}"

    def _reserved(self, count: int) -> bool:
        """Take room for so many bytes more, where there is some."""
        with self._size_locked() as size:
            if size.value + count > self.limit:
                self.full = True
                return False
            size.value += count
            return True

    @contextmanager
    def _size_locked(self) -> Iterator["_Size"]:
        """The folder's size in bytes, to be read and changed; the system frees the lock of a process that is killed."""
        descriptor = os.open(self.folder / "size", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            text = os.pread(descriptor, 32, 0).strip()
            size = _Size(int(text) if text.isdigit() else 0)
            yield size
            os.pwrite(descriptor, f"{size.value:<32}".encode(), 0)
        finally:
            os.close(descriptor)

    def _clear_killed_writers(self) -> None:
        """Remove what processes of this machine that have ended left half-written."""
        here = f".{PARTIAL}-{socket.gethostname()}"
        for path in self.folder.glob(f"*/.*{self.suffix}.{PARTIAL}-*"):
            name, _, number = path.name.rpartition("-")
            if name.endswith(here) and number.isdecimal() and started(int(number)) is None:
                with suppress(OSError):
                    path.unlink()


class _Size:
    def __init__(self, value: int) -> None:
        self.value = value
