"""Which weights and activations a recipe quantizes in a given model.

paper  weights per tensor, asymmetric: every weight in the blocks;
       activations: every site of the blocks but enc.-1.out_proj and the enc.-1.attn_sum that it feeds
       (arXiv 2406.11022, section 2.5; enc.norm, its "final layer norm", lies outside the blocks anyway).
       `PaperScope` narrows or widens that, and reads the exception in other ways.
gemm   weights per output channel, symmetric: linear layers, convolutions and proj_out with its tied table;
       activations: their inputs. Attention products, residual sums, softmax and norms stay float.

Dynamic ranges are those of one token; a convolution reads several at once, so that its input stays float then.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from whisperq.errors import UsageError
from whisperq.models.families import family_of
from whisperq.models.layer_weights import Weight, layer_weights
from whisperq.models.sites import Site, canonical, matches_address, model_sites

# What "final output projection in the last encoder layer along with the final layer norm" can mean.
EXCEPTIONS = {
    "attention": ("enc.-1.out_proj", "enc.-1.attn_sum"),
    "mlp": ("enc.-1.fc2", "enc.-1.mlp_sum", "enc.-1.mlp_norm"),
    "none": (),
}
CONVOLVED = re.compile(r"(enc\.conv[12]|cnn\.\d+|pos_conv):input")


@dataclass(frozen=True)
class PaperScope:
    """How far the paper recipe reaches.

    sites: linear (of activations the inputs of linear layers in the blocks alone), blocks, or all (convolutions, final
    norms and proj_out too); exception: what stays float, attention, mlp or none. enc.norm is part of either exception.
    """

    sites: str = "blocks"
    exception: str = "attention"

    def float_reason(self, address: str, consumed: bool, sites: Mapping[str, Site]) -> str | None:
        """Why a site stays float; consumed: a quantized layer reads it."""
        if self.sites != "all" and not _in_block(address):
            return "outside the blocks"
        if self.sites == "linear" and not consumed:
            return "no linear layer takes it in"
        if address == "enc.norm" and self.exception != "none":
            return "the recipe keeps the encoder's final norm in float"
        if _named(EXCEPTIONS[self.exception], address, sites):
            wide = "wide" if self.exception == "attention" else "feed-forward"
            return f"the recipe keeps the last encoder layer's {wide} output in float"
        return None


@dataclass
class Plan:
    weights: list[Weight] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    float_weights: dict[str, str] = field(default_factory=dict)  # address -> why
    float_activations: dict[str, str] = field(default_factory=dict)


def make_plan(
    model: PreTrainedModel,
    recipe: str,
    exclude: Sequence[str] = (),
    encoder_only: bool = False,
    activation_ranges: str = "static",
    scope: PaperScope = PaperScope(),
) -> Plan:
    """activation_ranges: static, dynamic or none; scope: of the paper recipe.

    Raises UsageError for an exclusion that names nothing.
    """
    family = family_of(model.config)
    if recipe not in family.recipes or (encoder_only and not family.has_decoder):
        what = "--encoder-only" if encoder_only else f"--recipe {recipe}"
        raise UsageError(
            f"{what} is Whisper's; a {model.config.model_type} model takes --recipe gemm, all of it encoder"
        )
    sites = model_sites(model)
    exclude = [pattern.strip() for patterns in exclude for pattern in patterns.split(",")]
    plan = Plan()
    excluded = [p.removesuffix(":weight") for p in exclude if not p.endswith(":input")]
    for weight in layer_weights(model, sites):
        reason = _left_out(weight.address, encoder_only)
        if not reason and recipe == "paper" and scope.sites != "all" and not _in_block(weight.address):
            reason = "outside the blocks"
        if not reason and _named(excluded, weight.address, sites):
            reason = "--exclude"
        if reason:
            plan.float_weights[weight.parameter] = reason
        else:
            plan.weights.append(weight)
    excluded = [p for p in exclude if not p.endswith(":weight")]
    consumed = {canonical(f"{w.address}:input") for w in plan.weights}
    for address in sites:
        reason = _left_out(address, encoder_only)
        if not reason and recipe == "paper":
            reason = scope.float_reason(address, address in consumed, sites)
        if not reason and _named(excluded, address, sites):
            reason = "--exclude"
        if not reason and recipe == "gemm" and address not in consumed:
            reason = "no integer product takes it in"
        if not reason and activation_ranges == "none":
            reason = "--activations none"
        if not reason and activation_ranges == "dynamic" and CONVOLVED.fullmatch(address):
            reason = "a convolution reads several tokens, each of which has its own dynamic range"
        if reason:
            plan.float_activations[address] = reason
        else:
            plan.activations.append(address)
    _check_exclusions(exclude, sites, layer_weights(model, sites))
    return plan


def _left_out(address: str, encoder_only: bool) -> str | None:
    return "--encoder-only" if encoder_only and not address.startswith("enc.") else None


def _named(patterns: Sequence[str], address: str, sites: Mapping[str, Site]) -> bool:
    return any(matches_address(pattern, address, sites) for pattern in patterns)


def _in_block(address: str) -> bool:
    return re.match(r"(enc|dec)\.\d+\.", address) is not None


def _check_exclusions(exclude: Sequence[str], sites: Mapping[str, Site], weights: Sequence[Weight]) -> None:
    for pattern in exclude:
        bare = pattern.removesuffix(":weight")
        addresses = {w.address for w in weights} if bare != pattern else sites
        if not any(matches_address(bare, a, sites) for a in addresses):
            raise UsageError(f"--exclude {pattern} names no site and no layer of this model")
