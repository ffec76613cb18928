"""A model's tensors on disk as arrays, float or quantized, without a network around them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import PreTrainedConfig

from whisperq.errors import InputError
from whisperq.models.headers import all_finite, expected_of, headers
from whisperq.models.incomplete import stored_name
from whisperq.models.loading import load_config
from whisperq.models.weight_files import QUANTIZED as WEIGHTS
from whisperq.models.weight_files import weight_files
from whisperq.ptq.checkpoint import PerToken, QuantizedWeight, read_weight
from whisperq.ptq.folding import divisors, read_scales, table_divisor
from whisperq.ptq.tensors import check_floats, read_qparams
from whisperq.quant.grid import QParams, dequantize
from whisperq.quant.wide import ActivationRange, WideQParams


@dataclass(frozen=True)
class Codes:
    """A symmetrically quantized weight: int8 codes and its scale, () or (channels, ..., 1)."""

    codes: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Stored:
    """Tensors by parameter name; grids by weight and by site, none for a float model.

    weights: those that an integer product can take; grouped: those with several scales for an output, which sums of
    integers cannot tell apart, so that they are used as floats.
    """

    folder: Path
    config: PreTrainedConfig
    files: Mapping[str, Path]  # tensor name -> the file that holds it
    weights: Mapping[str, Any]
    grouped: Mapping[str, Any]
    activations: Mapping[str, QParams | WideQParams | PerToken]
    divisors: Mapping[str, torch.Tensor]  # by site (K), what its channels are divided by (ptq/folding.py)
    table_divisor: torch.Tensor | None  # (d_model), what looked-up rows of the token table are divided by

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def float(self, name: str) -> np.ndarray:
        """A tensor's values in float32, quantized or not. Raises InputError where the model has none of this name."""
        if name in self.weights or name in self.grouped:
            weight = self._quantized(name)
            return dequantize(weight.codes, weight.qparams).numpy()
        return self._read(name).to(torch.float32).numpy()

    def codes(self, name: str) -> Codes | None:
        """A weight for integer products; None where it is float or grouped. Raises InputError."""
        if name not in self.weights:
            return None
        weight = self._quantized(name)
        return Codes(weight.codes.numpy(), weight.qparams.scale.numpy())

    def integers(self, name: str) -> Codes:
        """Integer codes of a weight that an integer product takes. Raises InputError where it has none."""
        if (codes := self.codes(name)) is None:
            raise InputError(f"{name} of {self.folder} has no codes that an integer product takes")
        return codes

    def _quantized(self, name: str) -> QuantizedWeight:
        return read_weight(self._read, name, self.weights.get(name) or self.grouped[name])

    def _read(self, name: str) -> torch.Tensor:
        if name not in self.files:
            if (parts := self._weight_norm(name)) is not None:
                length, direction = (self._read(part).to(torch.float32) for part in parts)
                return torch._weight_norm(direction, length, dim=2)
            raise InputError(f"the weights of {self.folder} do not fit its config.json: {name} is missing")
        # Opened anew each time: pages that have been read are given back with the tensor, not at the end.
        with safe_open(self.files[name], "pt") as file:
            values = file.get_tensor(stored_name(file, name))
        if not self.weights and not all_finite(values):  # of a quantized model that is known
            raise InputError(f"the weights of {self.folder} are not finite: {name} holds NaN or infinite values")
        return values

    def _weight_norm(self, name: str) -> tuple[str, str] | None:
        """The names of g and v of a weight g v / |v|, as newer and older PyTorch write them; None where it is none."""
        new = f"{name.removesuffix('.weight')}.parametrizations.weight.original"
        pairs = ((f"{new}0", f"{new}1"), (f"{name}_g", f"{name}_v"))
        return next((pair for pair in pairs if pair[0] in self.files), None)


def open_stored(folder: Path, most_bits: int = 8) -> Stored:
    """Tensors are read when they are asked for; activations have at most `most_bits`. Raises InputError."""
    config = load_config(folder)
    paths = weight_files(folder)
    if not paths:
        raise InputError(f"the weights of {folder} cannot be read: it has no safetensors")
    quantized = paths[0].name == WEIGHTS
    content = read_qparams(folder, config) if quantized else {"weights": {}, "activations": {}}
    held = headers(paths)
    if not quantized:
        check_floats(folder, expected_of(folder, config), held)
    files = {name: one.path for name, one in held.items()}
    weights = content["weights"]
    grouped = {name: grid for name, grid in weights.items() if grid.get("group")}
    activations = _activations(content["activations"], most_bits)
    whole = {name: grid for name, grid in weights.items() if name not in grouped}
    scales = read_scales(folder) if quantized else {}
    table = table_divisor(config, scales)
    return Stored(folder, config, files, whole, grouped, activations, divisors(scales), table)


def _activations(entries: Mapping[str, Any], most_bits: int) -> dict[str, QParams | WideQParams | PerToken]:
    """Grids of activations by address, computed from ranges, not stored scales: emulation then has the same bits."""
    grids: dict[str, QParams | WideQParams | PerToken] = {}
    for address, entry in entries.items():
        if entry["granularity"] == "per-token":
            grids[address] = PerToken(min(most_bits, int(entry["quant_max"]).bit_length()))
        else:
            grids[address] = ActivationRange.of(entry).grid(most_bits)
    return grids
