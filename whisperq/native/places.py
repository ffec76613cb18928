"""Where compiled kernels lie: in the user's cache, or where that cannot be had, in a folder of this command alone.

What is loaded runs with all that the user may do. So it lies where the user alone can write.
"""

import atexit
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from whisperq.disk import cache_folder
from whisperq.locking import started

SHARED = "WHISPERQ_KERNELS"  # the environment tells the processes that this one starts
NAME = "whisperq-kernels"


def kept() -> Path:
    """The cache's folder, whether it is there or not."""
    return cache_folder() / "whisperq" / "kernels"


def refusal(place: Path) -> str | None:
    """Why nothing in this folder, or not this file, may be loaded; None where it may."""
    try:
        found = place.lstat()
    except OSError as error:
        return f"{place} cannot be read ({error.strerror})"
    if stat.S_ISLNK(found.st_mode):
        return f"{place} is a link"
    if found.st_uid != os.geteuid():
        return f"{place} belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{place} can be written by others"
    return None


def no_cache(place: Path) -> str | None:
    """Why kernels cannot be kept there, which is made where it can be; None where they can."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return f"{place} cannot be made ({error.strerror})"
    return refusal(place) or (None if os.access(place, os.W_OK) else f"{place} cannot be written")


def folder_for(place: Path) -> Path:
    """The place itself, else one folder for all processes of this command, removed at its end."""
    return place if no_cache(place) is None else _of_this_command()


def _of_this_command() -> Path:
    shared = Path(os.environ.get(SHARED) or _folder_of(_leader()))
    with suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
    if refusal(shared) is not None:  # somebody else has taken the name
        shared = Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
    os.environ[SHARED] = str(shared)
    atexit.register(_remove, shared, os.getpid())
    _clear_killed()
    return shared


def _leader() -> int:
    """The process that all of a command have in common: of several that torchrun or srun started, theirs."""
    return os.getpid() if os.environ.get("WORLD_SIZE", "1") == "1" else os.getppid()


def _folder_of(process: int) -> Path:
    return Path(tempfile.gettempdir()) / f"{NAME}-{os.geteuid()}-{process}"


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not by those that were forked
        shutil.rmtree(folder, ignore_errors=True)


def _clear_killed() -> None:
    """Remove folders that killed commands left."""
    for folder in _folder_of(0).parent.glob(f"{NAME}-{os.geteuid()}-*"):
        number = folder.name.rsplit("-", 1)[1]
        if number.isdecimal() and started(int(number)) is None and refusal(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
