"""What not every CPU computes: tests of it are skipped on others, with the reason."""

import pytest
import torch

from whisperq.native import processor
from whisperq.runtime.int8.native_kernels import NativeKernels

NO_VNNI = "without VNNI PyTorch's sums of eight-bit products saturate, of which whisperq keeps away"


def needs_vnni(bits: int = 8) -> None:
    """Of a product by PyTorch, or oneDNN, whose inputs have so many bits."""
    if bits > 7 and processor.saturates():
        pytest.skip(NO_VNNI)


def needs_bf16(kernels: NativeKernels, dtype: torch.dtype = torch.bfloat16) -> None:
    if dtype == torch.bfloat16 and not kernels.multiplies_bf16:
        pytest.skip("this CPU multiplies no bfloat16")
