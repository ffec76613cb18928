"""Who is compared: what each needs, imports before the clock starts, loads, and runs.

Nothing heavy is imported here: the process that only reads the table stays small.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from building import END, PROMPT
from machine import timed, wait
from ours import emulated_runtime, float_runtime, int8_runtime

if TYPE_CHECKING:
    from torch import Tensor

    from whisperq.runtime.interface import Runtime

SHORT = 16  # tokens of the shorter of two generations, where single steps cannot be timed


@dataclass(frozen=True)
class Pass:
    """One batch from features to tokens, in seconds."""

    encode: float
    token: float  # one decoder step after the prompt's
    total: float  # encoder, prompt and all tokens


RunPass = Callable[["Tensor", int], Pass]  # features, new tokens


@dataclass(frozen=True)
class Contender:
    name: str
    title: str
    product: str  # of building.PRODUCTS
    needs: tuple[str, ...]  # modules without which it is left out
    imports: tuple[str, ...]  # modules whose import is not part of loading
    load: Callable[[Path, int, ExitStack], RunPass]  # folder, threads; the stack stays open while it runs

    def missing(self) -> str | None:
        """The first module that is not installed."""
        return next((name for name in self.needs if not _found(name)), None)


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def run_steps(runtime: Runtime, features: Tensor, tokens: int) -> Pass:
    """Encode, then `tokens` greedy steps, whatever they say; the first step takes the whole prompt.

    All of it where the features are. On a GPU the host waits where a figure is taken, not between steps.
    """
    import torch

    device = features.device.type
    ids = torch.tensor([PROMPT] * len(features), device=device)
    wait(device)
    began = time.perf_counter()
    state = runtime.encode(features)
    wait(device)
    encoded = time.perf_counter()
    for step in range(tokens):
        ids = runtime.decode_step(ids, state).argmax(dim=-1, keepdim=True)
        if step == 0:
            wait(device)
            prompted = time.perf_counter()
    wait(device)
    ended = time.perf_counter()
    return Pass(encoded - began, (ended - prompted) / (tokens - 1), ended - began)


def stepwise(runtime: Runtime) -> RunPass:
    return lambda features, tokens: run_steps(runtime, features, tokens)


def load_transformers(folder: Path, threads: int, stack: ExitStack) -> RunPass:
    """Stock modules in the format that the folder holds, without the bookkeeping of `generate`."""
    from transformers import WhisperForConditionalGeneration

    from whisperq.runtime.pytorch import PyTorchRuntime

    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype="auto", attn_implementation="sdpa")
    return stepwise(PyTorchRuntime(model.eval()))


def load_float(folder: Path, threads: int, stack: ExitStack) -> RunPass:
    return stepwise(float_runtime(folder, "cpu"))


def load_emulated(folder: Path, threads: int, stack: ExitStack) -> RunPass:
    return stepwise(emulated_runtime(folder, "cpu", stack))


def load_int8(folder: Path, threads: int, stack: ExitStack) -> RunPass:
    """Its `encode` also fills cross-attention's keys and values, as others do in their first step; therefore the
    encoder alone is timed apart, by a further run of it."""
    runtime = int8_runtime(folder, "cpu")

    def run(features: Tensor, tokens: int) -> Pass:
        encoded = timed(lambda: runtime.encoded(features), "cpu")
        return replace(run_steps(runtime, features, tokens), encode=encoded)

    return run


def load_graphs(name: str) -> Callable[[Path, int, ExitStack], RunPass]:
    def load(folder: Path, threads: int, stack: ExitStack) -> RunPass:
        from whisperq.models.loading import load_config
        from whisperq.runtime.onnx.whisper import open_graphs

        runtime = open_graphs(folder, name, load_config(folder))
        _ = runtime.encoder, runtime.decoder, runtime.decoder_with_past  # else loaded when first needed
        return stepwise(runtime)

    return load


def load_ctranslate2(folder: Path, threads: int, stack: ExitStack) -> RunPass:
    import ctranslate2

    model = ctranslate2.models.Whisper(
        str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
    )

    def generate(encoded: ctranslate2.StorageView, batch: int, tokens: int) -> tuple[float, int]:
        """Seconds, and the tokens that came: max_length counts twice what Whisper's `generate` writes."""
        began = time.perf_counter()
        results = model.generate(
            encoded, [list(PROMPT)] * batch, beam_size=1, max_length=2 * tokens,
            suppress_blank=False, suppress_tokens=[END],
        )  # fmt: skip
        return time.perf_counter() - began, len(results[0].sequences_ids[0])

    def run(features: Tensor, tokens: int) -> Pass:
        """Steps cannot be timed one by one: a step is the difference of a long and a short generation."""
        view = ctranslate2.StorageView.from_array(features.numpy())
        began = time.perf_counter()
        encoded = model.encode(view)
        encode = time.perf_counter() - began
        whole, count = generate(encoded, len(features), tokens)
        short, fewer = generate(encoded, len(features), min(SHORT, tokens // 2))
        if count != tokens:
            raise RuntimeError(f"CTranslate2 wrote {count} tokens, not {tokens}")
        return Pass(encode, (whole - short) / (count - fewer), encode + whole)

    return run


class StatefulOpenVino:
    """The layout of nncf_peer, run as optimum-intel does: the past lives in the decoder's state."""

    name = "nncf"

    def __init__(self, folder: Path, threads: int) -> None:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        core = openvino.Core()
        self.tensor = openvino.Tensor
        self.encoder, self.decoder = (
            core.compile_model(folder / f"openvino_{part}_model.xml", "CPU", settings).create_infer_request()
            for part in ("encoder", "decoder")
        )

    def encode(self, features: Tensor) -> None:
        """The encoder output becomes the decoder's input; its state, of another recording, is emptied."""
        import numpy as np

        encoded = self.encoder.infer([features.numpy()], share_inputs=True, share_outputs=True)[0]
        self.decoder.reset_state()
        self.decoder.set_tensor("encoder_hidden_states", self.tensor(encoded, shared_memory=True))
        self.decoder.set_tensor("beam_idx", self.tensor(np.arange(len(features), dtype=np.int32)))

    def decode_step(self, tokens: Tensor, state: None) -> Tensor:
        import torch

        self.decoder.set_tensor("input_ids", self.tensor(tokens.numpy()))
        self.decoder.infer()
        return torch.from_numpy(self.decoder.get_output_tensor(0).data)[:, -1]


def load_nncf(folder: Path, threads: int, stack: ExitStack) -> RunPass:
    return stepwise(StatefulOpenVino(folder, threads))


STOCK = ("torch", "transformers.models.whisper.modeling_whisper", "whisperq.runtime.pytorch")
OURS = ("whisperq.models.loading", "whisperq.runtime.pytorch", "whisperq.ptq.checkpoint")
GRAPHS = ("whisperq.runtime.onnx.whisper", "whisperq.steps.export", "onnx")

CONTENDERS = {
    c.name: c
    for c in (
        Contender("transformers-float32", "transformers float32", "stock", (), STOCK, load_transformers),
        Contender("transformers-bf16", "transformers bf16", "stock-bf16", (), STOCK, load_transformers),
        Contender("float", "whisperq float32, gated", "gated", (), OURS, load_float),
        Contender("emulated", "whisperq emulated, gated", "quantized", (), OURS, load_emulated),
        Contender(
            "int8", "whisperq int8, gated", "quantized", ("whisperq.runtime.int8.whisper",),
            ("whisperq.runtime.int8.whisper",), load_int8,
        ),
        Contender(
            "onnx", "whisperq onnx, gated", "exported", (*GRAPHS, "onnxruntime"),
            ("whisperq.runtime.onnx.whisper", "onnxruntime"), load_graphs("onnx"),
        ),
        Contender(
            "openvino", "whisperq openvino, gated", "exported", (*GRAPHS, "openvino"),
            ("whisperq.runtime.onnx.whisper", "openvino"), load_graphs("openvino"),
        ),
        Contender(
            "ctranslate2", "CTranslate2 int8, ungated", "ctranslate2", ("ctranslate2",),
            ("torch", "ctranslate2"), load_ctranslate2,
        ),
        Contender(
            "nncf", "OpenVINO, NNCF INT8, ungated", "nncf", ("nncf", "openvino"), ("torch", "openvino"), load_nncf
        ),
    )
}  # fmt: skip
