"""The GPU, or the CPU in its place, and the software that the numbers of gpu.sh belong to.

    python gpu_head.py auto|cpu|cuda

prints one JSON object; a process of its own, so that what drives the parts holds no memory on the GPU.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import describe

ROOT = Path(__file__).parents[2]
MORE = ("triton", "accelerate", "pytest")  # packages beside those of `describe`


def head(asked: str) -> dict[str, Any]:
    """Exits where CUDA was asked for and is not there."""
    gpu = _gpu() if asked != "cpu" else None
    if asked == "cuda" and gpu is None:
        sys.exit("DEVICE=cuda was asked for, but torch finds no GPU here")
    machine = describe()
    machine["packages"] |= {name: found for name in MORE if (found := _version(name))}
    known = {"device": "cuda", **gpu} if gpu else {"device": "cpu", "card": None}
    return {**known, "commit": commit(), "machine": machine}


def _gpu() -> dict[str, Any] | None:
    """The first GPU that this process may use; None without one."""
    if find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "card": properties.name, "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory, "driver": _driver(), "cuda": torch.version.cuda,
    }  # fmt: skip


def _driver() -> str | None:
    try:
        return _printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def commit() -> str:
    """WHISPERQ_COMMIT, else git's, with a mark where tracked files were changed since."""
    if named := os.environ.get("WHISPERQ_COMMIT"):
        return named
    try:
        changed = _printed("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
        return _printed("git", "-C", str(ROOT), "rev-parse", "HEAD") + (" and changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(json.dumps(head(sys.argv[1])))
