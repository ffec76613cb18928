"""Models and processors from folders and from the Hub, and back to folders.

families.py says which networks there are. Every Whisper is loaded into the one gated class: a stock checkpoint is a
gated one with gate "none", so that all sites exist in both. A student without gates is saved as a stock Whisper
checkpoint.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSpeechSeq2Seq,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.utils import logging as transformers_logging

from whisperq.errors import InputError, UsageError, hub_meant
from whisperq.models import gated_whisper
from whisperq.models.configurations import IGNORED, check_content, check_generation, check_values, check_weights
from whisperq.models.families import WHISPER, family_of
from whisperq.models.gated_whisper import GatedWhisperConfig, GatedWhisperForConditionalGeneration
from whisperq.models.headers import all_finite
from whisperq.models.incomplete import refuse_nearly
from whisperq.models.weight_files import QUANTIZED
from whisperq.schema import Wrong

CODE = "modeling_gated_whisper"
WEIGHTS = ("*.json", "*.txt", "model.safetensors", "model-0*.safetensors")  # not fp32 duplicates, not pickles

# Where whisperq is installed, transformers needs no leave to run the code beside the weights.
AutoConfig.register(GatedWhisperConfig.model_type, GatedWhisperConfig)
AutoModelForSpeechSeq2Seq.register(GatedWhisperConfig, GatedWhisperForConditionalGeneration)

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


def compute_device(name: str) -> str:
    """auto -> cuda where there is one. Raises UsageError for a CUDA that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda was asked for, but this machine has no usable CUDA device")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def compute_dtype(name: str) -> torch.dtype:
    return torch.float32 if name == "auto" else getattr(torch, name)


def local_folder(name: str | Path) -> Path:
    """A model's folder; a Hub id is fetched first. Raises InputError."""
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_file():
        raise InputError(f"{name} is a file; name the folder of a model as transformers saves it")
    if str(name).startswith((".", "/")):
        raise InputError(f"there is no model folder {name}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(WEIGHTS)))
    except Exception as error:  # the Hub's client raises a dozen kinds
        raise InputError(
            f"{name} is neither a folder nor to be had from the Hugging Face Hub ({type(error).__name__})"
            f"{hub_meant(str(name))}; check the name, the network, or name a local folder"
        ) from error


def load_config(folder: Path) -> PreTrainedConfig:
    """Raises InputError where the folder is no model of a known family, or its weights are not as config.json says."""
    refuse_nearly(folder)
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model_type = content["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{folder} is no model: it has no readable config.json") from error
    try:
        family = family_of(str(model_type))
        claims = family.claims
        check_content(content, claims)
        config = family.read_config({name: value for name, value in content.items() if name not in IGNORED})
        check_values(config, claims)
    except Wrong as wrong:
        raise InputError(f"{folder / 'config.json'} cannot be used: {wrong}") from None
    except InputError as error:
        raise InputError(f"{folder} {error}") from None
    except Exception as error:  # transformers checks every field, with errors of its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / 'config.json'} cannot be used: {reason}") from error
    try:
        check_weights(folder, config, claims)
    except Wrong as wrong:
        raise InputError(f"the weights of {folder} do not fit its config.json: {wrong}") from None
    check_generation(folder, config)
    return config


def require_whisper(folder: Path) -> None:
    """Raises InputError where the folder holds another family's model."""
    if (config := load_config(folder)).model_type != GatedWhisperConfig.model_type:
        raise InputError(f"{folder} holds a {config.model_type} model, but this command takes Whisper models")


def load_whisper(folder: Path, dtype: torch.dtype, device: str) -> GatedWhisperForConditionalGeneration:
    """Raises InputError as `load_model` and `require_whisper` do."""
    require_whisper(folder)
    model = load_model(folder, dtype, device)
    assert isinstance(model, GatedWhisperForConditionalGeneration), f"{folder} holds no Whisper"
    return model


def load_whisper_processor(folder: Path) -> WhisperProcessor:
    """Load the processor of a Whisper folder, one that `require_whisper` accepts. Raises as `load_processor` does."""
    processor = load_processor(folder)
    assert isinstance(processor, WhisperProcessor), f"{folder} holds no Whisper"
    return processor


def load_model(folder: Path, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """Weights from safetensors alone, in evaluation mode. Raises InputError for missing or foreign weights."""
    config = load_config(folder)
    if (folder / QUANTIZED).exists() and not list(folder.glob("model*.safetensors")):
        raise InputError(
            f"{folder} holds a quantized model, but a float one is needed here; name the model that it was made from"
        )
    try:
        model, report = family_of(config).load(folder, config, dtype)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the weights of {folder} cannot be read: {reason}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := report[problem]:
            raise InputError(
                f"the weights of {folder} do not fit its config.json: "
                f"{len(keys)} {problem.replace('_', ' ')}, such as {sorted(map(str, keys))[0]}"
            )
    for name, values in model.state_dict().items():
        if not all_finite(values):
            raise InputError(f"the weights of {folder} are not finite: {name} holds NaN or infinite values")
    # transformers' decorator of `to` forgets that it is a method.
    return model.to(device).eval()  # type: ignore[arg-type]


def empty_model(config: GatedWhisperConfig) -> GatedWhisperForConditionalGeneration:
    """The network without memory for its weights (meta device): to count parameters."""
    with torch.device("meta"):
        return GatedWhisperForConditionalGeneration(config)


def load_processor(folder: Path) -> WhisperProcessor | Wav2Vec2Processor:
    """Feature extractor and tokenizer, the model's own where it lies beside them; without one Whisper's.

    Raises InputError.
    """
    config = load_config(folder) if (folder / "config.json").exists() else None
    files = WHISPER.processor if config is None else family_of(config).processor
    processor = files.read(folder)
    if config is not None:
        files.check(folder, config, processor)
    return processor


def save_model(model: GatedWhisperForConditionalGeneration, processor: WhisperProcessor, folder: Path) -> None:
    """Weights, configuration, processor; for a gated model also the code that rebuilds it."""
    processor.save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)  # in a file of its own, which others look for: faster-whisper
    if spelling := processor.tokenizer.english_spelling_normalizer:  # transformers reads this file, but forgets it here
        (folder / "normalizer.json").write_text(json.dumps(spelling, indent=0), encoding="utf-8")
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.update(_loader_entries(model.config))
    if model.config.gate == "none":
        for key in ("gate", "gate_init", "cross_gate"):
            config.pop(key, None)
    else:
        shutil.copy(gated_whisper.__file__, folder / f"{CODE}.py")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _loader_entries(config: GatedWhisperConfig) -> dict[str, Any]:
    """What tells transformers which classes to build: stock ones, or those of the file beside the weights."""
    if config.gate == "none":
        return {
            "model_type": WhisperConfig.model_type,
            "architectures": [WhisperForConditionalGeneration.__name__],
        }
    pipeline = {
        "impl": f"{CODE}.{gated_whisper.GatedWhisperPipeline.__name__}",
        "pt": ["AutoModelForSpeechSeq2Seq"],
        "type": "multimodal",
    }
    return {
        "auto_map": {
            "AutoConfig": f"{CODE}.{GatedWhisperConfig.__name__}",
            "AutoModelForSpeechSeq2Seq": f"{CODE}.{GatedWhisperForConditionalGeneration.__name__}",
        },
        "custom_pipelines": {"automatic-speech-recognition": pipeline},
    }


def parameter_count(model: torch.nn.Module, trainable: bool = False) -> int:
    """Parameters, a tied table once; `trainable` leaves out the fixed sinusoidal encoder positions."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
