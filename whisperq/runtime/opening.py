"""Any model folder, float, quantized or exported, opened for use by a runtime."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, Wav2Vec2Processor, WhisperProcessor

from whisperq.data.batches import Loader
from whisperq.data.tokens import make_codec
from whisperq.data.utterance import Utterance
from whisperq.data.waveforms import CtcCodec, WaveformExtractor, WaveformLoader
from whisperq.errors import InputError, UsageError
from whisperq.flags import Context, Padding
from whisperq.models.ctc import frame_counts, shortest
from whisperq.models.families import family_of
from whisperq.models.loading import compute_device, compute_dtype, load_config, load_model, load_processor
from whisperq.models.sites import model_sites, watch
from whisperq.options import Execution
from whisperq.refusals import check_runtime, kind_of
from whisperq.runtime.ctc import CtcRules, PyTorchCtc
from whisperq.runtime.decoding import Rules, make_rules
from whisperq.runtime.fallback import ONCE, Care
from whisperq.runtime.padding import Short, noise
from whisperq.runtime.pytorch import PyTorchRuntime
from whisperq.runtime.quantized import load_quantized, quantizers
from whisperq.runtime.transcription import AnyRules, AnyRuntime, Hypothesis, transcribe

Listen = Callable[[Sequence[Utterance]], Iterable[Hypothesis]]


@dataclass(frozen=True)
class Opened:
    """A model ready to run; its runtime is valid inside `open_model` or `open_runtime` only."""

    processor: WhisperProcessor | Wav2Vec2Processor
    loader: Loader
    rules: AnyRules
    runtime: AnyRuntime
    care: Care = field(default=ONCE, kw_only=True)  # what is done beside decoding each window once


@dataclass(frozen=True)
class OpenedModel(Opened):
    """A model whose sites can be watched."""

    model: PreTrainedModel


@dataclass(frozen=True)
class Description:
    """What decoding must know of a model that is no PyTorch module."""

    config: PreTrainedConfig
    generation_config: GenerationConfig | None

    @classmethod
    def of(cls, folder: Path) -> "Description":
        config = load_config(folder)
        writes = family_of(config).writes
        return cls(config, GenerationConfig.from_pretrained(folder) if writes == "tokens" else None)


@contextmanager
def open_runtime(folder: Path, execution: Execution, context: Context, skip_bad: bool = False) -> Iterator[Opened]:
    """Raises UsageError for a runtime that this folder has none for, InputError for a folder that cannot be used."""
    name = check_runtime(folder, kind_of(folder), execution, context)
    if name in ("float", "emulated"):
        with open_model(folder, context, skip_bad) as opened:
            yield with_padding(opened, execution.padding)
        return
    described = Description.of(folder)
    if name == "int8":
        device = compute_device(context.device)
        integers = _integer_runtime(described.config)
        runtime: AnyRuntime = integers.load(folder, device, execution.attention_dtype, execution.reduce_range)
    else:
        from whisperq.runtime.graphs import open_graphs

        device, runtime = "cpu", open_graphs(folder, name, described.config, execution.attention_dtype)
    yield with_padding(Opened(*_around(folder, described, context, device, skip_bad), runtime), execution.padding)


def with_padding(opened: Opened, padding: Padding) -> Opened:
    """The same, hearing whole windows, or for short the speech in them. Raises UsageError for what is no Whisper."""
    if padding == "full":
        return opened
    if not isinstance(opened.rules, Rules):
        raise UsageError("--padding short is for Whisper: a CTC model computes no padding; leave it out")
    opened.loader.short = True
    heard = partial(opened.loader.features, [noise(opened.loader.extractor.sampling_rate)])
    return replace(opened, runtime=Short(opened.runtime, heard))


def _integer_runtime(config: PreTrainedConfig) -> Any:
    if family_of(config).writes == "ctc":
        from whisperq.runtime.int8_ctc import Int8Ctc

        return Int8Ctc
    from whisperq.runtime.int8 import Int8Runtime

    return Int8Runtime


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
    run_by = PyTorchCtc if family_of(model.config).writes == "ctc" else PyTorchRuntime
    runtime = run_by(model, "emulated" if kind_of(folder) == "quantized" else "float")
    with watch(model, model_sites(model), watchers):
        yield OpenedModel(*around, runtime, model)


def _around(
    folder: Path, model: PreTrainedModel | Description, context: Context, device: str, skip_bad: bool
) -> tuple[WhisperProcessor | Wav2Vec2Processor, Loader, AnyRules]:
    processor = load_processor(folder)
    return processor, *make_loader(processor, model, context, device, skip_bad)


def make_loader(
    processor: WhisperProcessor | Wav2Vec2Processor,
    model: PreTrainedModel | Description,
    context: Context,
    device: str,
    skip_bad: bool,
) -> tuple[Loader, AnyRules]:
    """What makes this model's batches, and what reads its logits."""
    family, extractor = family_of(model.config), processor.feature_extractor
    if family.writes == "tokens":
        assert isinstance(processor, WhisperProcessor), "a family that writes tokens is Whisper"
        codec: Any = make_codec(processor, model, context.language, context.task)
        rules: AnyRules = make_rules(codec, model.generation_config)
    else:
        codec = CtcCodec(processor.tokenizer, model.config.pad_token_id)
        rules = CtcRules(codec.blank)
    if family.hears == "log-mel":
        return Loader(extractor, codec, device, skip_bad), rules
    settings = WaveformExtractor(extractor.sampling_rate, extractor.do_normalize, shortest(model.config))
    return WaveformLoader(settings, codec, device, skip_bad, partial(frame_counts, model.config)), rules


def with_hypotheses(
    opened: Opened, utterances: Sequence[Utterance], size: int, listen: Listen | None = None
) -> list[Utterance]:
    """The same utterances, each without a reference given its greedy hypothesis; `listen` where several share that.

    As they are, where no decoder sees references.
    """
    if not opened.loader.needs_text:
        return list(utterances)
    silent = [u for u in utterances if u.text is None]
    found = listen(silent) if listen else transcribe(opened.runtime, opened.loader, opened.rules, silent, size)
    texts = {h.utterance.origin: h.text for h in found}
    return [replace(u, text=texts.get(u.origin)) if u.text is None else u for u in utterances]
