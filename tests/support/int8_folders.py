"""Quantized folders opened in integers, with and without the compiled kernels."""

import pytest
import torch

from whisperq.runtime.int8.whisper import Int8Runtime

NATIVE = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU multiplies no bf16")


def opened(folder, attention_dtype: str = "float32", reduce_range: bool | None = None) -> Int8Runtime:
    return Int8Runtime.load(folder, "cpu", attention_dtype, reduce_range)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative difference of logits (steps, batch, vocabulary): the median over the batch.

    The median, because in so small a network one code that lies on a tie moves all logits of its utterance by percents.
    """
    apart = (found - expected).abs().mean(dim=(0, 2)) / expected.abs().mean(dim=(0, 2))
    return float(apart.median())
