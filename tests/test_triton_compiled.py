"""The Triton kernels compile for GPUs, without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.slow
def test_each_kernel_compiles_for_gpus():
    """Ahead of time, with the assembler that Triton brings: INT8 instructions, whole vectors, no spilt registers."""
    script = Path(__file__).parent / "support" / "triton_compiled.py"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "compiled"
