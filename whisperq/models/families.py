"""Families of speech networks: what whisperq must know of one, in one place.

A further family is an entry here, with its network's file, its claims (schemas.py), its module names (module_map.py)
and its processor (pairing.py). `input` and `output` say who makes its batches and who runs it and reads its logits,
both in runtime/pipeline.py; a family that has another one adds it there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from whisperq.errors import InputError
from whisperq.models.ctc import build_ctc, load_ctc, read_ctc_config
from whisperq.models.gated_whisper import GatedWhisperConfig, GatedWhisperForConditionalGeneration
from whisperq.models.incomplete import WRAPPINGS
from whisperq.models.module_map import (
    ctc_axis,
    ctc_rows,
    ctc_stages,
    ctc_table,
    whisper_axis,
    whisper_rows,
    whisper_stages,
    whisper_table,
)
from whisperq.models.pairing import CTC_PROCESSOR, WHISPER_PROCESSOR, ProcessorFiles
from whisperq.models.schemas import CTC as CTC_CLAIMS
from whisperq.models.schemas import WHISPER as WHISPER_CLAIMS
from whisperq.models.schemas import Claims


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of network."""

    types: tuple[str, ...]  # model_type of config.json
    input: Literal["log-mel", "waveform"]  # a window of fixed length, or samples as many as there are
    output: Literal["tokens", "ctc"]  # one token after another, or a label for each frame
    claims: Claims  # of config.json, checked before anything is built
    read_config: Callable[[dict[str, Any]], PreTrainedConfig]
    build: Callable[[Any], PreTrainedModel]  # of its own configuration, without weights worth anything
    load: Callable[[Path, Any, torch.dtype], tuple[PreTrainedModel, dict]]  # and transformers' report
    processor: ProcessorFiles  # feature extractor and tokenizer
    table: Callable[[PreTrainedModel], Iterator[tuple[str, str]]]  # address and module of every site
    axis: Callable[[str], tuple[str, int]]  # of an address: what of it a batch pads, and in which dimension
    rows: Callable[[PreTrainedConfig, str], float]  # of an address: how often its products run for each encoder frame
    stages: Callable[[PreTrainedModel], list[str]]  # modules that all that follows hangs on, in order of computation
    activations: tuple[str, ...]  # fields of the configuration that name activation functions
    has_decoder: bool = False
    recipes: tuple[str, ...] = ("gemm",)
    tied: tuple[str, ...] = ()  # names of one and the same parameter, unless a model unties them: see `tied_names`
    stock: Mapping[str, Any] = field(default_factory=dict)  # of config.json: what makes our network a stock one


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
    types=("whisper", "gated_whisper"),
    input="log-mel",
    output="tokens",
    claims=WHISPER_CLAIMS,
    read_config=_read_whisper_config,
    build=GatedWhisperForConditionalGeneration,
    load=_load_whisper,
    processor=WHISPER_PROCESSOR,
    table=whisper_table,
    axis=whisper_axis,
    rows=whisper_rows,
    stages=whisper_stages,
    activations=("activation_function",),
    has_decoder=True,
    recipes=("gemm", "paper"),
    tied=("model.decoder.embed_tokens.weight", "proj_out.weight"),
    stock={"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]},
)
CTC = Family(  # wav2vec 2.0 and HuBERT with a CTC head
    types=("wav2vec2", "hubert"),
    input="waveform",
    output="ctc",
    claims=CTC_CLAIMS,
    read_config=read_ctc_config,
    build=build_ctc,
    load=load_ctc,
    processor=CTC_PROCESSOR,
    table=ctc_table,
    axis=ctc_axis,
    rows=ctc_rows,
    stages=ctc_stages,
    activations=("hidden_act", "feat_extract_activation"),
)
FAMILIES = (WHISPER, CTC)


def family_of(config: PreTrainedConfig | str) -> Family:
    """The model family of a configuration or model_type.

    Raises InputError for an unknown type; the message begins with "holds", for the caller to put the folder before.
    """
    model_type = config if isinstance(config, str) else config.model_type
    for family in FAMILIES:
        if model_type in family.types:
            return family
    known = ", ".join(t for f in FAMILIES for t in f.types if t != "gated_whisper")
    raise InputError(f"holds a {model_type} model, but whisperq takes these types: {known}")


def tied_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """Names of one and the same parameter of this model, of which the last may be absent on disk.

    Empty where its config.json unties them: then each name has values of its own. Raises InputError as `family_of`.
    """
    return family_of(config).tied if getattr(config, "tie_word_embeddings", True) else ()
