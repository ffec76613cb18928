"""Writing so that a killed process or a lost machine leaves the old or the new, and nothing between."""

import os
from pathlib import Path


def first_process() -> bool:
    """Whether this process is the one that writes: alone, or of rank 0 (RANK is torchrun's variable)."""
    return os.environ.get("RANK", "0") == "0"


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
