"""The kernels compiled with AddressSanitizer, which stops at the first access beyond a tensor: their tests once more.

WHISPERQ_SANITIZE=address LD_PRELOAD=$(c++ -print-file-name=libasan.so) python -m pytest tests/test_kernels.py
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
OVERFLOW = """
import torch
from whisperq.quant.grid import range_qparams
from whisperq.runtime.int8.grids import Grid
from whisperq.native.build import library
from whisperq.runtime.int8.native_kernels import CGrid, NativeKernels, _Out
kernels, x, codes = NativeKernels(library()), torch.zeros(64), torch.zeros(60, dtype=torch.uint8)
kernels.library.quantize(x.data_ptr(), 64, _Out(codes.data_ptr(), None, CGrid(1.0, 0.0, 255.0)))
"""


def sanitized(*command: str) -> subprocess.CompletedProcess[str]:
    """A Python that loads AddressSanitizer first, as its shared library demands."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        pytest.skip("no C++ compiler is at hand")
    ask = [subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
           for name in ("libasan.so", "libstdc++.so")]  # fmt: skip
    if not Path(ask[0]).is_absolute():
        pytest.skip("the compiler has no libasan.so")
    environment = os.environ | {
        "WHISPERQ_SANITIZE": "address", "LD_PRELOAD": " ".join(ask), "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    probe = subprocess.run([sys.executable, "-c", ""], env=environment, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"AddressSanitizer does not start here: {probe.stderr[-200:]}")
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=TESTS.parent)


def test_an_overflow_is_found():
    """Else the run below would prove nothing."""
    done = sanitized("-c", OVERFLOW)
    assert done.returncode != 0 and "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr[-2000:]


def test_the_kernels_stay_inside_their_tensors():
    chosen = "not without"  # what the CPU has matrix tiles for is left to one of both builds
    done = sanitized("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_kernels.py", "-k", chosen)
    assert done.returncode == 0 and "AddressSanitizer" not in done.stderr, done.stdout[-2000:] + done.stderr[-2000:]
    assert " passed" in done.stdout or "100%" in done.stdout
