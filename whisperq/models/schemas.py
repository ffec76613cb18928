"""What config.json of each family must hold, and what of it the weights' headers show (models/configurations.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers.activations import ACT2FN

from whisperq.models.gated_whisper import GATES
from whisperq.schema import Check, Wrong, count, each, either, items, maybe, number, one_of, record, switch, text


@dataclass(frozen=True)
class Claims:
    """What a family's config.json claims of a network.

    content: its fields; divided: a width and the number of parts that must divide it; sizes: a field, and the end of
    the name of the tensor whose dimension shows it; layers: a field, and the pattern of the names before a layer's
    number; prefix: of the names, which a checkpoint of the bare network lacks (a pattern).
    """

    content: Check
    divided: tuple[tuple[str, str], ...]
    sizes: Mapping[str, tuple[str, int]]
    layers: Mapping[str, str]
    prefix: str


FORMATS = ("auto", "float32", "float16", "bfloat16", "float64")
SHARE = number(0.0, 1.0)
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


def fields(check: Check, names: str) -> dict[str, Check]:
    return dict.fromkeys(names.split(), check)


SHARED = {
    **fields(maybe(one_of(*FORMATS)), "dtype torch_dtype"),
    **fields(ID, "bos_token_id eos_token_id pad_token_id decoder_start_token_id"),
    **fields(switch, "tie_word_embeddings is_encoder_decoder"),
    "vocab_size": maybe(size),
}
WHISPER_CONTENT = record({"model_type": text}, SHARED | {
    **fields(
        size, "d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads encoder_ffn_dim "
        "decoder_ffn_dim num_mel_bins max_source_positions max_target_positions",
    ),
    **fields(dropout, "dropout attention_dropout activation_dropout encoder_layerdrop decoder_layerdrop"),
    "activation_function": activation,
    "gate": one_of(*GATES),
    "gate_init": number(1e-6, 1 - 1e-6),
    **fields(switch, "cross_gate scale_embedding"),
    **fields(maybe(items(count(-1))), "suppress_tokens begin_suppress_tokens"),  # -1: openai/whisper's usual ones
    **fields(ID, "no_timestamps_token_id prev_sot_token_id"),  # older checkpoints state them here
    **fields(maybe(each(count())), "lang_to_id task_to_id"),
})  # fmt: skip
CTC_CONTENT = record({"model_type": text}, SHARED | {
    **fields(
        size, "hidden_size num_hidden_layers num_attention_heads intermediate_size num_feat_extract_layers "
        "num_conv_pos_embeddings num_conv_pos_embedding_groups",
    ),
    **fields(items(size), "conv_dim conv_kernel conv_stride"),
    **fields(
        dropout, "attention_dropout hidden_dropout activation_dropout feat_proj_dropout final_dropout layerdrop"
    ),
    **fields(activation, "hidden_act feat_extract_activation"),
    "feat_extract_norm": one_of("group", "layer"),
    **fields(switch, "do_stable_layer_norm conv_bias feat_proj_layer_norm conv_pos_batch_norm"),
    "layer_norm_eps": number(0.0, 1.0),
})  # fmt: skip

WHISPER = Claims(
    WHISPER_CONTENT,
    divided=(("d_model", "encoder_attention_heads"), ("d_model", "decoder_attention_heads")),
    sizes={
        "d_model": ("encoder.layer_norm.weight", 0),
        "num_mel_bins": ("encoder.conv1.weight", 1),
        "vocab_size": ("decoder.embed_tokens.weight", 0),
        "max_source_positions": ("encoder.embed_positions.weight", 0),
        "max_target_positions": ("decoder.embed_positions.weight", 0),
        "encoder_ffn_dim": ("encoder.layers.0.fc1.bias", 0),
        "decoder_ffn_dim": ("decoder.layers.0.fc1.bias", 0),
    },
    layers={"encoder_layers": r"encoder\.layers", "decoder_layers": r"decoder\.layers"},
    prefix="model",
)
CTC = Claims(
    CTC_CONTENT,
    divided=(("hidden_size", "num_attention_heads"), ("hidden_size", "num_conv_pos_embedding_groups")),
    sizes={
        "hidden_size": ("encoder.layer_norm.weight", 0),
        "vocab_size": ("lm_head.bias", 0),
        "intermediate_size": ("encoder.layers.0.feed_forward.intermediate_dense.bias", 0),
    },
    layers={"num_hidden_layers": r"encoder\.layers", "num_feat_extract_layers": r"feature_extractor\.conv_layers"},
    prefix="wav2vec2|hubert",
)
