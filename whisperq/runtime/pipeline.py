"""What surrounds a family's network: what makes its batches (`Family.input`), runs it and reads it (`Family.output`).

What only some commands need, integers and graphs, is named as `module:name` of whisperq and imported when it is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, Wav2Vec2Processor, WhisperProcessor

from whisperq.data.batches import Loader
from whisperq.data.tokens import make_codec
from whisperq.data.waveforms import CtcCodec, WaveformExtractor, WaveformLoader
from whisperq.models.ctc import frame_counts, shortest
from whisperq.models.families import family_of
from whisperq.models.loading import load_config
from whisperq.runtime.ctc import CtcRules, PyTorchCtc
from whisperq.runtime.decoding import make_rules
from whisperq.runtime.long_form import AnyRules, AnyRuntime
from whisperq.runtime.pytorch import PyTorchRuntime
from whisperq.settings import Context

Processor = WhisperProcessor | Wav2Vec2Processor


@dataclass(frozen=True)
class Description:
    """Configurations of a model that is no PyTorch module, as decoding needs them."""

    config: PreTrainedConfig
    generation_config: GenerationConfig | None

    @classmethod
    def of(cls, folder: Path) -> "Description":
        config = load_config(folder)
        generates = output_of(config).generates
        return cls(config, GenerationConfig.from_pretrained(folder) if generates else None)


Model = PreTrainedModel | Description


@dataclass(frozen=True)
class Output:
    """How networks with one kind of output (tokens or CTC) are run and decoded."""

    reading: Callable[[Processor, Model, Context], tuple[Any, AnyRules]]  # codec of references, and decoding rules
    pytorch: Callable[..., AnyRuntime]  # (model, the runtime's name)
    integers: str  # a class with `load`
    graphs: tuple[str, ...]  # of an exported model, by file name
    run_graphs: str  # (engine, paths by graph, config) -> runtime
    generates: bool = False  # by generation_config.json


def _read_tokens(processor: Any, model: Model, context: Context) -> tuple[Any, AnyRules]:
    codec = make_codec(processor, model, context.language, context.task)
    return codec, make_rules(codec, model.generation_config)


def _read_ctc(processor: Any, model: Model, context: Context) -> tuple[Any, AnyRules]:
    codec = CtcCodec(processor.tokenizer, model.config.pad_token_id)
    return codec, CtcRules(codec.blank)


OUTPUTS = {
    "tokens": Output(
        _read_tokens,
        PyTorchRuntime,
        integers="runtime.int8.whisper:Int8Runtime",
        graphs=("encoder_model", "decoder_model", "decoder_with_past_model"),
        run_graphs="runtime.onnx.whisper:run_whisper",
        generates=True,
    ),
    "ctc": Output(
        _read_ctc,
        PyTorchCtc,
        integers="runtime.int8.ctc:Int8Ctc",
        graphs=("model",),
        run_graphs="runtime.onnx.ctc:run_ctc",
    ),
}


def _log_mel(extractor: Any, codec: Any, config: PreTrainedConfig, device: str, skip_bad: bool) -> Loader:
    return Loader(extractor, codec, device, skip_bad)


def _waveform(extractor: Any, codec: Any, config: PreTrainedConfig, device: str, skip_bad: bool) -> Loader:
    settings = WaveformExtractor(extractor.sampling_rate, extractor.do_normalize, shortest(config))
    return WaveformLoader(settings, codec, device, skip_bad, partial(frame_counts, config))


INPUTS = {"log-mel": _log_mel, "waveform": _waveform}


def output_of(config: PreTrainedConfig) -> Output:
    """The kind of output of a model. Raises InputError for a model of no known family."""
    return OUTPUTS[family_of(config).output]


def named(place: str) -> Any:
    """The object that `module:name` names in whisperq, imported now."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"whisperq.{module}"), name)


def make_loader(
    processor: Processor, model: Model, context: Context, device: str, skip_bad: bool
) -> tuple[Loader, AnyRules]:
    """The loader that makes this model's batches, and the rules that decode its logits."""
    family = family_of(model.config)
    codec, rules = OUTPUTS[family.output].reading(processor, model, context)
    return INPUTS[family.input](processor.feature_extractor, codec, model.config, device, skip_bad), rules
