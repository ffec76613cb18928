"""Reading where a disk or a network may fail for a moment: what is bad stays bad, all else gets another try."""

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import BinaryIO, Protocol, TypeVar

from whisperq.data.utterance import reason
from whisperq.errors import InputError, ReadError

WAITS = (0.1, 0.5, 2.0)  # seconds before each further try
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)  # the name's own fault
T = TypeVar("T")


def patiently(action: Callable[[], T], where: str) -> T:
    """The action's result, tried again where the system or memory fails it.

    Raises InputError for what does not exist, ReadError for what cannot be read at the last try either: --skip-bad
    leaves out the former, never the latter.
    """
    for wait in (*WAITS, None):
        try:
            return action()
        except (OSError, MemoryError) as error:
            if getattr(error, "errno", None) in ABSENT:
                raise InputError(f"{where} does not exist") from error
            if wait is None or isinstance(error, PermissionError):
                raise ReadError(
                    f"{where} could not be read ({_said(error)}), which says nothing of what is in it; "
                    "see to the disk, the network or the memory and run the command again"
                ) from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _said(error: OSError | MemoryError) -> str:
    """Reason of a read error without the file's name, which the message has already."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return os.strerror(error.errno) if error.errno else reason(error)


class Readable(Protocol):
    """The methods that an open file must have."""

    def read(self, count: int, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def close(self) -> None: ...


class PatientFile:
    """A file's bytes. Where a read fails the file is opened anew, at the same place. Raises as `patiently` does."""

    def __init__(self, path: str, where: str) -> None:
        self.path, self.where, self.place = path, where, 0
        self._file: BinaryIO | None = None
        self.size = patiently(lambda: self._opened().seek(0, os.SEEK_END), where)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def read(self, count: int) -> bytes:
        content = patiently(lambda: self._read(count), self.where)
        self.place += len(content)
        return content

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = open(self.path, "rb")
        return self._file

    def _read(self, count: int) -> bytes:
        try:
            file = self._opened()
            if file.tell() != self.place:
                file.seek(self.place)
            return file.read(count)
        except BaseException:
            self.close()
            raise


def is_file(path: str) -> bool:
    """Whether `path` is a regular file; unlike os.path.isfile it raises ReadError where the system cannot tell."""
    try:
        return stat.S_ISREG(patiently(lambda: os.stat(path), f"the file {path}").st_mode)
    except (InputError, ValueError):  # ValueError: a name that no file can have
        return False
