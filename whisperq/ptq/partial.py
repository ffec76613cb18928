"""A model between float and quantized: any part of it in integers, the rest as it was.

A part is an attention or feed-forward block (`enc.0`, `dec.1.cross`, `dec.1.mlp`) or what lies around the blocks
(`enc.conv1`, `enc.norm`, `proj_out`), or by site one activation (`enc.0.attn_norm`) or one layer's weight
(`enc.0.fc1:weight`). The weight of proj_out is the table of the token embedding too: both change together.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.data.batches import Batch, teacher_forced
from whisperq.models.families import family_of
from whisperq.models.layer_weights import layer_weights
from whisperq.models.module_map import ATTENTION
from whisperq.models.sites import model_sites, watch
from whisperq.ptq.checkpoint import Quantization, apply_weights, quantizers
from whisperq.ptq.plan import CONVOLVED
from whisperq.ptq.smoothing import norm_readers, smooth


@dataclass
class Part:
    """Weights (by parameter name) and activations (by site) that are quantized, or left in float, together."""

    exclude: str  # names it in quantize's --exclude
    weights: set[str] = field(default_factory=set)
    activations: set[str] = field(default_factory=set)
    trained: bool = False  # with the norms and biases of a quantized model that was trained


class PartiallyQuantized:
    """A float model of which any set of weights and activations can be quantized for a while."""

    def __init__(
        self, model: PreTrainedModel, quantization: Quantization, trained: Mapping[str, Tensor] | None = None
    ) -> None:
        """trained: parameters that the quantized model keeps in float, but that are other ones than this model's."""
        self.trained = dict(trained or {})
        self.untrained = {name: model.get_parameter(name).detach().clone() for name in self.trained}
        self.model, self.quantization = model, quantization
        self.sites = model_sites(self.model)
        self.addresses = {w.parameter: w.address for w in layer_weights(self.model, self.sites)}
        self.originals = {n: self.model.get_parameter(n).detach().clone() for n in quantization.weights}
        self.present: set[str] = set()  # weights that are quantized now
        self.encoded: dict[frozenset[str], Tensor] = {}  # of one batch: encoders all float and all quantized
        self.batch: Batch | None = None

    def whole(self) -> Part:
        """All that the quantized model quantizes."""
        return Part("", set(self.quantization.weights), set(self.quantization.activations), bool(self.trained))

    @contextmanager
    def quantized(self, part: Part) -> Iterator[None]:
        """Context in which just this part is quantized; only weights that differ from the last state are replaced."""
        apply_weights(self.model, {n: self.quantization.weights[n] for n in part.weights - self.present})
        with torch.no_grad():
            for name in self.present - part.weights:
                self.model.get_parameter(name).copy_(self.originals[name])
            for name, values in (self.trained if part.trained else self.untrained).items():
                self.model.get_parameter(name).copy_(values)
        self.present = set(part.weights)
        grids = {a: q for a, q in self.quantization.activations.items() if a in part.activations}
        with watch(self.model, self.sites, quantizers(grids)):
            yield

    def logits(self, part: Part, batch: Batch) -> Tensor:
        """Teacher-forced logits (labelled tokens or frames, vocabulary); to be called inside `quantized`."""
        if not family_of(self.model.config).has_decoder:
            return batch.counted(teacher_forced(self.model, batch, self.model.device))
        encoded, inputs = self._encoded(part, batch), batch.tokens.inputs.to(self.model.device)
        logits = self.model(encoder_outputs=(encoded,), decoder_input_ids=inputs, use_cache=False).logits
        return batch.counted(logits)

    def _encoded(self, part: Part, batch: Batch) -> Tensor:
        """(batch, frames, d_model): computed anew only where a part of the encoder differs from all the rest."""
        if batch is not self.batch:
            self.batch, self.encoded = batch, {}
        inside, whole = self._in_encoder(part), self._in_encoder(self.whole())
        if inside not in self.encoded:
            found = self.model.model.encoder(batch.features.to(self.model.dtype)).last_hidden_state
            if inside not in (frozenset(), whole):
                return found
            self.encoded[inside] = found
        return self.encoded[inside]

    def _in_encoder(self, part: Part) -> frozenset[str]:
        weights = {f"{n}:weight" for n in part.weights if self.addresses[n].startswith("enc.")}
        trained = {"trained"} if part.trained else set()
        return frozenset(weights | {a for a in part.activations if a.startswith("enc.")} | trained)


@torch.no_grad()
def smooth_alike(model: PreTrainedModel, quantized: PreTrainedModel) -> None:
    """Fold into a float model, in place, the smoothing that its quantized one holds: grids fit smoothed tensors alone.

    s is the ratio of both models' norms; a channel that both its weight and its bias silence has none.
    """
    scales: dict[str, Tensor] = {}
    for site, readers in norm_readers(model).items():
        ours, theirs = (
            torch.stack(list(m.get_submodule(readers.norm).parameters())).float() for m in (model, quantized)
        )
        if not torch.equal(ours, theirs):
            larger = ours.abs().argmax(dim=0, keepdim=True)  # of weight and bias
            ratio = (ours.gather(0, larger) / theirs.gather(0, larger)).squeeze(0)
            scales[site] = torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, 1.0)
    smooth(model, scales, alpha=1.0)  # s = max|x_j|^1 / max|w_j|^0: what stands for the maxima is s


def trained_floats(model: PreTrainedModel, quantized: PreTrainedModel, quantization: Quantization) -> dict[str, Tensor]:
    """Norms and biases of the quantized model that training changed, by parameter name."""
    behind = {id(quantized.get_parameter(name)) for name in quantization.weights}  # a tied table has two names
    return {
        name: parameter.detach()
        for name, parameter in quantized.named_parameters()
        if id(parameter) not in behind and not torch.equal(parameter, model.get_parameter(name))
    }


def divide(partial: PartiallyQuantized, by: str) -> dict[str, Part]:
    """The parts of all that is quantized, in the order of computation."""
    order = list(partial.sites)
    members: list[tuple[str, str | None]] = [(a, None) for a in partial.quantization.activations]
    members += [(partial.addresses[n], n) for n in partial.quantization.weights]
    parts: dict[str, Part] = {}
    for address, parameter in sorted(members, key=lambda member: order.index(member[0])):
        suffix = ":weight" if parameter else ""
        name, exclude = block(address) if by == "block" else (address + suffix, address + suffix)
        part = parts.setdefault(name, Part(exclude))
        if parameter:
            part.weights.add(parameter)
        else:
            part.activations.add(address)
    return parts


def block(address: str) -> tuple[str, str]:
    """The block that a site lies in, and what names it in --exclude."""
    if (match := re.match(r"((?:enc|dec)\.\d+(?:\.cross)?)\.([^.]+)$", address)) is None:
        base = address.removesuffix(":input")
        # Of what no norm precedes, the pattern takes in the input too.
        return base, f"{base}*" if CONVOLVED.fullmatch(f"{base}:input") or base == "feature_proj" else base
    name, component = match[1], match[2]
    return (name, name) if component in ATTENTION else (f"{name}.mlp", f"{name}.mlp_*,{name}.fc*")
