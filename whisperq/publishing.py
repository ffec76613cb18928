"""Putting a finished folder under its name, in another's place too, and what kills have left of that.

.NAME.partial-<host>-<process>     being written; after an exchange what was there before
.NAME.replaced-<host>-<process>    what was there before, where the system cannot exchange two names
"""

import ctypes
import errno
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from whisperq.disk import sync
from whisperq.errors import UsageError
from whisperq.locking import started

PARTIAL, REPLACED = "partial", "replaced"
OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h
ATTEMPTS = 100


def sibling(out: Path, purpose: str) -> Path:
    """A hidden neighbour of this process alone: jobs on several nodes share the file system, not the numbers."""
    return out.parent / f".{out.name}.{purpose}-{socket.gethostname()}-{os.getpid()}"


def destination(out: Path) -> Path:
    """Where a result for `out` is written: a link stays, and what it names is filled.

    Raises UsageError for a link to nothing, and for the root of a file system, which cannot be exchanged.
    """
    if out.is_symlink() and not out.exists():
        target = os.readlink(out)
        raise UsageError(f"{out} is a link to {target}, which is not there; make that or remove the link")
    if out.name in ("", "..") and str(out) != out.anchor:
        raise UsageError(f"{out} has no name that a result could get; give --out a folder inside it")
    if out.is_dir() and out.is_mount():
        raise UsageError(f"{out} is where a file system is mounted; give --out a folder inside it")
    return out.resolve() if out.is_symlink() else out


def publish(folder: Path, out: Path, replace: bool) -> bool:
    """Name `folder` `out`; no moment shows a mixture. False where there is something already, unless it is to give way.

    After an exchange `folder` holds what was there before; the caller removes it.
    """
    for _ in range(ATTEMPTS):
        try:
            folder.rename(out)  # also over an empty folder
        except OSError as error:
            if error.errno not in OCCUPIED:
                raise
            if not replace:
                return False
            if not exchange(folder, out) and not take_turns(folder, out):
                continue
        sync(out.parent)
        return True
    raise OSError(errno.EBUSY, "others keep writing to it", str(out))


def exchange(one: Path, other: Path) -> bool:
    """Swap the names of two paths at once; False where the system or the file system cannot, or one is gone."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


def take_turns(folder: Path, out: Path) -> bool:
    """Exchange in two steps; False where another process was quicker. `clear_killed` finishes one that was killed."""
    old = sibling(out, REPLACED)
    shutil.rmtree(old, ignore_errors=True)
    try:
        out.rename(old)
    except FileNotFoundError:
        return False
    try:
        folder.rename(out)
    except BaseException as error:
        with suppress(OSError):  # unless another has taken the name
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in OCCUPIED:
            return False
        raise
    shutil.rmtree(old, ignore_errors=True)
    return True


def clear_killed(out: Path, complete: str) -> None:
    """Remove what killed processes of this machine left beside `out`: of a large model that is gigabytes.

    complete: the file without which a folder is half-written. A whole one whose predecessor had stepped aside already
    gets the name.
    """
    for purpose in (PARTIAL, REPLACED):
        for folder in out.parent.glob(f".{_literal(out.name)}.{purpose}-{_literal(socket.gethostname())}-*"):
            number = folder.name.rsplit("-", 1)[1]
            if not number.isdecimal() or started(int(number)) is not None:
                continue
            replaced = folder.with_name(f".{out.name}.{REPLACED}-{socket.gethostname()}-{number}")
            if purpose == PARTIAL and replaced.is_dir() and (folder / complete).is_file() and not out.exists():
                with suppress(OSError):
                    folder.rename(out)
            shutil.rmtree(folder, ignore_errors=True)


def _literal(name: str) -> str:
    """A glob pattern that matches `name` and nothing else."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
