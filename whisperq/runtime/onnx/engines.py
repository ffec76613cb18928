"""ONNX Runtime and OpenVINO behind one face: load a graph, run it, and tell what became of its products."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from whisperq.errors import InputError, UsageError
from whisperq.native import processor

# Operators of an optimised ONNX Runtime graph that multiply matrices: of integers, and of floats.
INTEGER_OPERATORS = (
    "MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm",
    "QLinearConv", "ConvInteger", "QAttention",
)  # fmt: skip
FLOAT_OPERATORS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv", "Attention", "MultiHeadAttention")
# The same of OpenVINO, where the executed precision tells them apart; attention is one Subgraph.
PRODUCT_LAYERS = ("FullyConnected", "MatMul", "Convolution", "Subgraph", "ScaledDotProductAttention")
# Where it says this, it has made one weight's codes unsigned, and meets the weight a second time.
TWICE = "Attempt to replace the existing tensor"


@dataclass(frozen=True)
class Executed:
    """One product as the engine runs it: names of the graph's values that it computes, and its operator."""

    values: tuple[str, ...]
    operator: str
    integer: bool


class Network(Protocol):
    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the graph: outputs by name; inputs and outputs are the engine's own values."""


class Engine(Protocol):
    """Loads graphs from files; made with an attention_dtype, auto, float32 or bfloat16.

    Every method raises InputError for a file that the engine refuses.
    """

    name: str

    def load(self, path: Path) -> Network: ...

    def value(self, array: np.ndarray) -> Any:
        """An array as the engine's own value."""

    def array(self, value: Any) -> np.ndarray: ...

    def executed(self, path: Path) -> Iterator[Executed]:
        """All products of the graph as it is executed."""


class OnnxRuntime:
    """ONNX Runtime on the CPU, in float32 where it does not multiply integers."""

    name = "onnx"

    def __init__(self, attention_dtype: str = "auto") -> None:
        """Raises UsageError for an attention_dtype that it does not compute."""
        if attention_dtype == "bfloat16":
            raise UsageError("--runtime onnx computes attention in float32; leave --attention-dtype at auto")
        import onnxruntime

        self.library = onnxruntime

    def load(self, path: Path) -> "OnnxRuntimeNetwork":
        return OnnxRuntimeNetwork(self._session(path, self._options()))

    def value(self, array: np.ndarray) -> Any:
        return self.library.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))

    def array(self, value: Any) -> np.ndarray:
        return value.numpy()

    def executed(self, path: Path) -> Iterator[Executed]:
        import onnx

        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / "optimised.onnx"
            options = self._options()
            options.optimized_model_filepath = str(optimised)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
            self._session(path, options)
            graph = onnx.load(optimised, load_external_data=False).graph
        for node in graph.node:
            if node.op_type in INTEGER_OPERATORS + FLOAT_OPERATORS:
                yield Executed((node.name, *node.output), node.op_type, node.op_type in INTEGER_OPERATORS)

    def _options(self) -> Any:
        options = self.library.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait in a loop slow down whatever else computes here, our own feature extraction included.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; it warns of its own fallbacks
        if processor.saturates():  # products of u8 and s8; those of u8 and u8 do not
            options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    def _session(self, path: Path, options: Any) -> Any:
        try:
            return self._open(path, options)
        except InputError as error:
            if TWICE not in str(error.__cause__):
                raise
        warnings.warn(
            f"{path}: a weight of it serves two products, which ONNX Runtime cannot multiply in integers on a CPU "
            "without VNNI; all of its products are computed in float. A new whisperq export makes a graph that can be",
            stacklevel=3,
        )
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return self._open(path, options)

    def _open(self, path: Path, options: Any) -> Any:
        try:
            return self.library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a dozen kinds without a common parent
            raise InputError(f"ONNX Runtime cannot read {path}: {_one_line(error)}") from error


@dataclass(frozen=True)
class OnnxRuntimeNetwork:
    session: Any

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run_with_ort_values(names, dict(inputs)), strict=True))


class OpenVino:
    """OpenVINO on the CPU; what is float in the graph, attention above all, is computed in `attention_dtype`.

    auto is the engine's choice: bfloat16 where the processor multiplies it. Inputs and outputs stay float32. Without
    VNNI its sums of eight-bit products saturate, to other logits, so that there the rounded values are multiplied in
    float.
    """

    name = "openvino"

    def __init__(self, attention_dtype: str = "auto") -> None:
        import openvino

        self.library, self.core = openvino, openvino.Core()
        self.settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        if processor.saturates():
            self.settings["LP_TRANSFORMS_MODE"] = "NO"
        if attention_dtype != "auto":
            self.settings["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16"}[attention_dtype]
        self._compiled: dict[Path, tuple[Any, tuple[str, ...]]] = {}

    def load(self, path: Path) -> "OpenVinoNetwork":
        model, names = self._model(path)
        return OpenVinoNetwork(self.library, model.create_infer_request(), names)

    def value(self, array: np.ndarray) -> Any:
        return self.library.Tensor(np.ascontiguousarray(array))

    def array(self, value: Any) -> np.ndarray:
        return value.data

    def executed(self, path: Path) -> Iterator[Executed]:
        for node in self._model(path)[0].get_runtime_model().get_ordered_ops():
            entry = {key: node.rt_info[key].astype(str) for key in ("layerType", "runtimePrecision")}
            if entry["layerType"] in PRODUCT_LAYERS:
                values = tuple(node.rt_info["originalLayersNames"].astype(str).split(","))
                yield Executed(values, entry["layerType"], entry["runtimePrecision"] in ("i8", "u8"))

    def _model(self, path: Path) -> tuple[Any, tuple[str, ...]]:
        """The compiled graph, and the names of its outputs: compiling may give one the name of what it computes."""
        if path not in self._compiled:
            try:
                graph = self.core.read_model(path)
                names = tuple(output.get_any_name() for output in graph.outputs)
                self._compiled[path] = self.core.compile_model(graph, "CPU", self.settings), names
            except RuntimeError as error:
                raise InputError(f"OpenVINO cannot read {path}: {_one_line(error)}") from error
        return self._compiled[path]


@dataclass(frozen=True)
class OpenVinoNetwork:
    library: Any
    request: Any
    names: tuple[str, ...]  # of the outputs

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        for name, value in inputs.items():
            self.request.set_tensor(name, value)
        self.request.infer()
        outputs = zip(self.names, self.request.model_outputs, strict=True)
        return {name: self._kept(self.request.get_tensor(output)) for name, output in outputs}

    def _kept(self, tensor: Any) -> Any:
        """A copy: the request writes its next outputs into the same memory."""
        copy = self.library.Tensor(tensor.element_type, tensor.shape)
        tensor.copy_to(copy)
        return copy


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
