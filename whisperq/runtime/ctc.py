"""Connectionist temporal classification (Graves et al. 2006), greedily: the best label of each frame, repeats
collapsed, then blanks left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from whisperq.data.waveforms import Waveforms
from whisperq.models.ctc import frame_counts
from whisperq.models.layer_weights import layer_weights
from whisperq.models.module_map import ATTENTION_PRODUCTS
from whisperq.models.sites import model_sites
from whisperq.runtime.decoding import finite
from whisperq.runtime.interface import Products


class CtcRuntime(Protocol):
    """A CTC model that can be run."""

    name: str
    notices: Sequence[str]

    def logits(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Each (samples,), float32, normalised where the model wants it -> (frames, vocabulary), float32."""

    def products(self) -> Products: ...


@dataclass(frozen=True)
class CtcRules:
    """What decoding must know of a model besides its logits."""

    blank: int
    times: range = range(0)  # it writes none
    knows_times: bool = False

    @torch.inference_mode()
    def read(self, runtime: CtcRuntime, waveforms: Waveforms) -> list[list[int]]:
        """Labels of each utterance, by greedy decoding."""
        return [collapse(finite(r).argmax(dim=-1).tolist(), self.blank) for r in runtime.logits(waveforms.rows())]


def collapse(labels: Sequence[int], blank: int) -> list[int]:
    """One label for each frame -> what they spell."""
    return [label for label, _ in groupby(labels) if label != blank]


class PyTorchCtc:
    """The model as it is: float, or emulated where quantizers watch its sites. A batch's padding reaches nothing."""

    def __init__(self, model: PreTrainedModel, name: str = "float") -> None:
        self.model, self.name, self.notices = model, name, ()

    def logits(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        counts = [len(w) for w in waveforms]
        values = nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True)
        mask = Waveforms(values, tuple(counts)).mask()
        out = self.model(values.to(self.model.device, self.model.dtype), attention_mask=mask.to(self.model.device))
        frames = frame_counts(self.model.config, counts)["frames"]
        return [rows[:n].float() for rows, n in zip(out.logits, frames, strict=True)]

    def products(self) -> Products:
        return float_products(self.model, self.name)


def float_products(model: PreTrainedModel, name: str) -> Products:
    """All of a network that PyTorch computes in float."""
    sites = model_sites(model)
    layers = [w.address for w in layer_weights(model, sites)]
    attention = [a for a, site in sites.items() if site.component in ATTENTION_PRODUCTS]
    return Products(floating=dict.fromkeys(layers + attention, name))
