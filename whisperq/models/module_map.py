"""Each family's module names behind the addresses of its sites.

In a post-norm layer (wav2vec 2.0 base) the residual sum reads the norm's output too. What q, k and v read, or fc1, is
there the input of the block that they begin, so that whatever replaces it leaves the sum alone.
"""

import math
import re
from collections.abc import Iterator

from transformers import PreTrainedConfig, PreTrainedModel

ATTENTION = ("attn_norm", "q_proj", "k_proj", "v_proj", "gate", "scores", "probs", "context", "out_proj", "attn_sum")
FRAMES_PER_TOKEN = 40  # encoder frames: 37 tokens in a window of 30 s, which is what ten seconds of reading have
ATTENTION_PRODUCTS = ("scores", "context")  # Q K^T, and the probabilities times V
FEED_FORWARD = ("mlp_norm", "fc1", "fc2", "mlp_sum")
FEED_FORWARD_SITES = ("mlp_norm", "fc1", "fc2:input", "fc2", "mlp_sum")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "gate", "scores", "probs", "out_proj")

# Component -> module of a Whisper layer. `context` is what out_proj takes in: after the gate, heads merged.
WHISPER_SELF = {
    "attn_norm": "self_attn_layer_norm",
    **{name: f"self_attn.{name}" for name in PROJECTIONS},
    "context": "self_attn.out_proj:input",
    "attn_sum": "attn_sum",
    "mlp_norm": "final_layer_norm",
    "fc1": "fc1",
    "fc2": "fc2",
    "fc2:input": "fc2:input",
    "mlp_sum": "mlp_sum",
}
WHISPER_CROSS = {
    "attn_norm": "encoder_attn_layer_norm",
    **{name: f"encoder_attn.{name}" for name in PROJECTIONS},
    "context": "encoder_attn.out_proj:input",
    "attn_sum": "cross_sum",
}
# wav2vec 2.0 and HuBERT, pre-norm (`do_stable_layer_norm`, the large ones) and post-norm (base).
CTC_LAYER = {
    **{name: f"attention.{name}" for name in PROJECTIONS if name != "gate"},
    "context": "attention.out_proj:input",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    "fc2:input": "feed_forward.output_dense:input",
}
PRE_NORM = {
    "attn_norm": "layer_norm",
    "attn_sum": "final_layer_norm:input",
    "mlp_norm": "final_layer_norm",
    "mlp_sum": "",  # the layer's own output
}
POST_NORM = {
    "attn_norm": "attention:input",
    "attn_sum": "layer_norm:input",
    "mlp_norm": "feed_forward:input",
    "mlp_sum": "final_layer_norm:input",
}


def whisper_table(model: PreTrainedModel) -> Iterator[tuple[str, str]]:
    """Address and module of all sites of a gated Whisper, in the order of computation."""
    for name in ("conv1", "conv2"):
        yield f"enc.{name}:input", f"model.encoder.{name}:input"
        yield f"enc.{name}", f"model.encoder.{name}"
    for part, name, layers in (
        ("enc", "encoder", model.model.encoder.layers),
        ("dec", "decoder", model.model.decoder.layers),
    ):
        for i in range(len(layers)):
            prefix = f"model.{name}.layers.{i}."
            order = {c: WHISPER_SELF[c] for c in ATTENTION}
            if part == "dec":
                order |= {f"cross.{c}": WHISPER_CROSS[c] for c in ATTENTION}
            order |= {c: WHISPER_SELF[c] for c in FEED_FORWARD_SITES}
            yield from ((f"{part}.{i}.{component}", prefix + target) for component, target in order.items())
        yield f"{part}.norm", f"model.{name}.layer_norm"
    yield "proj_out", "proj_out"


def whisper_axis(address: str) -> tuple[str, int]:
    """Which axis of a site is padded, and the dimension of time in one utterance's tensor.

    Only the decoder's tokens are padded: silence that fills the encoder's window counts as input. Convolutions are
    (channels, time).
    """
    if address.startswith("enc.conv"):
        return "", 1
    keys_of_encoder = re.search(r"\.cross\.[kv]_proj$", address)
    return ("tokens" if address.startswith(("dec.", "proj_out")) and not keys_of_encoder else ""), 0


def whisper_rows(config: PreTrainedConfig, site: str) -> float:
    """How often a site's products run for each frame of the encoder."""
    if site.startswith("dec."):
        return 1 / FRAMES_PER_TOKEN
    return 2.0 if site == "enc.conv1:input" else 1.0


def whisper_stages(model: PreTrainedModel) -> list[str]:
    """Modules in the order of computation; each takes one tensor first, and all that follows hangs on it.

    Decoders see all of the encoder, so that no module of theirs is one.
    """
    encoder = "model.encoder"
    layers = [f"{encoder}.layers.{i}" for i in range(len(model.model.encoder.layers))]
    return [f"{encoder}.conv1", f"{encoder}.conv2", *layers, f"{encoder}.layer_norm"]


def ctc_table(model: PreTrainedModel) -> Iterator[tuple[str, str]]:
    """Address and module of all sites of a wav2vec 2.0 or HuBERT with a CTC head."""
    base, config = model.base_model_prefix, model.config
    for i in range(len(config.conv_dim)):
        conv = f"{base}.feature_extractor.conv_layers.{i}.conv"
        yield f"cnn.{i}:input", f"{conv}:input"
        yield f"cnn.{i}", conv
    yield "feature_proj:input", f"{base}.feature_projection.projection:input"
    yield "feature_proj", f"{base}.feature_projection.projection"
    yield "pos_conv:input", f"{base}.encoder.pos_conv_embed.conv:input"
    yield "pos_conv", f"{base}.encoder.pos_conv_embed.conv"
    norms = PRE_NORM if config.do_stable_layer_norm else POST_NORM
    for i in range(config.num_hidden_layers):
        layer = CTC_LAYER | norms
        for component in (*(c for c in ATTENTION if c in layer), *FEED_FORWARD_SITES):
            yield f"enc.{i}.{component}", f"{base}.encoder.layers.{i}.{layer[component]}".removesuffix(".")
    yield "enc.norm", "lm_head:input"
    yield "ctc_head", "lm_head"


def ctc_axis(address: str) -> tuple[str, int]:
    """Frames are padded, and before them what each convolution makes of the samples: (channels, time) there."""
    if (match := re.match(r"cnn\.(\d+)(:input)?$", address)) is None:
        return "frames", int(address.startswith("pos_conv"))
    last = int(match[1]) - bool(match[2])
    return (f"cnn.{last}" if last >= 0 else "samples"), 1


def ctc_rows(config: PreTrainedConfig, site: str) -> float:
    """How often a site's products run for each frame of the encoder: a convolution's for every output of its own."""
    strides = config.conv_stride
    before = int(site.split(".")[1].removesuffix(":input")) if site.startswith("cnn.") else len(strides)
    return math.prod(strides[before + 1 :])


def ctc_stages(model: PreTrainedModel) -> list[str]:
    """Modules of a CTC model in the order of computation, each the input of all that follows (see `whisper_stages`).

    The positional convolution is no stage: the layers also read its input.
    """
    base = model.base_model_prefix
    convolutions = [f"{base}.feature_extractor.conv_layers.{i}" for i in range(len(model.config.conv_dim))]
    layers = [f"{base}.encoder.layers.{i}" for i in range(model.config.num_hidden_layers)]
    return [*convolutions, f"{base}.feature_projection", *layers, "lm_head"]
