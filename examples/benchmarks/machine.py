"""The machine and the software that the numbers belong to, and this process's share of it."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "whisperq", "torch", "transformers", "numpy", "onnx", "onnxruntime", "openvino", "ctranslate2", "nncf",
)  # fmt: skip
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def describe() -> dict[str, Any]:
    processor = _cpuinfo()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": processor.get("model name", platform.processor() or "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "flags": {flag: flag in processor.get("flags", "").split() for flag in FLAGS},
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: installed for name in PACKAGES if (installed := _version(name))},
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in first.splitlines())}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def wait(device: str) -> None:
    """Until the device has done what it was given: a GPU works on while the host goes ahead."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def timed(run: Callable[[], Any], device: str) -> float:
    """Seconds of one run."""
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def thread_settings(threads: int) -> dict[str, str]:
    """Environment of every worker; nobody's waiting threads are told how to wait: one worker runs at a time."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


def use_cores(count: int) -> None:
    """Keep this process on `count` cores: for libraries that ask for the cores and not for the settings."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def resident_bytes(field: str) -> int:
    """VmRSS, what this process holds in memory now, pages of mapped files included, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def clear_peak_memory() -> int:
    """Let VmHWM start again; returns the bytes that are resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes("VmRSS")


class OtherWork:
    """How many cores other processes keep busy from here on: what spoils a measurement."""

    def __init__(self) -> None:
        self.began, self.others = time.monotonic(), _seconds_of_others()

    def cores(self) -> float:
        return max(0.0, _seconds_of_others() - self.others) / (time.monotonic() - self.began)


def _seconds_of_others() -> float:
    """CPU seconds of the whole machine, stolen ones included, less this process's own."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()
