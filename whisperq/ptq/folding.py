"""Scales of a site's channels folded into the model, whose function in float stays what it was.

    x_j / s_j  where the site is made,      W[:, j] s_j  in every layer that reads it

site             made by                          read by
a norm           its weight and bias              the layers behind it (`norms`)
context          rows and bias of v_proj          out_proj; gates of every kind multiply each channel apart
dec.norm         its weight and bias              proj_out, and the token embedding, whose table that is
conv2's input    nothing linear                   conv2; likewise cnn.1, cnn.2, ... of wav2vec 2.0 and HuBERT

Where a table is tied, a looked-up row is divided by s; where a convolution follows a GELU, its input is. These two
divisors are part of the model wherever it runs: `divide` puts them into a PyTorch model, integer runtimes and exported
graphs read them from the artifact.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from whisperq.errors import InputError
from whisperq.models.families import tied_names
from whisperq.models.layer_weights import layer_weights
from whisperq.models.sites import canonical, model_sites
from whisperq.ptq.smoothing import column_maxima, columns, common, norm_readers

SCALES = "smoothing.safetensors"
CONVOLUTION = re.compile(r"(enc\.conv2|cnn\.[1-9]\d*):input")
TABLE_SITE, TABLE = "dec.norm", "model.decoder.embed_tokens"


@dataclass(frozen=True)
class Fold:
    """Parameters that are divided by s along their first dimension, and weights that are multiplied by it."""

    makers: tuple[str, ...]
    readers: tuple[str, ...]
    period: int | None = None  # channels of which each head has its own, where a gate shares its columns among heads


def foldable(model: PreTrainedModel) -> dict[str, Fold]:
    """Site -> fold, of all sites that can be scaled, in the order of computation."""
    sites, parameters = model_sites(model), dict(model.named_parameters())
    found = {site: _norm(model, r.norm, tuple(r.weights)) for site, r in norm_readers(model).items()}
    for weight in layer_weights(model, sites):
        site = sites[canonical(f"{weight.address}:input")]
        if site.component == "context":
            maker = weight.parameter.removesuffix("out_proj.weight") + "v_proj"
            makers = tuple(name for p in ("weight", "bias") if (name := f"{maker}.{p}") in parameters)
            found[site.address] = Fold(makers, (weight.parameter,))
        elif CONVOLUTION.fullmatch(site.address):
            found[site.address] = Fold((), (weight.parameter,))
        elif site.address == TABLE_SITE:
            found[site.address] = _norm(model, site.module, (weight.parameter,))
    return {address: found[address] for address in sites if address in found}


def _norm(model: PreTrainedModel, module: str, readers: tuple[str, ...]) -> Fold:
    width = len(model.get_parameter(f"{module}.weight"))
    shared = [w.shape[1] for name in readers if (w := model.get_parameter(name)).dim() == 2 and w.shape[1] < width]
    return Fold((f"{module}.weight", f"{module}.bias"), readers, min(shared, default=None))


def weight_maxima(model: PreTrainedModel, fold: Fold, width: int) -> Tensor:
    """max|W_ij| (K) over all readers; K: `width` of the site."""
    found = []
    for name in fold.readers:
        weight = model.get_parameter(name).detach()
        found.append(weight.abs().amax(dim=(0, 2)) if _convolves(weight, width) else column_maxima(weight, width))
    return alike(fold, torch.stack(found).amax(dim=0))


def alike(fold: Fold, values: Tensor) -> Tensor:
    """values (K), where heads share columns the greatest of all heads' for each position in a head."""
    return values if fold.period is None else common(values, fold.period)


def whole_readers(model: PreTrainedModel, fold: Fold, width: int) -> Tensor:
    """The weights that take in whole rows, one below the other: (N, K), of a convolution (N, width * K)."""
    weights = [model.get_parameter(name).detach() for name in fold.readers]
    if _convolves(weights[0], width):
        return weights[0].transpose(1, 2).flatten(1)
    return torch.cat([w for w in weights if w.dim() == 2 and w.shape[1] == width])


@torch.no_grad()
def fold(model: PreTrainedModel, scales: Mapping[str, Tensor]) -> None:
    """Scale these sites by s (K) each, in place; the outputs stay what they were."""
    folds = foldable(model)
    for site, s in scales.items():
        for name in folds[site].makers:
            parameter = model.get_parameter(name)
            parameter.div_(s if parameter.dim() == 1 else s[:, None])
        for name in folds[site].readers:
            weight = model.get_parameter(name)
            weight.mul_(s[:, None] if _convolves(weight, len(s)) else columns(weight, s))
    divide(model, scales)


def divide(model: PreTrainedModel, scales: Mapping[str, Tensor]) -> None:
    """Divide what no parameter can take in, for the model's lifetime and before any watcher sees it."""
    sites = model_sites(model)
    for site, s in divisors(scales).items():
        convolution = model.get_submodule(sites[site].module)
        convolution.register_forward_pre_hook(lambda _, args, s=s[:, None]: (args[0] / s.to(args[0]), *args[1:]))
    if (table := table_divisor(model.config, scales)) is not None:
        model.get_submodule(TABLE).register_forward_hook(lambda _, args, rows: rows / table.to(rows))


def divisors(scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scales by which a runtime must divide the site itself: those of convolutions' inputs."""
    return {site: s for site, s in scales.items() if CONVOLUTION.fullmatch(site)}


def table_divisor(config: PreTrainedConfig, scales: Mapping[str, Tensor]) -> Tensor | None:
    """What a runtime must divide looked-up rows of a tied table by, (d_model); None where it is not scaled."""
    return scales.get(TABLE_SITE) if tied_names(config) else None


def write_scales(scales: Mapping[str, Tensor], folder: Path) -> None:
    """s (K), float32, by site; no file where nothing is scaled."""
    if scales:
        save_file({site: s.to(torch.float32).contiguous().cpu() for site, s in scales.items()}, folder / SCALES)


def read_scales(folder: Path) -> dict[str, Tensor]:
    """Empty for a model that was not scaled. Raises InputError."""
    if not (folder / SCALES).exists():
        return {}
    try:
        return load_file(folder / SCALES)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / SCALES} cannot be read: {error}") from error


def _convolves(weight: Tensor, width: int) -> bool:
    """Whether it is a convolution's, (N, K, time steps); of three dimensions are a gate's maps by head, too."""
    return weight.dim() == 3 and weight.shape[1] == width
