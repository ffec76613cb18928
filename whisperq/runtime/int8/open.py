"""What every runtime in integers begins with: the model's codes, and the kernels that this machine has for them."""

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from whisperq.errors import UsageError
from whisperq.native import processor
from whisperq.native.build import NoKernels, library
from whisperq.options import Execution
from whisperq.ptq.arrays import Stored, open_stored
from whisperq.runtime.int8.kernels import Kernels
from whisperq.runtime.int8.native_kernels import NativeKernels
from whisperq.runtime.int8.native_tokens import TokenKernels
from whisperq.runtime.int8.proof import require_alike
from whisperq.runtime.int8.torch_kernels import TorchKernels
from whisperq.runtime.long_form import AnyRuntime
from whisperq.runtime.pipeline import named, output_of


@dataclass(frozen=True)
class Choice:
    """How operations between integer products are computed: kernels, and the number format of attention."""

    kernels: Kernels
    attention: torch.dtype
    notices: tuple[str, ...] = ()


def open_runtime(folder: Path, name: str, config: PreTrainedConfig, execution: Execution, device: str) -> AnyRuntime:
    """The quantized model in `folder` with its products in integers. Raises InputError, UsageError and KernelError.

    On a GPU it has to compute what the CPU computes: each kernel may be right, and what moves their tensors wrong.
    """
    integers = named(output_of(config).integers)

    def load(device: str, reduce_range: bool | None) -> AnyRuntime:
        return integers.load(folder, device, execution.attention_dtype, reduce_range)

    made = load(device, execution.reduce_range)
    if device == "cpu":
        keep_freed_memory()  # from now on: what packing needed for a moment goes back
        return made
    on_cpu = choose_kernels("cpu", execution.attention_dtype).kernels
    reduced = True if saturates("cpu", on_cpu) else execution.reduce_range  # on both, where the CPU has no more
    same = made if reduced == execution.reduce_range else load(device, reduced)
    require_alike(same.trial(), load("cpu", reduced).trial(), device)
    return made


def saturates(device: str, kernels: Kernels) -> bool:
    """Whether sums of eight-bit products may: on a CPU without VNNI, where no compiled kernels are exact without it."""
    exact = isinstance(kernels, NativeKernels) and kernels.multiplies_all
    return device == "cpu" and not processor.has_vnni() and not exact


def open_integers(folder: Path, device: str, choice: Choice, reduce_range: bool | None) -> tuple[Stored, list[str]]:
    """A model for integer products, and what a user should know of it and of the kernels.

    Raises InputError for a folder that cannot be read, UsageError for a model that has no integer form.
    """
    notices = list(choice.notices)
    if reduce_range is None and saturates(device, choice.kernels):
        reduce_range = True
        notices.append("this CPU lacks VNNI: activations have 7 bits here, so that sums of products cannot saturate")
    stored = open_stored(folder, most_bits=7 if reduce_range else 8)
    if any(grid["quant_min"] == 0 for grid in stored.weights.values()):
        raise UsageError(
            f"{folder} has asymmetric weights, as the paper recipe makes them, which no integer kernel takes; "
            "run it with --runtime emulated, or whisperq quantize --recipe gemm"
        )
    return stored, notices


def check_gelu(folder: Path, functions: Sequence[str]) -> None:
    """Raises UsageError where the model has another activation function."""
    for function in functions:
        if function != "gelu":
            raise UsageError(f"{folder} uses the activation function {function}; --runtime int8 knows gelu alone")


def choose_kernels(device: str, attention_dtype: str) -> Choice:
    """The compiled kernels where there are any; attention_dtype: auto, float32 or bfloat16."""
    kernels: Kernels = TorchKernels()
    notices: tuple[str, ...] = ()
    fast_bf16 = device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if device != "cpu":
        kernels, notices = gpu_kernels(device)
    else:
        try:
            native = TokenKernels(library())
            fast_bf16 = native.multiplies_bf16
            # What the compiled kernels do not do is left to PyTorch whole.
            kernels = kernels if attention_dtype == "bfloat16" and not fast_bf16 else native
        except NoKernels as reason:
            notices = (f"{reason}: norms and attention run as separate PyTorch operators, slower",)
    name = attention_dtype if attention_dtype != "auto" else "bfloat16" if fast_bf16 else "float32"
    return Choice(kernels, getattr(torch, name), notices)


def gpu_kernels(device: str) -> tuple[Kernels, tuple[str, ...]]:
    """Triton's, after one of each kind has run; else PyTorch's operators, and the reason."""
    try:
        from whisperq.runtime.int8.triton_kernels import TritonKernels

        kernels = TritonKernels()
        kernels.try_out(device)
    except Exception as reason:  # of a compiler, a driver or a card, each with errors of its own
        what = str(reason).strip().splitlines() or [type(reason).__name__]
        return TorchKernels(), (f"no Triton kernels here ({what[0]}): separate PyTorch operators, slower",)
    return kernels, ()


def keep_freed_memory() -> None:
    """Let glibc keep what layers free for the next one: else each large tensor is mapped anew, page by page."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
