"""An exported model, Whisper above all, run by ONNX Runtime or by OpenVINO."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from whisperq import artifact
from whisperq.errors import InputError, UsageError
from whisperq.native import processor
from whisperq.options import Execution
from whisperq.runtime.interface import Products
from whisperq.runtime.long_form import AnyRuntime
from whisperq.runtime.onnx.engines import Engine, Network
from whisperq.runtime.onnx.integer_matmuls import executed_products
from whisperq.runtime.pipeline import OUTPUTS, named, output_of
from whisperq.runtimes import RUNTIMES

ENCODER, DECODER, WITH_PAST = OUTPUTS["tokens"].graphs
FOLDER = "onnx"
TITLES = {"onnx": "ONNX", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def require(library: str, extra: str, what: str) -> None:
    """Raises UsageError where an optional library is not installed."""
    if find_spec(library) is None:
        raise UsageError(f'{what} needs {TITLES.get(library, library)}: pip install "whisperq[{extra}]"')


def open_runtime(folder: Path, name: str, config: PreTrainedConfig, execution: Execution, device: str) -> AnyRuntime:
    """Open the exported model in `folder` with `open_graphs`; it always runs on the CPU, whatever `device` says."""
    return open_graphs(folder, name, config, execution.attention_dtype)


def open_graphs(folder: Path, name: str, config: PreTrainedConfig, attention_dtype: str = "auto") -> AnyRuntime:
    """The exported model in `folder`, run by the engine of the runtime `name`. Raises InputError and UsageError."""
    output, entry = output_of(config), RUNTIMES[name]
    paths = {graph: folder / FOLDER / f"{graph}.onnx" for graph in output.graphs}
    for path in paths.values():
        if not path.is_file():
            raise InputError(f"{folder} is no exported model: it lacks {path.relative_to(folder)}")
    for library in entry.libraries:
        require(library, name, f"--runtime {name}")
    if name == "openvino" and getattr(config, "conv_pos_batch_norm", False) and processor.saturates():
        if "pos_conv" in artifact.load(folder, "onnx", verify=False).results["integer_products"]:
            raise UsageError(
                "on a CPU without VNNI, OpenVINO computes quantized positional convolutions with a batch norm wrongly; "
                "run this model with --runtime onnx"
            )
    return named(output.run_graphs)(named(entry.engine)(attention_dtype), paths, config)


def run_whisper(engine: Engine, paths: Mapping[str, Path], config: PreTrainedConfig) -> "GraphRuntime":
    return GraphRuntime(engine, paths, (config.num_mel_bins, 2 * config.max_source_positions))


@dataclass
class DecoderState:
    """State between decoding steps, as the engine's own values."""

    encoded: Any  # (batch, frames, d_model)
    batch: int
    past: dict[str, Any] = field(default_factory=dict)  # past_key_values.<i>.{decoder,encoder}.{key,value}


@dataclass
class GraphRuntime:
    """Encoder, decoder of the prompt, and decoder with a past; each is loaded when it is first needed.

    The two decoders are separate to both engines, so that their weights are in memory twice.
    """

    engine: Engine
    paths: Mapping[str, Path]
    window: tuple[int, int]  # mel bins and frames, which are fixed in the encoder's graph
    notices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.engine.name

    @cached_property
    def encoder(self) -> Network:
        return self.engine.load(self.paths[ENCODER])

    @cached_property
    def decoder(self) -> Network:
        return self.engine.load(self.paths[DECODER])

    @cached_property
    def decoder_with_past(self) -> Network:
        return self.engine.load(self.paths[WITH_PAST])

    def encode(self, features: Tensor) -> DecoderState:
        """features (batch, mel bins, frames). Raises InputError for features of another model."""
        if tuple(features.shape[1:]) != self.window:
            raise InputError(f"the exported encoder takes features {self.window}, not {tuple(features.shape[1:])}")
        inputs = {"input_features": self.engine.value(features.to(torch.float32).numpy())}
        return DecoderState(self.encoder.run(inputs)["last_hidden_state"], len(features))

    def decode_step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """tokens (batch, new tokens) -> logits (batch, vocabulary), float32, after the last."""
        inputs = {"input_ids": self.engine.value(tokens.to(torch.int64).numpy())}
        if state.past:
            outputs = self.decoder_with_past.run(inputs | state.past)
        else:
            outputs = self.decoder.run(inputs | {"encoder_hidden_states": state.encoded})
        logits = self.engine.array(outputs.pop("logits"))
        # cross-attention's keys and values come with the first step and stay
        state.past |= {name.replace("present", "past_key_values"): value for name, value in outputs.items()}
        return torch.from_numpy(np.array(logits[:, -1], np.float32))

    def branch(self, state: DecoderState, rows: Tensor) -> None:
        moved = [name for name in state.past if ".decoder." in name or len(rows) != state.batch]
        chosen = {name: self.engine.array(state.past[name])[rows.numpy()] for name in moved}
        state.past |= {name: self.engine.value(array) for name, array in chosen.items()}
        state.batch = len(rows)

    def products(self) -> Products:
        return self._products

    @cached_property
    def _products(self) -> Products:
        """Products that run, each counted once: of the prompt's decoder only cross-attention's keys and values."""
        far = (".cross.k_proj", ".cross.v_proj")
        return executed_products(
            self.engine, self.paths, "proj_out", lambda graph, address: graph != DECODER or address.endswith(far)
        )
