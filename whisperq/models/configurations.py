"""config.json of a model: what each family's must hold, and whether its weights have the sizes that it claims.

Both are known in milliseconds, from the text and from the headers of the weights' files, so that nothing is built for a
model that cannot be.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.activations import ACT2FN

from whisperq.errors import InputError
from whisperq.models.gated_whisper import GATES
from whisperq.models.headers import Held, headers, weight_files
from whisperq.models.nearly import plain_name
from whisperq.schema import (
    Check,
    Wrong,
    anything,
    count,
    each,
    either,
    items,
    maybe,
    number,
    one_of,
    read_json,
    record,
    switch,
    text,
)

FORMATS = ("auto", "float32", "float16", "bfloat16", "float64")
SIZE, SHARE = count(1), number(0.0, 1.0)
LARGEST = 2**24  # of a size: far above any model's, and no product of two overflows
ID = maybe(either(count(), items(count())))


def size(value: Any, place: str) -> None:
    count(1, LARGEST)(value, place)


def dropout(value: Any, place: str) -> None:
    """A probability below one, at which nothing would be left."""
    SHARE(value, place)
    if value == 1:
        raise Wrong(f"{place} is {value}, but must be below 1")


def activation(value: Any, place: str) -> None:
    text(value, place)
    if value not in ACT2FN:
        raise Wrong(f"{place} is {value!r}, which no activation function of transformers is called")


def _fields(check: Check, names: str) -> dict[str, Check]:
    return dict.fromkeys(names.split(), check)


SHARED = {
    **_fields(maybe(one_of(*FORMATS)), "dtype torch_dtype"),
    **_fields(ID, "bos_token_id eos_token_id pad_token_id decoder_start_token_id"),
    **_fields(switch, "tie_word_embeddings is_encoder_decoder"),
    "vocab_size": maybe(size),
}
WHISPER = record({"model_type": text}, SHARED | {
    **_fields(
        size, "d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads encoder_ffn_dim "
        "decoder_ffn_dim num_mel_bins max_source_positions max_target_positions",
    ),
    **_fields(dropout, "dropout attention_dropout activation_dropout encoder_layerdrop decoder_layerdrop"),
    "activation_function": activation,
    "gate": one_of(*GATES),
    "gate_init": number(1e-6, 1 - 1e-6),
    **_fields(switch, "cross_gate scale_embedding"),
    **_fields(maybe(items(count(-1))), "suppress_tokens begin_suppress_tokens"),  # -1: openai/whisper's usual ones
    **_fields(ID, "no_timestamps_token_id prev_sot_token_id"),  # older checkpoints state them here
    **_fields(maybe(each(count())), "lang_to_id task_to_id"),
})  # fmt: skip
CTC = record({"model_type": text}, SHARED | {
    **_fields(
        size, "hidden_size num_hidden_layers num_attention_heads intermediate_size num_feat_extract_layers "
        "num_conv_pos_embeddings num_conv_pos_embedding_groups",
    ),
    **_fields(items(size), "conv_dim conv_kernel conv_stride"),
    **_fields(
        dropout, "attention_dropout hidden_dropout activation_dropout feat_proj_dropout final_dropout layerdrop"
    ),
    **_fields(activation, "hidden_act feat_extract_activation"),
    "feat_extract_norm": one_of("group", "layer"),
    **_fields(switch, "do_stable_layer_norm conv_bias feat_proj_layer_norm conv_pos_batch_norm"),
    "layer_norm_eps": number(0.0, 1.0),
})  # fmt: skip

# What base classes of transformers read there, about nobody's sounds or words: what a forward pass gives back, and
# classes, of which a number is enough to fill the memory. It decides nothing here.
IGNORED = frozenset(
    "return_dict use_return_dict output_attentions output_hidden_states torchscript pruned_heads problem_type "
    "num_labels id2label label2id chunk_size_feed_forward attn_implementation _attn_implementation "
    "_attn_implementation_internal experts_implementation layer_types".split()
)

IDS = "bos_token_id eos_token_id pad_token_id decoder_start_token_id no_timestamps_token_id prev_sot_token_id"
GENERATION = record({}, {
    **_fields(ID, IDS),
    **_fields(maybe(items(count(-1))), "suppress_tokens begin_suppress_tokens"),
    **_fields(maybe(each(count())), "lang_to_id task_to_id"),
    "is_multilingual": maybe(switch),
    "alignment_heads": maybe(items(items(count(), 2))),
})  # fmt: skip

# A size of config.json, and the tensor and dimension that show it; the name as it ends.
WHISPER_SIZES = {
    "d_model": ("encoder.layer_norm.weight", 0),
    "num_mel_bins": ("encoder.conv1.weight", 1),
    "vocab_size": ("decoder.embed_tokens.weight", 0),
    "max_source_positions": ("encoder.embed_positions.weight", 0),
    "max_target_positions": ("decoder.embed_positions.weight", 0),
    "encoder_ffn_dim": ("encoder.layers.0.fc1.bias", 0),
    "decoder_ffn_dim": ("decoder.layers.0.fc1.bias", 0),
}
CTC_SIZES = {
    "hidden_size": ("encoder.layer_norm.weight", 0),
    "vocab_size": ("lm_head.bias", 0),
    "intermediate_size": ("encoder.layers.0.feed_forward.intermediate_dense.bias", 0),
}
WHISPER_LAYERS = {"encoder_layers": r"encoder\.layers", "decoder_layers": r"decoder\.layers"}
CTC_LAYERS = {"num_hidden_layers": r"encoder\.layers", "num_feat_extract_layers": r"feature_extractor\.conv_layers"}


def check_content(content: Mapping[str, Any], is_whisper: bool) -> None:
    """Raises Wrong for a field that no model of the family can have."""
    anything(content, "")
    (WHISPER if is_whisper else CTC)(content, "")


def check_values(config: Any, is_whisper: bool) -> None:
    """What hangs on several fields, defaults included. Raises Wrong."""
    pairs = (
        (("d_model", "encoder_attention_heads"), ("d_model", "decoder_attention_heads"))
        if is_whisper
        else (("hidden_size", "num_attention_heads"), ("hidden_size", "num_conv_pos_embedding_groups"))
    )
    for whole, parts in pairs:
        if (width := getattr(config, whole)) % (number_of := getattr(config, parts)):
            raise Wrong(f"{whole} is {width}, which {parts}, {number_of}, does not divide")
    _check_ids({name: getattr(config, name, None) for name in SHARED if name.endswith("_token_id")}, config.vocab_size)


def check_generation(folder: Path, config: Any) -> None:
    """generation_config.json, where there is one. Raises InputError."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return
    content = read_json(path, GENERATION, "copy the model's own")
    named = {name: content.get(name) for name in (*IDS.split(), "lang_to_id", "task_to_id")}
    try:
        anything(content, "")
        _check_ids({k: list(v.values()) if isinstance(v, dict) else v for k, v in named.items()}, config.vocab_size)
    except Wrong as wrong:
        raise InputError(f"{path} cannot be used: {wrong}; copy the model's own") from None


