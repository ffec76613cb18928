"""The last thing that is written of an artifact: its manifest, with the hashes of all else."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whisperq import __version__
from whisperq.disk import sync
from whisperq.hashing import file_sha256
from whisperq.references import MANIFEST

SCHEMA = 1


def seal(
    folder: Path, kind: str, command: str, config: Mapping[str, Any], inputs: Mapping[str, Any], results: dict[str, Any]
) -> None:
    """Write the manifest of all files in `folder`; sync them, readable for everybody who may read the manifest."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    manifest = {
        "kind": kind,
        "schema": SCHEMA,
        "whisperq": __version__,
        "command": command,
        "status": "complete",
        "config": config,
        "inputs": inputs,
        "results": plain(results),
        "files": {str(p.relative_to(folder)): file_sha256(p) for p in files},
    }
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    for file in files:
        sync(file)
    (folder / MANIFEST).write_text(text)
    sync(folder / MANIFEST)
    for file in files:  # safetensors writes for the owner alone; a run folder's group reads along
        file.chmod((folder / MANIFEST).stat().st_mode)


def plain(value: Any) -> Any:
    """NaN and infinity as null: strict JSON has neither, and one odd figure must not cost a day's result."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
