"""A model's weights by their files' headers alone: names, shapes and number formats, without reading a value.

What config.json claims is held against them before any module is built: a layer count of a million would be built for
minutes before its weights are found missing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from whisperq.errors import InputError
from whisperq.models.families import family_of
from whisperq.models.incomplete import plain_name
from whisperq.models.layer_weights import layer_weights
from whisperq.models.sites import canonical, model_sites

FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Held:
    """One tensor as its file's header describes it."""

    shape: tuple[int, ...]
    dtype: str  # safetensors' name: F32, I8, ...
    path: Path


@dataclass(frozen=True)
class Weight:
    """A quantizable weight: the leading dimensions that may each have scales, and the site that its layer takes in."""

    channel_dims: int
    site: str


@dataclass(frozen=True)
class Expected:
    """What a configuration asks of the tensors: shapes by name, quantizable weights, and addresses of all sites."""

    shapes: Mapping[str, tuple[int, ...]]
    whole: frozenset[str]  # names of tensors of whole numbers
    weights: Mapping[str, Weight]
    sites: frozenset[str]

    def width(self, site: str) -> int | None:
        """Channels of a site that quantizable weights take in; None of any other."""
        widths = [self.shapes[name][1] for name, weight in self.weights.items() if weight.site == site]
        return max(widths, default=None)


def headers(paths: Iterable[Path]) -> dict[str, Held]:
    """Every tensor by name. Raises InputError for a file that is no safetensors file."""
    found = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    part = file.get_slice(name)
                    found[plain_name(name)] = Held(tuple(part.get_shape()), part.get_dtype(), path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"the weights of {path.parent} cannot be read: {path.name}: {error}") from error
    return found


def expected_of(folder: Path, config: PreTrainedConfig) -> Expected:
    """The network on the meta device, which has no memory for its weights. Raises InputError where there is none."""
    try:
        with torch.device("meta"):
            model = family_of(config).build(config)
    except Exception as error:  # transformers and PyTorch refuse sizes that do not fit with errors of their own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / 'config.json'} cannot be used: {reason}") from error
    tensors, sites = model.state_dict(), model_sites(model)
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    weights = {
        w.parameter: Weight(w.channel_dims, canonical(f"{w.address}:input")) for w in layer_weights(model, sites)
    }
    whole = frozenset(name for name, t in tensors.items() if not t.is_floating_point())
    return Expected(shapes, whole, weights, frozenset(sites))


def all_finite(values: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite: their sum says so in one pass, unless it overflows by itself."""
    if not values.is_floating_point() or values.sum(dtype=torch.float32).isfinite():
        return True
    return bool(values.isfinite().all())
