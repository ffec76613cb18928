"""Any model folder, float or quantized, opened for use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import GenerationConfig, WhisperProcessor

from whisperq import artifact
from whisperq.data.batches import Loader
from whisperq.data.tokens import make_codec
from whisperq.data.utterance import Utterance
from whisperq.models.gated_whisper import GatedWhisperForConditionalGeneration
from whisperq.models.loading import compute_device, compute_dtype, load_model, load_processor
from whisperq.models.sites import model_sites, watch
from whisperq.options import Context
from whisperq.runtime.decoding import Rules, make_rules
from whisperq.runtime.pytorch import PyTorchRuntime
from whisperq.runtime.quantized import load_quantized, quantizers
from whisperq.runtime.transcription import transcribe


@dataclass(frozen=True)
class Opened:
    """A model ready to run; its runtime is valid inside `open_model` only."""

    model: GatedWhisperForConditionalGeneration
    processor: WhisperProcessor
    loader: Loader
    rules: Rules
    runtime: PyTorchRuntime
    runtime_name: str  # float or emulated


@contextmanager
def open_model(folder: Path, context: Context, skip_bad: bool = False) -> Iterator[Opened]:
    """Load a float model, or a quantized one with its activations emulated while inside. Raises InputError."""
    # Its files were checked when the step named it as an input.
    sealed = artifact.load(folder, verify=False) if artifact.is_artifact(folder) else None
    quantized = sealed is not None and sealed.kind == "quantized"
    device, dtype = compute_device(context.device), compute_dtype(context.dtype)
    processor = load_processor(folder)
    watchers = {}
    if quantized:
        model, quantization = load_quantized(folder, dtype, device)
        model.generation_config = GenerationConfig.from_pretrained(folder)
        watchers = quantizers(quantization.activations)
    else:
        model = load_model(folder, dtype, device)
    codec = make_codec(processor, model, context.language, context.task)
    loader = Loader(processor.feature_extractor, codec, device, skip_bad)
    rules = make_rules(codec, model.generation_config)
    name = "emulated" if quantized else "float"
    with watch(model, model_sites(model), watchers):
        yield Opened(model, processor, loader, rules, PyTorchRuntime(model), name)


def with_hypotheses(opened: Opened, utterances: Sequence[Utterance], size: int) -> list[Utterance]:
    """The same utterances, each without a reference given its greedy hypothesis."""
    silent = [u for u in utterances if u.text is None]
    found = transcribe(opened.runtime, opened.loader, opened.rules, silent, size)
    texts = {h.utterance.origin: h.text for h in found}
    return [replace(u, text=texts.get(u.origin)) if u.text is None else u for u in utterances]
