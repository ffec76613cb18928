"""What the teacher makes of each training window, kept on disk, so that it runs once for every window and never again.

    DIR/<first two digits>/<key>.taught        one window: the digest of the rest, then `hidden` (safetensors)
    DIR/size                                   bytes taken together, changed under its lock

hidden: the last states of its decoder at the labelled tokens, (tokens, d_model), in the teacher's number format. Its
logits are one product of these with its vocabulary, a hundredth of a step's work, so that the loss is the whole KL, not
that of the likeliest tokens: 1,024 out of 51,864 hold 99.5 % of whisper-tiny.en's probability, in seven times the
room.

key = SHA-256 of what decides an entry: the teacher's hash, its number format, and the window's own digest
(`training.collate`: samples, tokens, log-mel settings). So other teachers have other entries in the same folder, and no
entry is ever changed. It is written beside its place and renamed; one that does not have the digest that it begins with
is made again. Where the folder holds as much as it may, what is there stays: an epoch passes over all windows in turn,
so that taking out the oldest would take out the one that is needed next.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from whisperq.errors import UsageError
from whisperq.hashing import bytes_sha256
from whisperq.locking import started
from whisperq.publishing import PARTIAL, sibling

SUFFIX = ".taught"
DIGEST = 64  # characters that a file begins with
FORMAT = 1
GIB = 2**30


class TeacherCache:
    """Entries of one teacher, at most `limit` bytes of the folder in all; several processes may share a folder."""

    def __init__(self, folder: Path, limit: float, **decides: Any) -> None:
        """decides: what an entry hangs on beside its window. Raises UsageError for a folder that takes no file."""
        self.folder, self.limit = folder, int(limit)
        self.identity = json.dumps({"format": FORMAT, **decides}, sort_keys=True)
        self.full = False  # whether an entry found no room
        try:
            folder.mkdir(parents=True, exist_ok=True)
            clear_killed_writers(folder)
            with self._size_locked() as size:
                size.value = sum(path.stat().st_size for path in folder.glob(f"*/*{SUFFIX}"))
        except OSError as error:
            raise UsageError(f"--teacher-cache {folder} cannot be used: {error.strerror or error}") from error

    def get(self, window: str) -> Tensor | None:
        """The hidden states kept for a window; None where it has no entry or a damaged one."""
        try:
            content = self._path(window).read_bytes()
            if content[:DIGEST].decode("ascii") != bytes_sha256(content[DIGEST:]):
                return None
            return load(content[DIGEST:])["hidden"]
        except (OSError, ValueError, KeyError, SafetensorError):
            return None

    def put(self, window: str, hidden: Tensor) -> None:
        """Keep a window's hidden states; does nothing where the cache or the disk is full."""
        body = save({"hidden": hidden.contiguous()})
        content = bytes_sha256(body).encode("ascii") + body
        path = self._path(window)
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

    def _path(self, window: str) -> Path:
        key = bytes_sha256(f"{self.identity}\n{window}".encode())
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def _reserved(self, count: int) -> bool:
        """Whether so many bytes more have room, which is theirs from now on."""
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


class _Size:
    def __init__(self, value: int) -> None:
        self.value = value


def clear_killed_writers(folder: Path) -> None:
    """Remove what processes of this machine that have ended left half-written."""
    here = f".{PARTIAL}-{socket.gethostname()}"
    for path in folder.glob(f"*/.*{SUFFIX}.{PARTIAL}-*"):
        name, _, number = path.name.rpartition("-")
        if name.endswith(here) and number.isdecimal() and started(int(number)) is None:
            with suppress(OSError):
                path.unlink()
