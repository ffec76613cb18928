"""A quantized model on disk, and emulated in float.

quantized.safetensors holds every parameter once: a quantized weight as its codes under the parameter's own name,
one byte each, or packed where they have fewer bits (`quant.packing`, counted from quant_min), with `<name>.scale`
and, where asymmetric, `<name>.zero_point`; the rest as it was, in the source's number format where that loses nothing.
qparams.json holds the grid of every weight, of packed ones also bits and shape, and the scale, zero_point and range of
every activation; of one with massive channels also which these are and their grid of 16 bits (`a16`). Of what decoding
caches (`ptq.cross_cache`) each channel has a scale of its own: `<address>.channel_scale`, and "caches" in qparams.json.
smoothing.safetensors holds the scales of channels that were folded into the weights (ptq/folding.py), if any.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.models.families import family_of, tied_names
from whisperq.models.incomplete import plain_name
from whisperq.models.layer_weights import Weight
from whisperq.models.loading import load_config
from whisperq.models.sites import Watcher
from whisperq.models.weight_files import QUANTIZED as WEIGHTS
from whisperq.models.weight_files import weight_files
from whisperq.native.emulation import Put, on_grid, on_token_grids
from whisperq.ptq.folding import divide, read_scales, write_scales
from whisperq.ptq.plan import CONVOLVED
from whisperq.ptq.tensors import CHANNEL_SCALE, QPARAMS, read_qparams
from whisperq.quant.clipping import mse_weight_qparams
from whisperq.quant.grid import (
    QParams,
    dequantize,
    quantize,
    storage_dtype,
    weight_qparams,
)
from whisperq.quant.packing import pack, unpack
from whisperq.quant.wide import ActivationRange, WideQParams, fake_quantize_wide

GRIDS = {"minmax": weight_qparams, "mse": mse_weight_qparams}
Ranges = Mapping[str, ActivationRange]


@dataclass(frozen=True)
class QuantizedWeight:
    codes: Tensor  # int8 or uint8, the weight's shape
    qparams: QParams


@dataclass(frozen=True)
class PerToken:
    """Dynamic: the grid of an activation (..., d) is each token's own, from what it holds."""

    bits: int


ActivationGrid = QParams | WideQParams | PerToken


@dataclass(frozen=True)
class Quantization:
    """All grids of a quantized model: weights by parameter name, activations by site.

    scales: s (K) by site, as they are folded into the weights.
    """

    weights: dict[str, QuantizedWeight]
    activations: dict[str, ActivationGrid]
    scales: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """How weights get their scales: method minmax or mse, and how many values share one (None: a whole channel)."""

    method: str = "minmax"
    group: int | None = None


def quantize_weight(
    model: PreTrainedModel, weight: Weight, bits: int, symmetric: bool, per_channel: bool, fit: Fit = Fit()
) -> QuantizedWeight:
    """A convolution's groups run over its flattened kernel, (input channels * width)."""
    values = model.get_parameter(weight.parameter).detach()
    dims = weight.channel_dims if per_channel else 0
    qparams = GRIDS[fit.method](values, bits, symmetric=symmetric, channel_dims=dims, group=fit.group)
    return QuantizedWeight(quantize(values, qparams).to(storage_dtype(qparams)), qparams)


@torch.no_grad()
def apply_weights(model: PreTrainedModel, weights: Mapping[str, QuantizedWeight]) -> None:
    """Put the dequantized values in the place of the float ones; a tied table changes once, for both its uses."""
    for name, weight in weights.items():
        model.get_parameter(name).copy_(dequantize(weight.codes, weight.qparams))


def quantizers(activations: Mapping[str, ActivationGrid]) -> dict[str, Watcher]:
    """Watchers by site that pass each activation through its grid."""
    return {address: _quantizer(address, grid) for address, grid in activations.items()}


def _quantizer(address: str, grid: ActivationGrid) -> Watcher:
    """Scores and probabilities, the largest tensors, are made for the next operation alone: they change in place."""
    if isinstance(grid, WideQParams):
        return lambda x: fake_quantize_wide(x, grid, dim=1 if CONVOLVED.fullmatch(address) else -1)
    inner = address.endswith((".scores", ".probs"))
    return Put(on_token_grids(grid.bits) if isinstance(grid, PerToken) else on_grid(grid, in_place=inner), inner)


def stored_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """The number format of every tensor of a float model's folder, by name."""
    found: dict[str, torch.dtype] = {}
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            found |= {plain_name(n): file.get_slice(n)[:0].dtype for n in file.keys() if file.get_slice(n).get_shape()}
    return found


