"""What mixed precision came to: every weight's bits, and the bytes on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.kinds.models import StoredSizes
from whisperq.ptq.checkpoint import WEIGHTS
from whisperq.training.mixed import MixedWeights


def entries(weights: MixedWeights, choice: Sequence[int], probable: Tensor | None) -> list[dict[str, Any]]:
    """Each weight with its bits, in the order of computation; where bits were learned, how probable each width was."""
    found = []
    for i, (site, size) in enumerate(zip(weights.sites, weights.sizes, strict=True)):
        entry = {"address": site.address, "parameter": site.parameter, "parameters": size}
        entry["bits"] = weights.widths[choice[i]]
        if probable is not None:
            entry["most_probable"] = weights.widths[int(probable[i].argmax())]
            entry["probabilities"] = dict(zip(map(str, weights.widths), probable[i].tolist(), strict=True))
        found.append(entry)
    return found


def sizes(folder: Path, network: PreTrainedModel, weights: MixedWeights) -> StoredSizes:
    """Bytes on disk against those of float32: of the quantized weights, codes and scales, and of the whole file."""
    stored, names = load_file(folder / WEIGHTS), [site.parameter for site in weights.sites]
    parts = sum(stored[key].nbytes for name in names for key in (name, f"{name}.scale"))
    floats, whole = 4 * sum(weights.sizes), (folder / WEIGHTS).stat().st_size
    everything = 4 * sum(p.numel() for p in network.parameters())
    return {
        "quantized_bytes": parts,
        "quantized_float_bytes": floats,
        "quantized_ratio": floats / parts,
        "bytes": whole,
        "float_bytes": everything,
        "ratio": everything / whole,
    }
