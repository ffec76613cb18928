"""What decoding keeps of a whole utterance: the keys and values of cross-attention, and which of them are quantized.

    k_q[j] = clip(round(k[j] / s_k[j]), -127, 127),    s_k[j] = max|k[j]| / 127        (v alike)

j: a channel, one of d_model; max|k[j]|: over all rows that calibration saw. Their memory grows with batch and audio,
not with the text, and every step reads all of it.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from whisperq.models.sites import matches_address, model_sites
from whisperq.quant.grid import QParams, range_weight_qparams
from whisperq.quant.smoothing import magnitudes

KEYS_AND_VALUES = ("k_proj", "v_proj")


def cache_sites(model: PreTrainedModel, exclude: Sequence[str] = ()) -> list[str]:
    """dec.<i>.cross.k_proj and v_proj, both of each layer or, where `exclude` names one of them, none."""
    sites = model_sites(model)
    named = [pattern.strip() for patterns in exclude for pattern in patterns.split(",")]
    patterns = [pattern for pattern in named if not pattern.endswith(":weight")]
    found = []
    for layer in [a.split(".")[1] for a in sites if a.endswith(".cross.k_proj")]:
        pair = [f"dec.{layer}.cross.{name}" for name in KEYS_AND_VALUES]
        if not any(matches_address(p, address, sites) for p in patterns for address in pair):
            found += pair
    return found


def cache_grids(channels: Mapping[str, tuple[Tensor, Tensor]], sites: Iterable[str]) -> dict[str, QParams]:
    """channels: by site the minima and maxima of its channels in each batch, (batches, d_model)."""
    grids = {}
    for site in sites:
        largest = magnitudes(*channels[site])
        grids[site] = range_weight_qparams(-largest, largest, bits=8, symmetric=True)
    return grids