def _check_ids(named: Mapping[str, Any], vocabulary: int) -> None:
    for name, ids in named.items():
        for index in ids if isinstance(ids, list | tuple) else [ids]:
            if index is not None and not 0 <= index < vocabulary:
                raise Wrong(f"{name} is {index}, but the vocabulary has {vocabulary} tokens")


def check_weights(folder: Path, config: Any, is_whisper: bool) -> None:
    """Layer counts and widths against the weights' headers, where there are any. Raises Wrong and InputError."""
    files = [path for path in weight_files(folder) if path.is_file()]
    held = headers(files)
    if not held:
        return
    _check_layers(held, config, WHISPER_LAYERS if is_whisper else CTC_LAYERS)
    by_ending = {_ending(name): (name, one) for name, one in held.items()}
    for name, (ending, dim) in (WHISPER_SIZES if is_whisper else CTC_SIZES).items():
        (tensor, one), claimed = by_ending.get(ending, ("", None)), getattr(config, name)
        packed = one is not None and len(one.shape) <= max(dim, "embed" in ending)  # codes of fewer than eight bits
        if one is not None and not packed and one.shape[dim] != claimed:
            raise Wrong(f"{name} is {claimed}, but {tensor} in {one.path.name} has {one.shape[dim]}")


def _check_layers(held: Mapping[str, Held], config: Any, kinds: Mapping[str, str]) -> None:
    for name, pattern in kinds.items():
        seen = {match[1] for tensor in held if (match := re.search(rf"(?:^|\.){pattern}\.(\d+)\.", tensor))}
        if seen and len(seen) != (claimed := getattr(config, name)):
            raise Wrong(f"{name} is {claimed}, but the weights have {len(seen)}")


def _ending(name: str) -> str:
    """A tensor's name without the network's: as a checkpoint of the bare network has it, too."""
    return re.sub(r"^(model|wav2vec2|hubert)\.", "", plain_name(name))
