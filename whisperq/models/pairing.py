"""A model's tokenizer and feature extractor, and whether they are its own.

Both come in files of their own, and those of another model load as well: a multilingual tokenizer on an English model
is off by one from <|endoftext|> on, so that every special token stands for another.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedConfig,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)

from whisperq.errors import InputError
from whisperq.schema import Wrong, count, record, switch

# What config.json and generation_config.json call a special token, and what Whisper's vocabulary does.
TOKENS = {
    "eos_token_id": "<|endoftext|>",
    "decoder_start_token_id": "<|startoftranscript|>",
    "no_timestamps_token_id": "<|notimestamps|>",
    "prev_sot_token_id": "<|startofprev|>",
}
BLANK = "pad_token_id"  # CTC's
OWN = "copy the model's own files"
# Bounds of what is computed and allocated to make an extractor, before it is known to be this model's.
EXTRACTOR = record({}, {
    "feature_size": count(1, 1024), "n_fft": count(1, 2**14), "hop_length": count(1, 2**12),
    "chunk_length": count(1, 3600), "sampling_rate": count(1_000, 192_000), "do_normalize": switch,
})  # fmt: skip


def check_extractor(folder: Path) -> None:
    """Raises InputError for settings of a feature extractor that nothing should be built of."""
    settings, _ = WhisperFeatureExtractor.get_feature_extractor_dict(folder)
    try:
        EXTRACTOR(settings, "")
    except Wrong as wrong:
        raise InputError(f"the feature extractor of {folder} cannot be used: {wrong}; {OWN}") from None


@dataclass(frozen=True)
class ProcessorFiles:
    """A family's feature extractor and tokenizer: read from a folder, and held against the model's config.json.

    Both raise InputError.
    """

    read: Callable[[Path], WhisperProcessor | Wav2Vec2Processor]
    check: Callable[[Path, PreTrainedConfig, Any], None]


def _read_parts(folder: Path, extractor: Any, tokenizer: Any, family: str) -> tuple[Any, Any]:
    """Feature extractor and tokenizer, of these classes. Raises InputError.

    A processor's own from_pretrained reads the model's config too, and where it names code, asks whether to run it.
    """
    try:
        check_extractor(folder)
        return extractor.from_pretrained(folder), tokenizer.from_pretrained(folder)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder} lacks a usable {family} tokenizer or feature extractor: {reason}") from error


def read_whisper(folder: Path) -> WhisperProcessor:
    """The processor of a Whisper folder. Raises InputError where it has no usable one."""
    extractor, tokenizer = _read_parts(folder, WhisperFeatureExtractor, WhisperTokenizer, "Whisper")
    if "<|startoftranscript|>" not in tokenizer.get_vocab():  # without its files, an empty one is made up
        raise InputError(f"{folder} lacks a usable Whisper tokenizer: it does not know <|startoftranscript|>")
    tokenizer.chat_template = None  # a stray file's, which would be saved with the rest
    return WhisperProcessor(extractor, tokenizer)


def read_ctc(folder: Path) -> Wav2Vec2Processor:
    """The processor of a CTC folder. Raises InputError where it has no usable one."""
    return Wav2Vec2Processor(*_read_parts(folder, Wav2Vec2FeatureExtractor, Wav2Vec2CTCTokenizer, "CTC"))


def check_whisper(folder: Path, config: PreTrainedConfig, processor: WhisperProcessor) -> None:
    """Raises InputError, with what differs, for a tokenizer or feature extractor of another model."""
    vocabulary, extractor = processor.tokenizer.get_vocab(), processor.feature_extractor
    try:
        for name in ("config.json", "generation_config.json"):
            _check_ids(name, _content(folder / name), vocabulary)
    except Wrong as wrong:
        raise InputError(f"the tokenizer of {folder} is not this model's: {wrong}; {OWN}") from None
    _check_vocabulary(folder, config, vocabulary)
    if extractor.feature_size != config.num_mel_bins:
        raise InputError(
            f"the feature extractor of {folder} makes {extractor.feature_size} mel bins, but the model takes "
            f"{config.num_mel_bins}; copy the model's own preprocessor_config.json"
        )
    if extractor.nb_max_frames != (frames := 2 * config.max_source_positions):
        raise InputError(
            f"the feature extractor of {folder} makes windows of {extractor.nb_max_frames} frames, but the model takes "
            f"{frames}; copy the model's own preprocessor_config.json"
        )


def check_ctc(folder: Path, config: PreTrainedConfig, processor: Wav2Vec2Processor) -> None:
    """Raises InputError for a tokenizer of another model."""
    _check_vocabulary(folder, config, processor.tokenizer.get_vocab())
    blank, stated = processor.tokenizer.pad_token_id, _content(folder / "config.json").get(BLANK)
    if None not in (blank, stated) and blank != stated:
        raise InputError(
            f"the tokenizer of {folder} is not this model's: its blank is {blank}, but config.json says "
            f"{BLANK} {stated}; {OWN}"
        )


def _check_vocabulary(folder: Path, config: PreTrainedConfig, vocabulary: Mapping[str, int]) -> None:
    token, last = max(vocabulary.items(), key=lambda item: item[1])
    if last >= config.vocab_size:
        raise InputError(
            f"the tokenizer of {folder} is not this model's: its token {token} is {last}, but the model's vocabulary "
            f"has {config.vocab_size} tokens; {OWN}"
        )


def _check_ids(file: str, content: Mapping[str, Any], vocabulary: Mapping[str, int]) -> None:
    """Raises Wrong where token ids that the file states differ from the vocabulary's.

    Where it lists several, as for the ends of generation, one must agree.
    """
    for name, token in TOKENS.items():
        stated = content.get(name)
        if stated is None or (name not in ("eos_token_id", "decoder_start_token_id") and token not in vocabulary):
            continue
        if vocabulary.get(token) not in (stated if isinstance(stated, list) else [stated]):
            raise Wrong(f"its {token} is {vocabulary.get(token)}, but {file} says {name} {stated}")
    for group in ("lang_to_id", "task_to_id"):
        for token, stated in (content.get(group) or {}).items():
            token = token if token.startswith("<|") else f"<|{token}|>"
            if token in vocabulary and vocabulary[token] != stated:
                raise Wrong(f"its {token} is {vocabulary[token]}, but {file} says {stated} in {group}")


def _content(path: Path) -> dict[str, Any]:
    """Content of a JSON file, empty where there is no file. Raises InputError for what is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} cannot be read: it holds no JSON object")
    return content


WHISPER_PROCESSOR = ProcessorFiles(read_whisper, check_whisper)
CTC_PROCESSOR = ProcessorFiles(read_ctc, check_ctc)
