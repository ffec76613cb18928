"""whisperq's own runtimes, opened on a device; PyTorch and whisperq are imported when one is."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisperq.runtime.int8.whisper import Int8Runtime
    from whisperq.runtime.pytorch import PyTorchRuntime


def float_runtime(folder: Path, device: str) -> PyTorchRuntime:
    """A float model in float32."""
    import torch

    from whisperq.models.loading import load_model
    from whisperq.runtime.pytorch import PyTorchRuntime

    return PyTorchRuntime(load_model(folder, torch.float32, device))


def emulated_runtime(folder: Path, device: str, stack: ExitStack) -> PyTorchRuntime:
    """A quantized model in float32, its activations on their grids as long as the stack is open."""
    import torch

    from whisperq.models.sites import model_sites, watch
    from whisperq.ptq.checkpoint import load_quantized, quantizers
    from whisperq.runtime.pytorch import PyTorchRuntime

    model, quantization = load_quantized(folder, torch.float32, device)
    stack.enter_context(watch(model, model_sites(model), quantizers(quantization.activations)))
    return PyTorchRuntime(model, "emulated")


def int8_runtime(folder: Path, device: str) -> Int8Runtime:
    """A quantized model in integers, not compared with the CPU's, so that one that computes wrongly can be seen."""
    from whisperq.runtime.int8.whisper import Int8Runtime

    return Int8Runtime.load(folder, device)
