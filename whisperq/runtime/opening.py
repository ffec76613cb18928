"""Any model folder, float, quantized or exported, opened for use by a runtime."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import GenerationConfig, WhisperProcessor

from whisperq import artifact
from whisperq.data.batches import Loader
from whisperq.data.tokens import make_codec
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError
from whisperq.flags import Context
from whisperq.models.gated_whisper import GatedWhisperConfig, GatedWhisperForConditionalGeneration
from whisperq.models.loading import compute_device, compute_dtype, load_config, load_model, load_processor
from whisperq.models.sites import model_sites, watch
from whisperq.options import Execution
from whisperq.runtime.decoding import Rules, make_rules
from whisperq.runtime.interface import Runtime
from whisperq.runtime.pytorch import PyTorchRuntime
from whisperq.runtime.quantized import load_quantized, quantizers
from whisperq.runtime.transcription import Hypothesis, transcribe

# Kind of model -> what runs it, the default first.
RUNTIMES = {"float": ("float",), "quantized": ("emulated", "int8"), "onnx": ("onnx", "openvino")}

Listen = Callable[[Sequence[Utterance]], Iterable[Hypothesis]]


@dataclass(frozen=True)
class Opened:
    """A model ready to run; its runtime is valid inside `open_model` or `open_runtime` only."""

    processor: WhisperProcessor
    loader: Loader
    rules: Rules
    runtime: Runtime


@dataclass(frozen=True)
class OpenedModel(Opened):
    """A model whose sites can be watched."""

    model: GatedWhisperForConditionalGeneration


@dataclass(frozen=True)
class Description:
    """What decoding must know of a model that is no PyTorch module."""

    config: GatedWhisperConfig
    generation_config: GenerationConfig


def kind_of(folder: Path) -> str:
    """float, quantized, or onnx: an exported one."""
    # Its files were checked when the step named it as an input.
    kind = artifact.load(folder, verify=False).kind if artifact.is_artifact(folder) else "float"
    return kind if kind in ("quantized", "onnx") else "float"


@contextmanager
def open_runtime(folder: Path, execution: Execution, context: Context, skip_bad: bool = False) -> Iterator[Opened]:
    """Raises UsageError for a runtime that this folder has none for, InputError for a folder that cannot be used."""
    kind = kind_of(folder)
    name = execution.runtime or RUNTIMES[kind][0]
    if name not in RUNTIMES[kind]:
        fitting = " or ".join(RUNTIMES[kind])
        raise UsageError(f"{folder} holds a {kind} model; it runs with --runtime {fitting}, not {name}")
    if execution.reduce_range is not None and name != "int8":
        raise UsageError(f"--reduce-range is for --runtime int8, not for {name}")
    if execution.attention_dtype != "auto" and name in ("float", "emulated"):
        raise UsageError(f"--attention-dtype is for runtimes in integers; of {name} --dtype is the number format")
    if name in ("float", "emulated"):
        with open_model(folder, context, skip_bad) as opened:
            yield opened
        return
    described = Description(load_config(folder), GenerationConfig.from_pretrained(folder))
    if name == "int8":
        from whisperq.runtime.int8 import Int8Runtime

        device = compute_device(context.device)
        runtime: Runtime = Int8Runtime.load(folder, device, execution.attention_dtype, execution.reduce_range)
    else:
        from whisperq.runtime.graphs import open_graphs

        if context.device == "cuda":
            raise UsageError(f"--runtime {name} runs on the CPU, not with --device cuda")
        device, runtime = "cpu", open_graphs(folder, name, described.config, execution.attention_dtype)
    yield Opened(*_around(folder, described, context, device, skip_bad), runtime)


@contextmanager
def open_model(folder: Path, context: Context, skip_bad: bool = False) -> Iterator[OpenedModel]:
    """Load a float model, or a quantized one with its activations emulated while inside. Raises InputError."""
    device, dtype = compute_device(context.device), compute_dtype(context.dtype)
    watchers = {}
    if kind_of(folder) == "onnx":
        raise InputError(f"{folder} holds an exported model; name the model that it was made from")
    if kind_of(folder) == "quantized":
        model, quantization = load_quantized(folder, dtype, device)
        model.generation_config = GenerationConfig.from_pretrained(folder)
        watchers = quantizers(quantization.activations)
    else:
        model = load_model(folder, dtype, device)
    around = _around(folder, model, context, device, skip_bad)
    runtime = PyTorchRuntime(model, "emulated" if kind_of(folder) == "quantized" else "float")
    with watch(model, model_sites(model), watchers):
        yield OpenedModel(*around, runtime, model)


def _around(
    folder: Path, model, context: Context, device: str, skip_bad: bool
) -> tuple[WhisperProcessor, Loader, Rules]:
    processor = load_processor(folder)
    codec = make_codec(processor, model, context.language, context.task)
    loader = Loader(processor.feature_extractor, codec, device, skip_bad)
    return processor, loader, make_rules(codec, model.generation_config)


def with_hypotheses(
    opened: Opened, utterances: Sequence[Utterance], size: int, listen: Listen | None = None
) -> list[Utterance]:
    """The same utterances, each without a reference given its greedy hypothesis; `listen` where several share that."""
    silent = [u for u in utterances if u.text is None]
    found = listen(silent) if listen else transcribe(opened.runtime, opened.loader, opened.rules, silent, size)
    texts = {h.utterance.origin: h.text for h in found}
    return [replace(u, text=texts.get(u.origin)) if u.text is None else u for u in utterances]
