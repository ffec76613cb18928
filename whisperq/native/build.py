"""The C++ kernels of this folder, compiled once for this machine and kept in the user's cache.

    kernels-<sources, command, CPU>-<content>.so

Both are hashes: what is not, to the last byte, what was compiled is compiled again, never loaded.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from whisperq.disk import sync
from whisperq.hashing import file_sha256
from whisperq.native.places import folder_for, kept, refusal

HERE = Path(__file__).parent
SOURCES = ("rows.cpp", "products.cpp", "tokens.cpp", "decoding.cpp", "attention.cpp", "learning.cpp")
HEADERS = ("common.h", "few_rows.h", "many_rows.h", "tiles.h", "attend.h")
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared",
)  # fmt: skip


class NoKernels(Exception):
    """Why there are no native kernels here."""


@cache
def library(extra_flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The kernels' shared library; compiling takes seconds, once. Raises NoKernels."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        raise NoKernels("no C++ compiler is at hand")
    # PyTorch's own OpenMP before the system's: two thread pools would wait on each other's cores.
    openmp = [str(p) for p in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))]
    command = [compiler, *FLAGS, *sanitizer(), *extra_flags, *(str(HERE / name) for name in SOURCES), *openmp]
    name = f"kernels-{_digest(command)}"
    path = _whole(kept(), name) if refusal(kept()) is None else None
    if path is None:
        folder = folder_for(kept())
        path = _whole(folder, name) or _compile(command, folder, name)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoKernels(f"the compiled kernels cannot be loaded ({error})") from error


def sanitizer() -> tuple[str, ...]:
    """WHISPERQ_SANITIZE=address: kernels that stop at the first access beyond a tensor; libasan must be preloaded."""
    kind = os.environ.get("WHISPERQ_SANITIZE")
    return (f"-fsanitize={kind}", "-fno-omit-frame-pointer", "-g", "-O1") if kind else ()


def _whole(folder: Path, name: str) -> Path | None:
    """The library of this name whose content is what its name says; others of it are removed."""
    found = None
    for path in sorted(folder.glob(f"{name}-*.so")):
        if refusal(path) is None and path.stem == f"{name}-{file_sha256(path)[:16]}":
            found = path
        else:
            with suppress(OSError):
                path.unlink()
    return found


def _compile(command: list[str], folder: Path, name: str) -> Path:
    """Compile beside and rename: two processes may do so at once, and a machine may lose its power meanwhile."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as building:
            made = Path(building) / f"{name}.so"
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[0]
                raise NoKernels(f"{command[0]} cannot compile the kernels ({reason})")
            made.chmod(0o700)  # whatever the umask: what others may write is not loaded
            sync(made)
            path = folder / f"{name}-{file_sha256(made)[:16]}.so"
            os.replace(made, path)
        sync(folder)
    except OSError as error:
        raise NoKernels(f"{command[0]} cannot be run, or {folder} takes no file ({error})") from error
    return path


def _digest(command: list[str]) -> str:
    """Hash of sources, command and CPU, since a home folder may be shared by machines with different CPUs."""
    digest = hashlib.sha256("\0".join(command).encode())
    for name in (*HEADERS, *SOURCES):
        digest.update((HERE / name).read_bytes())
    digest.update(_cpu().encode())
    return digest.hexdigest()[:16]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor() + platform.machine()
