"""wav2vec 2.0 and HuBERT with a CTC head, as transformers computes them, with three changes that alter no output.

The scores and probabilities of attention have modules of their own, so that they can be watched. The positional
convolution's weight norm is folded into its weight once it is loaded. And padding reaches nothing: transformers
normalises the first convolution of the base models over the padding too, so that an utterance's words depend on
which longer one shares its batch. Here each utterance is normalised over its own time, and what a batch norm makes of
padding is silenced before the positional convolution.

    y_c(t) = (x_c(t) - mean_c) / sqrt(var_c + eps) * weight_c + bias_c,   t < T     (T: frames of this utterance)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import HubertConfig, HubertForCTC, PreTrainedConfig, PreTrainedModel, Wav2Vec2Config, Wav2Vec2ForCTC
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from whisperq.errors import InputError
from whisperq.models.incomplete import WRAPPINGS

ATTENTION = "whisperq_tapped"


class Tapped(Protocol):
    """An attention module of either network, whose scores and probabilities have modules of their own."""

    scores: nn.Module
    probs: nn.Module


def tapped_attention(
    module: Tapped, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """query, key, value (batch, heads, time, d_head), mask (batch, 1, time, keys) -> (batch, time, heads, d_head).

    mask is added to the scores. Explicitly where scores or probabilities are watched, else as PyTorch's fused kernel.
    """
    if not (module.scores._forward_hooks or module.probs._forward_hooks):
        context = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
        return context.transpose(1, 2), None
    scores = module.scores(query @ key.transpose(-2, -1) * scaling)
    probs = module.probs((scores if mask is None else scores + mask).softmax(dim=-1))
    return (probs @ value).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, tapped_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, eager_mask)


class OwnTimeNorm(nn.GroupNorm):
    """A group norm with a group for each channel, over each utterance's own frames."""

    frames: Tensor | None = None  # (batch), of this norm's input; None: nothing is padded

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channels, time)."""
        if self.frames is None:
            return super().forward(x)
        dtype, x = x.dtype, x.float()  # half precision counts no further than 65,504 frames
        inside = _inside(x, self.frames)
        count = self.frames[:, None, None]
        mean = (x * inside).sum(dim=-1, keepdim=True) / count
        variance = ((x - mean).square() * inside).sum(dim=-1, keepdim=True) / count
        normed = (x - mean) * (variance + self.eps).rsqrt()
        return (normed * self.weight[:, None] + self.bias[:, None]).to(dtype)


class SilentBatchNorm(nn.BatchNorm1d):
    """A batch norm before the positional convolution, with zeros after the end of each utterance."""

    frames: Tensor | None = None  # (batch)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channels, time)."""
        normed = super().forward(x)
        return normed if self.frames is None else normed * _inside(x, self.frames)


def _inside(x: Tensor, frames: Tensor) -> Tensor:
    """x (batch, channels, time), frames (batch) -> (batch, 1, time), whether a frame is the utterance's own."""
    return (torch.arange(x.shape[-1], device=x.device) < frames[:, None])[:, None]


if TYPE_CHECKING:
    Network = PreTrainedModel
else:
    Network = object


class _Ours(Network):
    """Changes to both networks: named attention sites, and norms that leave padding out."""

    def __init__(self, config: PreTrainedConfig) -> None:
        config._attn_implementation = ATTENTION
        super().__init__(config)
        base: Any = self.base_model  # whose parts PreTrainedModel's annotations do not know
        for layer in base.encoder.layers:
            layer.attention.scores, layer.attention.probs = nn.Identity(), nn.Identity()
        if config.feat_extract_norm == "group":
            base.feature_extractor.conv_layers[0].layer_norm.__class__ = OwnTimeNorm
        if getattr(config, "conv_pos_batch_norm", False):
            base.encoder.pos_conv_embed.batch_norm.__class__ = SilentBatchNorm

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """input_values (batch, samples); attention_mask (batch, samples), 1 where a sample is the utterance's own."""
        own = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.sum(dim=-1)
        base: Any = self.base_model
        first, positional = base.feature_extractor.conv_layers[0], base.encoder.pos_conv_embed
        if self.config.feat_extract_norm == "group":
            kernel, stride = self.config.conv_kernel[0], self.config.conv_stride[0]
            first.layer_norm.frames = None if own is None else (own - kernel) // stride + 1
        if getattr(self.config, "conv_pos_batch_norm", False):
            positional.batch_norm.frames = None if own is None else base._get_feat_extract_output_lengths(own)
        return super().forward(input_values, attention_mask=attention_mask, **kwargs)


class OurWav2Vec2(_Ours, Wav2Vec2ForCTC):
    """wav2vec 2.0 (Baevski et al. 2020)."""


class OurHubert(_Ours, HubertForCTC):
    """HuBERT (Hsu et al. 2021)."""


NETWORKS: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "wav2vec2": (Wav2Vec2Config, OurWav2Vec2),
    "hubert": (HubertConfig, OurHubert),
}


def read_ctc_config(content: dict) -> PreTrainedConfig:
    """Raises InputError, to be said of the model's folder, for what whisperq does not compute."""
    config = NETWORKS[content["model_type"]][0].from_dict(content)
    if getattr(config, "add_adapter", False) or getattr(config, "adapter_attn_dim", None) is not None:
        raise InputError("has adapters, which whisperq does not take; merge or remove them first")
    if config.vocab_size is None:
        raise InputError("names no vocab_size, so that it has no CTC head; take a fine-tuned model")
    config.apply_spec_augment = False  # noise of their own training; what is trained here has none
    return config


def build_ctc(config: PreTrainedConfig) -> PreTrainedModel:
    """The network with random weights, its positional weight folded."""
    return fold_weight_norm(NETWORKS[config.model_type][1](config))


def load_ctc(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> tuple[PreTrainedModel, dict]:
    # With output_loading_info it gives a pair, of which its annotation does not know.
    loaded: Any = NETWORKS[config.model_type][1].from_pretrained(
        folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, key_mapping=WRAPPINGS
    )
    model, report = loaded
    # What pretraining alone needs; many a published checkpoint lacks it, others have more of it.
    for problem in ("missing_keys", "unexpected_keys"):
        report[problem] = {k for k in report[problem] if not str(k).endswith("masked_spec_embed")}
    return fold_weight_norm(model), report


def fold_weight_norm(model: PreTrainedModel) -> PreTrainedModel:
    """The positional convolution's weight g v / |v| as one parameter."""
    base: Any = model.base_model
    conv = base.encoder.pos_conv_embed.conv
    if parametrize.is_parametrized(conv, "weight"):
        parametrize.remove_parametrizations(conv, "weight")
    return model


def frame_counts(config: PreTrainedConfig, samples: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """How many samples, outputs of each convolution (cnn.<i>) and frames the utterances have, by `Site.axis`."""
    lengths = {"samples": tuple(samples)}
    counts = list(samples)
    for i, (kernel, stride) in enumerate(zip(config.conv_kernel, config.conv_stride, strict=True)):
        counts = [(n - kernel) // stride + 1 for n in counts]
        lengths[f"cnn.{i}"] = tuple(counts)
    return lengths | {"frames": tuple(counts)}


def shortest(config: PreTrainedConfig) -> int:
    """Least number of samples that make one frame."""
    count = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        count = (count - 1) * stride + kernel
    return count