def save_quantization(
    model: PreTrainedModel,
    quantization: Quantization,
    ranges: Ranges,
    folder: Path,
    dtypes: Mapping[str, torch.dtype] = {},
) -> None:
    """Weights, grids and scales; `ranges` holds what each static grid covers.

    dtypes: number formats of the model's source, which what is not quantized goes back to if every value fits.
    """
    tied = tied_names(model.config)
    tensors = {}
    for name, value in model.state_dict().items():
        if name not in quantization.weights and not (name in tied and quantization.weights.keys() & tied):
            tensors[name] = _narrowed(value.detach().contiguous().cpu(), dtypes.get(name))
    if tied and tensors.keys() >= {*tied}:
        del tensors[tied[-1]]
    for name, weight in quantization.weights.items():
        tensors[name] = _stored_codes(weight)
        tensors[f"{name}.scale"] = weight.qparams.scale.contiguous().cpu()
        if weight.qparams.quant_min == 0:
            tensors[f"{name}.zero_point"] = weight.qparams.zero_point.contiguous().cpu()
    by_channel = {a: q for a, q in quantization.activations.items() if isinstance(q, QParams) and q.scale.dim()}
    whole = {a: q for a, q in quantization.activations.items() if a not in by_channel}
    tensors |= {f"{a}{CHANNEL_SCALE}": q.scale.contiguous().cpu() for a, q in by_channel.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    content = {
        "weights": {n: _grid(w.qparams) | _packing(w) for n, w in quantization.weights.items()},
        "activations": {a: _activation(q, ranges.get(a)) for a, q in whole.items()},
        "caches": {a: _grid(q) for a, q in by_channel.items()},
    }
    (folder / QPARAMS).write_text(json.dumps(content, indent=1) + "\n")
    write_scales(quantization.scales, folder)


def _narrowed(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """`value` in the number format `dtype` if that keeps every value exactly, else unchanged."""
    if dtype is None or dtype == value.dtype:
        return value
    narrow = value.to(dtype)
    return narrow if torch.equal(narrow.to(value.dtype), value) else value


def _activation(grid: ActivationGrid, covered: ActivationRange | None) -> dict[str, Any]:
    if isinstance(grid, PerToken):
        return {"quant_min": 0, "quant_max": 2**grid.bits - 1, "granularity": "per-token"}
    if covered is None:
        raise ValueError("a static grid is written with the range that it covers")
    return covered.as_dict()


def _grid(qparams: QParams) -> dict[str, Any]:
    ends = {"quant_min": qparams.quant_min, "quant_max": qparams.quant_max}
    if qparams.group is not None:
        return {**ends, "granularity": "per-group", "group": qparams.group}
    return {**ends, "granularity": "per-tensor" if qparams.scale.dim() == 0 else "per-channel"}


def _packing(weight: QuantizedWeight) -> dict[str, Any]:
    """Manifest entries needed to unpack codes; none for 8 bits, which are stored unpacked."""
    bits = _bits(weight.qparams)
    return {} if bits == 8 else {"bits": bits, "shape": list(weight.codes.shape)}


def _bits(qparams: QParams) -> int:
    return (qparams.quant_max - qparams.quant_min).bit_length()


def _stored_codes(weight: QuantizedWeight) -> Tensor:
    bits, codes = _bits(weight.qparams), weight.codes.contiguous().cpu()
    return codes if bits == 8 else pack(codes.to(torch.int16) - weight.qparams.quant_min, bits)


def load_quantized(folder: Path, dtype: torch.dtype, device: str) -> tuple[PreTrainedModel, Quantization]:
    """The model with dequantized weights, and its grids. Raises InputError."""
    config = load_config(folder)
    content = read_qparams(folder, config)
    tensors = load_file(folder / WEIGHTS)
    weights = {name: read_weight(tensors.__getitem__, name, grid) for name, grid in content["weights"].items()}
    activations = {a: _read_activation(entry, device) for a, entry in content["activations"].items()}
    for address, entry in content.get("caches", {}).items():
        scale = tensors[f"{address}{CHANNEL_SCALE}"].to(device)
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        activations[address] = QParams(scale, zero_point, entry["quant_min"], entry["quant_max"])
    model = family_of(config).build(config)
    grids = (".scale", ".zero_point", CHANNEL_SCALE)
    floats = {n: t for n, t in tensors.items() if n not in weights and not n.endswith(grids)}
    model.load_state_dict(floats, strict=False)  # all are there, by the checks above; quantized weights follow
    apply_weights(model, weights)
    scales = read_scales(folder)
    divide(model, scales)
    model.to(device, dtype)  # type: ignore[arg-type]  # transformers' decorator forgets that it is a method
    return model.eval(), Quantization(weights, activations, scales)


def read_weight(tensor: Callable[[str], Tensor], name: str, grid: Mapping[str, Any]) -> QuantizedWeight:
    """tensor: reads one of the file by its name. Raises ValueError where packed codes do not fit their shape."""
    codes, scale = tensor(name), tensor(f"{name}.scale")
    asymmetric = grid["quant_min"] == 0
    zero_point = tensor(f"{name}.zero_point") if asymmetric else torch.zeros_like(scale, dtype=torch.int32)
    qparams = QParams(scale, zero_point, grid["quant_min"], grid["quant_max"], grid.get("group"))
    if "shape" in grid:
        codes = (unpack(codes, grid["bits"], grid["shape"]).to(torch.int16) + qparams.quant_min).to(
            storage_dtype(qparams)
        )
    return QuantizedWeight(codes, qparams)


def _read_activation(entry: Mapping[str, Any], device: str) -> ActivationGrid:
    if entry["granularity"] == "per-token":
        return PerToken(int(entry["quant_max"]).bit_length())
    # The range again, not the printed scale: the same arithmetic gives the same bits.
    grid = ActivationRange.of(entry).grid()
    if isinstance(grid, WideQParams):
        return WideQParams(_moved(grid.main, device), _moved(grid.wide, device), grid.channels.to(device))
    return _moved(grid, device)


def _moved(grid: QParams, device: str) -> QParams:
    return replace(grid, scale=grid.scale.to(device), zero_point=grid.zero_point.to(device))
