"""Writing so that a killed process or a lost machine leaves the old or the new, and nothing between."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whisperq.errors import WhisperqError


def first_process() -> bool:
    """Whether this process is the one that writes: alone, or of rank 0 (RANK is torchrun's variable)."""
    return os.environ.get("RANK", "0") == "0"


def is_pointer(start: bytes) -> bool:
    """Whether a file that begins so is Git LFS's note of where the file itself is."""
    return start.startswith(b"version https://git-lfs.github.com/spec/")


def cache_folder() -> Path:
    """XDG's, whether it is there or not; of a user without a home, as containers have them, a temporary one."""
    home = os.path.expanduser("~")
    usual = os.path.join(home if home != "~" else tempfile.gettempdir(), ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or usual)


def hub_cache() -> Path:
    """The cache folder of huggingface_hub."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")))


def hub_is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def sync(path: Path) -> None:
    """Until it is on the disk; a folder for the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    sync(partial)
    partial.rename(path)
    sync(path.parent)


@contextmanager
def system_errors(place: Path) -> Iterator[None]:
    """Context that makes errors of the disk OSErrors that name a path, also those that Rust libraries raise."""
    try:
        yield
    except WhisperqError:
        raise
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(place)) from error
        raise
    except Exception as error:
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(place)) from error
