"""What a quantized model's folder says of the model beside its weights."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.models.plan import Plan


def describe(plan: Plan) -> dict[str, Any]:
    """How many weights and sites are quantized, which are not, and why."""
    return {
        "weights": len(plan.weights),
        "activations": len(plan.activations),
        "float_weights": plan.float_weights,
        "float_activations": plan.float_activations,
        "float_weights_by_reason": dict(Counter(plan.float_weights.values())),
        "float_activations_by_reason": dict(Counter(plan.float_activations.values())),
    }


def copy_descriptions(model: Path, folder: Path) -> None:
    """Configuration, tokenizer and feature extractor; not the manifest, nor code that would load floats."""
    for file in sorted(model.iterdir()):
        if file.suffix in (".json", ".txt") and file.name not in (artifact.MANIFEST, "model.safetensors.index.json"):
            shutil.copy(file, folder / file.name)
