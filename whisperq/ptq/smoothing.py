"""Norms whose outputs only linear layers read, and smoothing folded into both.

    norm.weight / s,  norm.bias / s,  W[:, j] * s_j         for every W that reads the norm

attn_norm: q, k, v and the gate; in cross-attention q and the gate alone, for k and v read the encoder: enc.norm feeds
those of every decoder layer. mlp_norm: fc1. SmoothQuant's one alpha reaches these alone; what else can be scaled, and
dec.norm, whose reader proj_out is tied to the embedding, ptq/folding.py adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.models.layer_weights import layer_weights
from whisperq.models.sites import canonical, model_sites
from whisperq.quant.smoothing import smoothing_scales


@dataclass(frozen=True)
class NormReaders:
    """A norm's module, and the parameters of all layers that read its output."""

    norm: str
    weights: list[str] = field(default_factory=list)


def norm_readers(model: PreTrainedModel) -> dict[str, NormReaders]:
    """Site of a norm's output -> the norm and the layers that read it; of a two-layer gate only the first does."""
    sites = model_sites(model)
    parameters = dict(model.named_parameters())
    found: dict[str, NormReaders] = {}
    if getattr(model.config, "do_stable_layer_norm", True) is False:  # post-norm: residual sums read its norms too
        return {}
    for weight in layer_weights(model, sites):
        site = sites[canonical(f"{weight.address}:input")]
        second = weight.parameter.replace("gate.linear", "gate.hidden")
        if second != weight.parameter and second in parameters:
            continue
        if not site.is_input and (site.component in ("attn_norm", "mlp_norm") or site.address == "enc.norm"):
            found.setdefault(site.address, NormReaders(site.module)).weights.append(weight.parameter)
    return found


@torch.no_grad()
def smooth(model: PreTrainedModel, maxima: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Fold smoothing into the model, in place; its outputs stay what they were.

    maxima: max|x_j| (d_model) by the site of a norm -> s (d_model) of each. A gate that heads share has one column for
    a position in each of them, so that heads have their s in common.
    """
    readers, scales = norm_readers(model), {}
    for site, maximum in maxima.items():
        gain, bias = (model.get_parameter(f"{readers[site].norm}.{name}") for name in ("weight", "bias"))
        weights = [model.get_parameter(name) for name in readers[site].weights]
        period = min([len(maximum), *(w.shape[1] for w in weights if w.dim() == 2)])
        largest = torch.stack([column_maxima(w, len(maximum)) for w in weights]).amax(dim=0)
        moved = smoothing_scales(common(maximum, period), common(largest, period), alpha).to(gain)
        gain.div_(moved)
        bias.div_(moved)
        for weight in weights:
            weight.mul_(columns(weight, moved))
        scales[site] = moved
    return scales


def column_maxima(weight: Tensor, width: int) -> Tensor:
    """max|w_j| (width) of (N, width), of a map by head (heads, N, d_head), or of one shared by heads (N, d_head)."""
    maxima = weight.abs().amax(dim=-2).flatten()
    return maxima.repeat(width // len(maxima))


def columns(weight: Tensor, scales: Tensor) -> Tensor:
    """scales (d_model) as the columns of this weight see them, broadcastable to it."""
    return scales[: weight.shape[1]] if weight.dim() == 2 else scales.view(len(weight), 1, -1)


def common(values: Tensor, period: int) -> Tensor:
    """values (K) -> (K), the greatest of all heads' for each position in a head of `period`."""
    return values.view(-1, period).amax(dim=0).repeat(len(values) // period)
