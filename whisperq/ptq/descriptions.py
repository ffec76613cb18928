"""What a quantized model's folder says of the model beside its weights."""

import shutil
from collections import Counter
from pathlib import Path

from whisperq.errors import InputError
from whisperq.kinds.models import Described
from whisperq.ptq.plan import Plan


def describe(plan: Plan) -> Described:
    """How many weights and sites are quantized, which are not, and why."""
    return {
        "weights": len(plan.weights),
        "activations": len(plan.activations),
        "float_weights": plan.float_weights,
        "float_activations": plan.float_activations,
        "float_weights_by_reason": dict(Counter(plan.float_weights.values())),
        "float_activations_by_reason": dict(Counter(plan.float_activations.values())),
    }


# What a processor, a tokenizer or a configuration is saved as; nothing else of a model's folder is part of the model.
DESCRIPTIONS = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "normalizer.json",
)  # fmt: skip


def copy_descriptions(model: Path, folder: Path) -> None:
    """Configuration, tokenizer and feature extractor by name: no code, and nothing that a model's weights come in.

    Raises InputError as `descriptions` does.
    """
    for name, path in descriptions(model).items():
        shutil.copyfile(path, folder / name)


def descriptions(model: Path) -> dict[str, Path]:
    """The files that there are, by name. Raises InputError for a link out of the model's folder."""
    return {name: own_file(model, name) for name in DESCRIPTIONS if (model / name).is_file()}


def own_file(model: Path, name: str) -> Path:
    """A file of the model's folder, where it is a link, what it points to.

    Raises InputError where that lies elsewhere: what it held would become part of the copy. In the cache of the Hub
    every file is a link to a blob of the same repository.
    """
    path, home = (model / name).resolve(), model.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(path.is_relative_to(place) for place in homes):
        raise InputError(f"{model / name} is a link out of the model's folder, to {path}; put a copy in its place")
    return path
