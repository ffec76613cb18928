"""The kernels for AVX512 and AMX, on any CPU: support/instructions.h has their instructions in plain C++.

That shows the code to be right; not what a compiler makes of the real instructions, and nothing about speed.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
INSTRUCTIONS = TESTS / "support" / "instructions.h"
# What a CPU is to have, and what its kernels then say of themselves: for how many rows they are best, whether they take
# any number, and how they multiply bf16 (0: not, 1: in registers, 2: in matrix tiles).
LIKE = {
    "VNNI": (("VNNI",), (8, 0, 0)),
    "bf16": (("VNNI", "BF16"), (8, 0, 1)),
    "tiles": (("VNNI", "BF16", "AMX"), (8, 0, 2)),
}
CHOSEN = (
    "test_kernels.py",
    "test_learned_attention.py",
    "test_wide_products.py::test_the_products_are_exact",
    "test_dynamic_integers.py::test_products_are_sums_of_integers",
)
# The compiler is told last what this CPU itself has not; kernels "without" tiles are those of another entry of LIKE.
COMPILER = """#!/bin/sh
exec "{compiler}" "$@" -mno-avx512f -mno-amx-tile -Wno-psabi -include "{instructions}" {like}
"""
SAID = """
from whisperq.native.build import library
kernels = library()
print(kernels.most_rows(), kernels.any_rows(), kernels.bf16_products())
"""


@pytest.fixture(scope="module", params=LIKE)
def like(request, tmp_path_factory):
    """What runs Python where kernels are compiled for another CPU, and what those say of themselves."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None or not torch.cpu._is_avx2_supported():
        pytest.skip("it takes a C++ compiler and AVX2")
    place = tmp_path_factory.mktemp("compiler")
    parts, said = LIKE[request.param]
    script = place / "c++"
    flags = " ".join(f"-DLIKE_{part}" for part in parts)
    script.write_text(COMPILER.format(compiler=compiler, instructions=INSTRUCTIONS, like=flags))
    script.chmod(0o700)
    environment = os.environ | {
        "CXX": str(script), "XDG_CACHE_HOME": str(place),
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=TESTS)

    return run, said


def test_they_are_the_other_cpus(like):
    """Else the run below would prove nothing."""
    run, said = like
    done = run("-c", SAID)
    assert done.returncode == 0, done.stderr[-2000:]
    assert tuple(int(number) for number in done.stdout.split()) == said


def test_they_compute_what_they_should(like):
    run, _ = like
    plugins = ("-p", "no:cacheprovider", "-p", "support.without_onednn")
    done = run("-m", "pytest", *plugins, "-k", "not without", *CHOSEN)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
