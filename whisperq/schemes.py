"""How a model is quantized: one record of it, `Scheme`, and how that is said in a folder's name and in words.

    gemm-w4a8-dynamic-g64-mse
    gemm W4A8, groups of 64, mse weights, dynamic activations

What goes without saying is left out of both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from whisperq.kinds.models import Quantized, Scheme, is_mixed
from whisperq.options import QuantizeConfig

USUAL_OBSERVER = "ema"
OF_OUTLIERS = "minmax"  # takes the place of the usual one in a model that has outliers, unless another is asked for
RANGES = {"static": [], "dynamic": ["dynamic activations"], "none": ["weights alone"]}


@dataclass(frozen=True)
class Saying:
    """Short and long wording of a key's value; usual values are not mentioned."""

    usual: tuple[object, ...]
    short: str
    long: str


SAYINGS = {
    "sites": Saying((None, "blocks"), "{}", "{} sites"),
    "exception": Saying((None, "attention"), "except-{}", "exception {}"),
    "group": Saying((None,), "g{}", "groups of {}"),
    "weight_scales": Saying((None, "minmax"), "{}", "{} weights"),
}


def scheme_of(config: QuantizeConfig) -> Scheme:
    """The scheme of the settings; None where one does not apply or is not given."""
    return {
        "recipe": config.recipe,
        "sites": config.sites,
        "exception": config.exception,
        "weight_bits": config.weight_bits,
        "group": config.group,
        "weight_scales": config.weight_observer,
        "activation_bits": None if config.activations == "none" else config.activation_bits,
        "activation_ranges": config.activations,
    }


def in_short(scheme: Scheme) -> list[str]:
    """The parts of a folder's name that the scheme decides: gemm, w8a8, dynamic, g64."""
    dynamic = ["dynamic"] if scheme["activation_ranges"] == "dynamic" else []
    return [scheme["recipe"], _bits(scheme), *dynamic, *(one.short.format(value) for one, value in _unusual(scheme))]


def in_words(results: Quantized) -> str:
    """gemm W8A8, groups of 64, mse weights, 12 sites scaled, dynamic activations."""
    found = [f"{count} sites scaled"] if results["smooth"] == "auto" and (count := len(results["smoothed"])) else []
    found += [f"massive channels of {count} sites on 16 bits"] if (count := len(results["massive"])) else []
    return ", ".join([*_scheme_in_words(results), *found, *RANGES[results["activation_ranges"]]])


def _scheme_in_words(results: Quantized) -> list[str]:
    parts = [f"{results['recipe']} {_bits(results).upper()}"]
    parts += [one.long.format(value) for one, value in _unusual(results)]
    if (alpha := results["smooth"]) in (None, "auto"):
        return parts
    observer = results["smoothed_observer"]  # None where no range is static
    return [*parts, f"smoothed by {alpha:g}" + (f" with {observer} ranges" if observer else "")]


def told_apart(results: Quantized, config: Mapping[str, Any], seed: int | None = None) -> str:
    """All that tells models of one float model apart, as a report names them: what was excluded, say, too.

    It is what was asked for: what quantize finds by itself is another thing in each model, of whose seeds and gates one
    row is to be the mean and the next the rival. config: the settings of the command; seed: the training's, which goes
    without saying.
    """
    if is_mixed(results):
        own = config.get("seed") or 0
        another = f", its seed {own}" if own != (seed or 0) else ""
        return f"mixed precision {results['mode']}, {results['target_bits']:g} bits{another}"
    parts = [*_scheme_in_words(results), *_eased(results, config), *RANGES[results["activation_ranges"]]]
    said = [None, USUAL_OBSERVER, results["smoothed_observer"]]  # smoothing names its own
    if not config.get("observer") and (results["scaled"] or results["massive"]):
        said.append(OF_OUTLIERS)
    parts += [f"{observer} ranges"] if (observer := results["observer"]) not in said else []
    per_channel, usual = config.get("per_channel"), results["recipe"] == "gemm"
    if per_channel not in (None, usual):
        parts.append("weights per channel" if per_channel else "weights per tensor")
    parts += [f"{' '.join(excluded)} float"] if (excluded := config.get("exclude")) else []
    parts += [f"{len(worst)} worst parts float"] if (worst := results["kept_worst"]) else []
    return ", ".join([*parts, *(["encoder alone"] if config.get("encoder_only") else [])])


def _eased(results: Quantized, config: Mapping[str, Any]) -> Iterator[str]:
    """What was asked to be done about outliers, where it is not the usual: for gemm all, for paper nothing."""
    wide, searched = config.get("massive"), results["recipe"] == "gemm" and results["activation_ranges"] == "static"
    if searched and config.get("smooth") == "none":
        yield "no site scaled"
    if searched and wide == "none":
        yield "no channel on 16 bits"
    elif wide == "auto" and not searched:
        yield "massive sites on 16 bits"
    elif wide not in (None, "auto", "none"):
        yield f"{wide} on 16 bits"


def _bits(scheme: Scheme) -> str:
    bits = scheme["activation_bits"]
    return f"w{scheme['weight_bits']}" + (f"a{bits}" if bits else "")


def _unusual(scheme: Mapping[str, object]) -> Iterator[tuple[Saying, object]]:
    return ((one, scheme.get(key)) for key, one in SAYINGS.items() if scheme.get(key) not in one.usual)
