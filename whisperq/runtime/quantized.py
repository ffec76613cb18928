"""A quantized model on disk, and emulated in float.

quantized.safetensors holds every parameter once: a quantized weight as its codes (one byte each) under
the parameter's own name, with `<name>.scale` and, where asymmetric, `<name>.zero_point`; the rest as it
was. qparams.json holds the grid of every weight and the scale, zero_point and range of every activation.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whisperq.errors import InputError
from whisperq.models.gated_whisper import GatedWhisperForConditionalGeneration
from whisperq.models.loading import load_config
from whisperq.models.plan import Weight
from whisperq.models.sites import Watcher
from whisperq.quant.grid import (
    QParams,
    dequantize,
    fake_quantize,
    quantize,
    range_qparams,
    storage_dtype,
    weight_qparams,
)

WEIGHTS = "quantized.safetensors"
QPARAMS = "qparams.json"


@dataclass(frozen=True)
class QuantizedWeight:
    codes: Tensor  # int8 or uint8, the weight's shape
    qparams: QParams


@dataclass(frozen=True)
class Quantization:
    """All grids of a quantized model: weights by parameter name, activations by site."""

    weights: dict[str, QuantizedWeight]
    activations: dict[str, QParams]


def quantize_weight(model: nn.Module, weight: Weight, bits: int, symmetric: bool, per_channel: bool) -> QuantizedWeight:
    values = model.get_parameter(weight.parameter).detach()
    dims = weight.channel_dims if per_channel else 0
    qparams = weight_qparams(values, bits, symmetric=symmetric, channel_dims=dims)
    return QuantizedWeight(quantize(values, qparams).to(storage_dtype(qparams)), qparams)


@torch.no_grad()
def apply_weights(model: nn.Module, weights: Mapping[str, QuantizedWeight]) -> None:
    """Put the dequantized values in the place of the float ones; a tied table changes once, for both its uses."""
    for name, weight in weights.items():
        model.get_parameter(name).copy_(dequantize(weight.codes, weight.qparams))


def quantizers(activations: Mapping[str, QParams]) -> dict[str, Watcher]:
    """What to watch sites with, so that each activation passes through its grid."""

    def watcher(qparams: QParams) -> Watcher:
        return lambda x: fake_quantize(x, qparams)

    return {address: watcher(qparams) for address, qparams in activations.items()}


def save_quantization(model: nn.Module, quantization: Quantization, ranges: Mapping[str, Any], folder: Path) -> None:
    """Weights and grids; `ranges` maps each activation to its (minimum, maximum)."""
    tied = {"proj_out.weight", "model.decoder.embed_tokens.weight"}
    tensors = {}
    for name, value in model.state_dict().items():
        if name not in quantization.weights and not (name in tied and tied & quantization.weights.keys()):
            tensors[name] = value.detach().contiguous().cpu()
    if len(tied & tensors.keys()) == 2:
        del tensors["proj_out.weight"]
    for name, weight in quantization.weights.items():
        tensors[name] = weight.codes.contiguous().cpu()
        tensors[f"{name}.scale"] = weight.qparams.scale.contiguous().cpu()
        if weight.qparams.quant_min == 0:
            tensors[f"{name}.zero_point"] = weight.qparams.zero_point.contiguous().cpu()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    content = {
        "weights": {n: _grid(w.qparams) for n, w in quantization.weights.items()},
        "activations": {
            a: {"scale": float(q.scale), "zero_point": int(q.zero_point), **_grid(q), "range": list(ranges[a])}
            for a, q in quantization.activations.items()
        },
    }
    (folder / QPARAMS).write_text(json.dumps(content, indent=1) + "\n")


def _grid(qparams: QParams) -> dict[str, Any]:
    return {
        "quant_min": qparams.quant_min,
        "quant_max": qparams.quant_max,
        "granularity": "per-tensor" if qparams.scale.dim() == 0 else "per-channel",
    }


def load_quantized(
    folder: Path, dtype: torch.dtype, device: str
) -> tuple[GatedWhisperForConditionalGeneration, Quantization]:
    """The model with dequantized weights, and its grids. Raises InputError."""
    try:
        tensors = load_file(folder / WEIGHTS)
        content = json.loads((folder / QPARAMS).read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"the quantized model {folder} cannot be read: {error}") from error
    weights = {name: _read_weight(tensors, name, grid) for name, grid in content["weights"].items()}
    activations = {
        # The range again, not the printed scale: the same arithmetic gives the same bits.
        address: _on(range_qparams(*entry["range"], bits=int(entry["quant_max"] + 1).bit_length() - 1), device)
        for address, entry in content["activations"].items()
    }
    model = GatedWhisperForConditionalGeneration(load_config(folder))
    floats = {n: t for n, t in tensors.items() if n not in weights and not n.endswith((".scale", ".zero_point"))}
    report = model.load_state_dict(floats, strict=False)
    absent = set(report.missing_keys) - weights.keys() - {"proj_out.weight", "model.decoder.embed_tokens.weight"}
    if absent or report.unexpected_keys:
        raise InputError(f"the weights of {folder} do not fit its config.json, such as {sorted(absent)[:1]}")
    apply_weights(model, weights)
    return model.to(device, dtype).eval(), Quantization(weights, activations)


def _read_weight(tensors: Mapping[str, Tensor], name: str, grid: Mapping[str, Any]) -> QuantizedWeight:
    scale = tensors[f"{name}.scale"]
    zero_point = tensors.get(f"{name}.zero_point", torch.zeros_like(scale, dtype=torch.int32))
    return QuantizedWeight(tensors[name], QParams(scale, zero_point, grid["quant_min"], grid["quant_max"]))


def _on(qparams: QParams, device: str) -> QParams:
    return QParams(qparams.scale.to(device), qparams.zero_point.to(device), qparams.quant_min, qparams.quant_max)
