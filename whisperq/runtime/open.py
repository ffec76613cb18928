"""Any model folder, float, quantized or exported, opened for use by a runtime."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel

from whisperq.data.batches import Loader
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError
from whisperq.models.loading import compute_device, compute_dtype, load_model, load_processor
from whisperq.models.sites import model_sites, watch
from whisperq.options import Execution
from whisperq.preconditions import check_runtime, kind_of
from whisperq.ptq.checkpoint import load_quantized, quantizers
from whisperq.runtime.decoding import Rules
from whisperq.runtime.detection import spoken
from whisperq.runtime.fallback import ONCE, Care
from whisperq.runtime.padding import Short, noise
from whisperq.runtime.pipeline import Description, Processor, make_loader, named, output_of
from whisperq.runtime.transcription import AnyRules, AnyRuntime, Hypothesis, transcribe
from whisperq.runtimes import RUNTIMES
from whisperq.settings import Context, Padding

Listen = Callable[[Sequence[Utterance]], Iterable[Hypothesis]]


@dataclass(frozen=True)
class Opened:
    """A model ready to run; its runtime is valid inside `open_model` or `open_runtime` only."""

    processor: Processor
    loader: Loader
    rules: AnyRules
    runtime: AnyRuntime
    care: Care = field(default=ONCE, kw_only=True)  # what is done beside decoding each window once


@dataclass(frozen=True)
class OpenedModel(Opened):
    """A model whose sites can be watched."""

    model: PreTrainedModel


@contextmanager
def open_runtime(folder: Path, execution: Execution, context: Context, skip_bad: bool = False) -> Iterator[Opened]:
    """Raises UsageError for a runtime that this folder has none for, InputError for a folder that cannot be used."""
    entry = RUNTIMES[check_runtime(folder, kind_of(folder), execution, context)]
    if not entry.opens:
        with open_model(folder, context, skip_bad) as opened:
            yield with_padding(opened, execution.padding)
        return
    described = Description.of(folder)
    device = compute_device(context.device) if entry.cuda else "cpu"
    runtime = named(entry.opens)(folder, entry.name, described.config, execution, device)
    ready = Opened(*_around(folder, described, context, device, skip_bad), runtime)
    yield with_padding(ready, execution.padding)


def with_padding(opened: Opened, padding: Padding) -> Opened:
    """The model, set to compute whole windows ("full") or only the speech in them ("short").

    Raises UsageError for "short" with a model that is not Whisper.
    """
    if padding == "full":
        return opened
    if not isinstance(opened.rules, Rules):
        raise UsageError("--padding short is for Whisper: a CTC model computes no padding; leave it out")
    opened.loader.short = True
    kept = partial(opened.loader.features, [noise(opened.loader.extractor.sampling_rate)])
    return replace(opened, runtime=Short(opened.runtime, kept))


@contextmanager
def open_model(folder: Path, context: Context, skip_bad: bool = False) -> Iterator[OpenedModel]:
    """Load a float model, or a quantized one with its activations emulated while inside. Raises InputError."""
    device, dtype = compute_device(context.device), compute_dtype(context.dtype)
    watchers = {}
    if kind_of(folder) == "onnx":
        raise InputError(f"{folder} holds an exported model; name the model that it was made from")
    if kind_of(folder) == "quantized":
        model, quantization = load_quantized(folder, dtype, device)
        if model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        watchers = quantizers(quantization.activations)
    else:
        model = load_model(folder, dtype, device)
    around = _around(folder, model, context, device, skip_bad)
    name = "emulated" if kind_of(folder) == "quantized" else "float"
    runtime = output_of(model.config).pytorch(model, name)
    _, loader, rules = around
    if isinstance(rules, Rules) and loader.codec.open_language:
        loader.listen = torch.inference_mode()(partial(spoken, runtime, rules))
    with watch(model, model_sites(model), watchers):
        yield OpenedModel(*around, runtime, model)


def _around(
    folder: Path, model: PreTrainedModel | Description, context: Context, device: str, skip_bad: bool
) -> tuple[Processor, Loader, AnyRules]:
    processor = load_processor(folder)
    return processor, *make_loader(processor, model, context, device, skip_bad)


def with_hypotheses(
    opened: Opened, utterances: Sequence[Utterance], size: int, listen: Listen | None = None
) -> list[Utterance]:
    """The utterances, with greedy hypotheses in place of missing references; unchanged where the model has no decoder.

    listen: transcribes in place of this process alone, where several share the work.
    """
    if not opened.loader.needs_text:
        return list(utterances)
    silent = [u for u in utterances if u.text is None]
    found = listen(silent) if listen else transcribe(opened.runtime, opened.loader, opened.rules, silent, size)
    texts = {h.utterance.origin: h.text for h in found}
    return [replace(u, text=texts.get(u.origin)) if u.text is None else u for u in utterances]
