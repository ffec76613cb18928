"""Norms whose outputs only linear layers read, and smoothing folded into both.

    norm.weight / s,  norm.bias / s,  W[:, j] * s_j         for every W that reads the norm

attn_norm: q, k, v and the gate; in cross-attention q and the gate alone, for k and v read the encoder: enc.norm feeds
those of every decoder layer. mlp_norm: fc1. Not smoothed: what no norm precedes (out_proj, fc2, the convolutions),
and dec.norm, whose reader proj_out is tied to the embedding, so that scaled columns would change every token's vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whisperq.errors import InputError
from whisperq.models.plan import layer_weights
from whisperq.models.sites import canonical, model_sites
from whisperq.quant.smoothing import ChannelExtrema, smoothing_scales

CHANNELS = "channel_maxima.safetensors"
REMEDY = "run whisperq calibrate --channel-maxima --force first"


@dataclass(frozen=True)
class NormReaders:
    """A norm's module, and the parameters of all layers that read its output."""

    norm: str
    weights: list[str] = field(default_factory=list)


def norm_readers(model: nn.Module) -> dict[str, NormReaders]:
    """By the site of the norm's output; a gate that looks at each head reads it through its first layer alone."""
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
def smooth(model: nn.Module, maxima: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Fold smoothing into the model, in place; its outputs stay what they were.

    maxima: max|x_j| (d_model) by the site of a norm -> s (d_model) of each. A gate that heads share has one column for
    a position in each of them, so that heads have their s in common.
    """
    readers, scales = norm_readers(model), {}
    for site, maximum in maxima.items():
        norm = model.get_submodule(readers[site].norm)
        weights = [model.get_parameter(name) for name in readers[site].weights]
        period = min([len(maximum), *(w.shape[1] for w in weights if w.dim() == 2)])
        largest = torch.stack([_column_maxima(w, len(maximum)) for w in weights]).amax(dim=0)
        moved = smoothing_scales(_common(maximum, period), _common(largest, period), alpha).to(norm.weight)
        norm.weight.div_(moved)
        norm.bias.div_(moved)
        for weight in weights:
            weight.mul_(_columns(weight, moved))
        scales[site] = moved
    return scales


def _column_maxima(weight: Tensor, width: int) -> Tensor:
    """max|w_j| (width) of (N, width), of a map by head (heads, N, d_head), or of one shared by heads (N, d_head)."""
    maxima = weight.abs().amax(dim=-2).flatten()
    return maxima.repeat(width // len(maxima))


def _columns(weight: Tensor, scales: Tensor) -> Tensor:
    """scales (d_model) as the columns of this weight see them, broadcastable to it."""
    return scales[: weight.shape[1]] if weight.dim() == 2 else scales.view(len(weight), 1, -1)


def _common(values: Tensor, period: int) -> Tensor:
    """values (K) -> (K), the greatest of all heads' for each position in a head of `period`."""
    return values.view(-1, period).amax(dim=0).repeat(len(values) // period)


def write_channels(channels: Mapping[str, ChannelExtrema], folder: Path) -> None:
    """<site>.minima and <site>.maxima, (batches, d_model)."""
    tensors = {}
    for site, extrema in channels.items():
        tensors |= {f"{site}.minima": torch.stack(extrema.minima), f"{site}.maxima": torch.stack(extrema.maxima)}
    save_file(tensors, folder / CHANNELS)


def read_channels(folder: Path, sites: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Minima and maxima (batches, d_model) of each of these sites. Raises InputError where there are none."""
    held = held_channels(folder)
    absent = [s for s in sites if s not in held]
    if sites and len(absent) == len(sites):
        raise InputError(f"{folder} has no maxima of channels, which smoothing needs; {REMEDY}")
    if absent:
        raise InputError(f"{folder} has no maxima of the channels of {absent[0]}; {REMEDY}, without --sites")
    return {s: held[s] for s in sites}


def held_channels(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Minima and maxima (batches, d_model) of every site that has them. Raises InputError for a broken file."""
    try:
        tensors = load_file(folder / CHANNELS) if (folder / CHANNELS).exists() else {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / CHANNELS} cannot be read: {error}") from error
    sites = [name.removesuffix(".minima") for name in tensors if name.endswith(".minima")]
    return {s: (tensors[f"{s}.minima"], tensors[f"{s}.maxima"]) for s in sites}
