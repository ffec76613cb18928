"""The C++ kernels of this folder, compiled once for this machine and kept in the user's cache."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

HERE = Path(__file__).parent
SOURCES = ("rows.cpp", "products.cpp", "tokens.cpp", "decoding.cpp", "attention.cpp")
HEADERS = ("common.h", "few_rows.h")
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
    path = _cache() / f"kernels-{_digest(command)}.so"
    if not path.is_file():
        _compile(command, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoKernels(f"the compiled kernels cannot be loaded ({error})") from error


def sanitizer() -> tuple[str, ...]:
    """WHISPERQ_SANITIZE=address: kernels that stop at the first access beyond a tensor; libasan must be preloaded."""
    kind = os.environ.get("WHISPERQ_SANITIZE")
    return (f"-fsanitize={kind}", "-fno-omit-frame-pointer", "-g", "-O1") if kind else ()


def _compile(command: list[str], path: Path) -> None:
    """Compile beside and rename: two processes may do so at once."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
        made = Path(folder) / path.name
        try:
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
        except OSError as error:
            raise NoKernels(f"{command[0]} cannot be run ({error})") from error
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[0]
            raise NoKernels(f"{command[0]} cannot compile the kernels ({reason})")
        os.replace(made, path)


def _digest(command: list[str]) -> str:
    """Of sources, command and CPU: a home folder may serve nodes of several kinds."""
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


def _cache() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisperq"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="whisperq-"))  # a home that cannot be written: compiled for this process
