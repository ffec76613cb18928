"""Who is compared on wav2vec 2.0: one pass from waveforms to logits, which is all there is to a CTC model."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contenders import GRAPHS, Contender

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CtcPass:
    """One batch from waveforms to logits, in seconds."""

    total: float


RunCtcPass = Callable[["Tensor", int], CtcPass]  # waveforms (batch, samples); the number of tokens says nothing here


def timed(run: Callable[[Tensor], object]) -> RunCtcPass:
    def once(waveforms: Tensor, tokens: int) -> CtcPass:
        began = time.perf_counter()
        run(waveforms)
        return CtcPass(time.perf_counter() - began)

    return once


def load_transformers(folder: Path, threads: int, stack: ExitStack) -> RunCtcPass:
    """Stock modules in the format that the folder holds."""
    from transformers import Wav2Vec2ForCTC

    model = Wav2Vec2ForCTC.from_pretrained(folder, dtype="auto", attn_implementation="sdpa").eval()
    return timed(lambda waveforms: model(waveforms.to(model.dtype)).logits)


def load_int8(folder: Path, threads: int, stack: ExitStack) -> RunCtcPass:
    from whisperq.runtime.int8.ctc import Int8Ctc

    return timed(Int8Ctc.load(folder, "cpu").logits)


def load_graphs(name: str) -> Callable[[Path, int, ExitStack], RunCtcPass]:
    def load(folder: Path, threads: int, stack: ExitStack) -> RunCtcPass:
        from whisperq.models.loading import load_config
        from whisperq.runtime.onnx.whisper import open_graphs

        runtime = open_graphs(folder, name, load_config(folder))
        _ = runtime.network  # else loaded when first needed
        return timed(runtime.logits)

    return load


STOCK = ("torch", "transformers.models.wav2vec2.modeling_wav2vec2")

CTC_CONTENDERS = {
    c.name: c
    for c in (
        Contender("transformers-float32", "transformers float32", "stock", (), STOCK, load_transformers),
        Contender("transformers-bf16", "transformers bf16", "stock-bf16", (), STOCK, load_transformers),
        Contender(
            "int8", "whisperq int8", "quantized", ("whisperq.runtime.int8.ctc",),
            ("whisperq.runtime.int8.ctc",), load_int8,
        ),
        Contender(
            "onnx", "whisperq onnx", "exported", (*GRAPHS, "onnxruntime"),
            ("whisperq.runtime.onnx.whisper", "onnxruntime"), load_graphs("onnx"),
        ),
        Contender(
            "openvino", "whisperq openvino", "exported", (*GRAPHS, "openvino"),
            ("whisperq.runtime.onnx.whisper", "openvino"), load_graphs("openvino"),
        ),
    )
}  # fmt: skip
