"""A model's tensors on disk as arrays, float or quantized, without a network around them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from whisperq.errors import InputError
from whisperq.models.gated_whisper import GatedWhisperConfig
from whisperq.models.loading import load_config
from whisperq.quant.grid import QParams, range_qparams
from whisperq.runtime.quantized import QPARAMS, WEIGHTS


@dataclass(frozen=True)
class Codes:
    """A symmetrically quantized weight: int8 codes and its scale, () or (channels, ..., 1)."""

    codes: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Stored:
    """Tensors by parameter name; grids by weight and by site, none for a float model."""

    folder: Path
    config: GatedWhisperConfig
    files: Mapping[str, Path]  # tensor name -> the file that holds it
    weights: Mapping[str, Any]
    activations: Mapping[str, QParams]

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def float(self, name: str) -> np.ndarray:
        """A tensor's values in float32, quantized or not. Raises InputError where the model has none of this name."""
        if (quantized := self.codes(name)) is not None:
            return quantized.codes.astype(np.float32) * quantized.scale
        return self._read(name).to(torch.float32).numpy()

    def codes(self, name: str) -> Codes | None:
        """A quantized weight; None where it is float."""
        if name not in self.weights:
            return None
        return Codes(self._read(name).numpy(), self._read(f"{name}.scale").numpy())

    def _read(self, name: str) -> torch.Tensor:
        if name not in self.files:
            raise InputError(f"the weights of {self.folder} do not fit its config.json: {name} is missing")
        # Opened anew each time: pages that have been read are given back with the tensor, not at the end.
        with safe_open(self.files[name], "pt") as file:
            return file.get_tensor(name)


def open_stored(folder: Path, most_bits: int = 8) -> Stored:
    """Tensors are read when they are asked for; activations have at most `most_bits`. Raises InputError."""
    config = load_config(folder)
    quantized = (folder / WEIGHTS).exists()
    paths = [folder / WEIGHTS] if quantized else sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise InputError(f"the weights of {folder} cannot be read: it has no safetensors")
    try:
        content = json.loads((folder / QPARAMS).read_text()) if quantized else {"weights": {}, "activations": {}}
        files = {name: path for path in paths for name in _names(path)}
        weights, activations = content["weights"], _activations(content["activations"], most_bits)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"the weights of {folder} cannot be read: {error}") from error
    return Stored(folder, config, files, weights, activations)


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def _activations(entries: Mapping[str, Any], most_bits: int) -> dict[str, QParams]:
    """From the ranges, not the printed scales: the same arithmetic gives the same bits as emulation."""
    return {
        address: range_qparams(*entry["range"], bits=min(most_bits, int(entry["quant_max"] + 1).bit_length() - 1))
        for address, entry in entries.items()
    }
