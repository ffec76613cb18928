"""Families of speech networks: what whisperq must know of one, in one place.

A further family, an encoder and decoder over raw waveforms say, is an entry here and a table of module names: what it
hears decides who makes its batches (data/batches.py, data/waveforms.py), how it writes who decodes (runtime/).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from whisperq.errors import InputError
from whisperq.models.ctc import build_ctc, load_ctc, read_ctc_config
from whisperq.models.gated_whisper import GatedWhisperConfig, GatedWhisperForConditionalGeneration
from whisperq.models.nearly import WRAPPINGS
from whisperq.models.tables import ctc_axis, ctc_table, whisper_axis, whisper_table


@dataclass(frozen=True)
class Family:
    name: str
    types: tuple[str, ...]  # model_type of config.json
    hears: Literal["log-mel", "waveform"]  # a window of fixed length, or samples as many as there are
    writes: Literal["tokens", "ctc"]  # one token after another, or a label for each frame
    read_config: Callable[[dict[str, Any]], PreTrainedConfig]
    build: Callable[[Any], PreTrainedModel]  # of its own configuration, without weights worth anything
    load: Callable[[Path, Any, torch.dtype], tuple[PreTrainedModel, dict]]  # and transformers' report
    table: Callable[[PreTrainedModel], Iterator[tuple[str, str]]]  # address and module of every site
    axis: Callable[[str], tuple[str, int]]  # of an address: what of it a batch pads, and in which dimension
    tied: tuple[str, ...] = ()  # names of one and the same parameter, of which the last may be absent on disk


def _read_whisper_config(content: dict[str, Any]) -> GatedWhisperConfig:
    if content["model_type"] == "whisper":
        content = content | {"model_type": "gated_whisper", "gate": "none"}
    return GatedWhisperConfig.from_dict(content)


def _load_whisper(folder: Path, config: GatedWhisperConfig, dtype: torch.dtype) -> tuple[PreTrainedModel, dict]:
    # With output_loading_info it gives a pair, of which its annotation does not know.
    loaded: Any = GatedWhisperForConditionalGeneration.from_pretrained(
        folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, key_mapping=WRAPPINGS
    )
    model, report = loaded
    model.model.encoder.embed_positions.requires_grad_(False)  # sinusoids; loading forgets that they are fixed
    return model, report


WHISPER = Family(
    "whisper",
    ("whisper", "gated_whisper"),
    "log-mel",
    "tokens",
    _read_whisper_config,
    GatedWhisperForConditionalGeneration,
    _load_whisper,
    whisper_table,
    whisper_axis,
    ("model.decoder.embed_tokens.weight", "proj_out.weight"),
)
CTC = Family(
    "ctc", ("wav2vec2", "hubert"), "waveform", "ctc", read_ctc_config, build_ctc, load_ctc, ctc_table, ctc_axis
)
FAMILIES = (WHISPER, CTC)


def family_of(config: PreTrainedConfig | str) -> Family:
    """By a configuration or its model_type. Raises InputError, to be said of the model's folder, for any other."""
    model_type = config if isinstance(config, str) else config.model_type
    for family in FAMILIES:
        if model_type in family.types:
            return family
    known = ", ".join(t for f in FAMILIES for t in f.types if t != "gated_whisper")
    raise InputError(f"holds a {model_type} model, but whisperq takes these types: {known}")
