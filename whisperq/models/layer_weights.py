"""The weights of a model that can be quantized: of linear layers and convolutions, by the address of their site."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from whisperq.models.gated_whisper import HeadLinear
from whisperq.models.sites import Site

AROUND_BLOCKS = re.compile(r"enc\.conv[12]|proj_out|cnn\.\d+|feature_proj|pos_conv|ctc_head")
IN_BLOCKS = ("q_proj", "k_proj", "v_proj", "gate", "out_proj", "fc1", "fc2")


@dataclass(frozen=True)
class Weight:
    """A quantizable weight: its layer's address, its parameter's name, and the leading dims of a channel."""

    address: str
    parameter: str
    channel_dims: int


def layer_weights(model: nn.Module, sites: Mapping[str, Site]) -> list[Weight]:
    """All weights of the blocks' linear layers, of the convolutions and of what lies around them."""
    found = []
    for site in sites.values():
        if site.is_input or not (site.component in IN_BLOCKS or AROUND_BLOCKS.fullmatch(site.address)):
            continue
        for name, module in model.get_submodule(site.module).named_modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, HeadLinear)):
                parameter = ".".join(p for p in (site.module, name, "weight") if p)
                found.append(Weight(site.address, parameter, 2 if isinstance(module, HeadLinear) else 1))
    return found
