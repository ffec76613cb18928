"""Runtimes: what runs a model, and what is known of each before a model is opened. One entry is one runtime.

A runtime of its own kind names in `opens` a function of whisperq, `module:function`, which is imported when it is used:

    (folder: Path, name: str, config: PreTrainedConfig, execution: Execution, device: str) -> AnyRuntime

One that runs exported graphs opens them as the others do, and names its `Engine` (runtime/onnx/engines.py) in `engine`.
"""

from dataclasses import dataclass

GRAPHS = "runtime.onnx.whisper:open_runtime"


@dataclass(frozen=True)
class RuntimeEntry:
    """A runtime by the name that --runtime takes."""

    name: str
    runs: str  # kind of model folder: float, quantized or onnx (exported)
    integers: bool  # computes products in integers, and tells which
    takes: tuple[str, ...] = ()  # settings of `Execution` that it heeds, and others need not
    opens: str = ""  # none: the PyTorch module itself, whose sites can be watched
    engine: str = ""
    libraries: tuple[str, ...] = ()  # which it needs beside whisperq's own: the extra of the runtime's name
    cuda: bool = True


ENTRIES = (
    RuntimeEntry("float", "float", integers=False, takes=("padding",)),
    RuntimeEntry("emulated", "quantized", integers=False, takes=("padding",)),
    RuntimeEntry("int8", "quantized", True, ("padding", "reduce_range"), "runtime.int8.open:open_runtime"),
    RuntimeEntry(
        "onnx", "onnx", True, (), GRAPHS, "runtime.onnx.engines:OnnxRuntime", ("onnxruntime", "onnx"), cuda=False
    ),
    RuntimeEntry("openvino", "onnx", True, (), GRAPHS, "runtime.onnx.engines:OpenVino", ("openvino",), cuda=False),
)
RUNTIMES = {entry.name: entry for entry in ENTRIES}


def running(kind: str) -> tuple[str, ...]:
    """The runtimes of a kind of model folder, the default first."""
    return tuple(entry.name for entry in ENTRIES if entry.runs == kind)


def taking(setting: str) -> str:
    """The runtimes that heed a setting of `Execution`, as a sentence names them."""
    *others, last = (entry.name for entry in ENTRIES if setting in entry.takes)
    return f"{', '.join(others)} and {last}" if others else last


def tells_products(name: str) -> bool:
    """Whether the products that a runtime multiplied in integers are worth a table; one that is gone told them."""
    return name not in RUNTIMES or RUNTIMES[name].integers
