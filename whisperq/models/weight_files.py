"""Which files of a folder hold a model's weights: those that transformers reads, whatever lies beside them.

Folders from the Hub hold copies in other number formats (`model.fp32-00001-of-00002.safetensors` of whisper-large-v3),
graphs for other engines, or an optimiser's state.
"""

import json
from collections.abc import Iterable
from pathlib import Path

QUANTIZED = "quantized.safetensors"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
GRAPHS = (".onnx", ".data")


def weight_files(folder: Path) -> list[Path]:
    """The quantized weights, else the float ones."""
    if (folder / QUANTIZED).exists():
        return [folder / QUANTIZED]
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    found = sorted(folder.glob("model*.safetensors"))
    shards = _indexed(folder / INDEX)
    return [path for path in found if path.name in shards] or found


def _indexed(index: Path) -> set[str]:
    """The shards that an index names; none where it cannot be read, which whoever loads the model says."""
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def weights_size(folder: Path) -> int:
    """Bytes on disk of a model's weights: what of them is quantized with its scales, or an exported model's graphs."""
    if not (files := weight_files(folder)):
        return _total(path for path in folder.rglob("*") if path.suffix in GRAPHS)
    return _total(folder.glob("*.safetensors") if files[0].name == QUANTIZED else files)


def _total(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)
