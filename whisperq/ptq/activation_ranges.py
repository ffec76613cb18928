"""What each activation's grid covers, and the scales that make it narrower: from a calibration's observations.

Two ways to scale channels: SmoothQuant's for norms with one alpha for all, or a search site by site, which reaches
contexts, the vocabulary's norm and convolutions, too, and leaves alone what gains nothing (ptq/scaling.py). Of
scaled sites the range is that of EMA or of the least and greatest value: histograms cannot be scaled after the fact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from whisperq.errors import UsageError
from whisperq.kinds.models import Eased, Massive, Scaled
from whisperq.models.sites import model_sites, resolve
from whisperq.options import QuantizeConfig
from whisperq.ptq.checkpoint import GRIDS, ActivationGrid, PerToken
from whisperq.ptq.plan import CONVOLVED, Plan
from whisperq.ptq.ranges_file import chosen_observer, read_ranges, site_ranges
from whisperq.ptq.scaling import Findings, has_outliers, scale, widen, widened, with_margin
from whisperq.ptq.smoothing import norm_readers, smooth
from whisperq.ptq.statistics import check_widths, has_rows, held_channels, read_channels, read_observed
from whisperq.quant.grid import fake_quantize
from whisperq.quant.observer import EstimatorSettings, Observations, check_observer
from whisperq.quant.observers import OBSERVERS
from whisperq.quant.scale_search import MASSIVE, Estimate, Observed, outlier_ratio
from whisperq.quant.smoothing import magnitudes
from whisperq.quant.wide import WIDE, ActivationRange, RangeEnds, with_headroom


@dataclass
class Activations:
    """Every quantized activation's range, by site; none where each token has its own (`dynamic`)."""

    ranges: dict[str, ActivationRange] = field(default_factory=dict)
    dynamic: dict[str, PerToken] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)  # folded into the model already
    results: Eased = field(default_factory=Eased)
    notices: list[str] = field(default_factory=list)  # what a user should know

    def grids(self) -> dict[str, ActivationGrid]:
        return {a: covered.grid() for a, covered in self.ranges.items()} | self.dynamic


def alpha_of(text: str) -> float | None:
    """--smooth: SmoothQuant's alpha; None for auto and none. Raises UsageError."""
    if text in ("auto", "none"):
        return None
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not 0 <= alpha <= 1:
        raise UsageError(f"--smooth is auto, none, or an alpha from 0 to 1, not {text!r}")
    return alpha


def prepare_activations(
    network: PreTrainedModel, plan: Plan, calibration: Path | None, config: QuantizeConfig
) -> Activations:
    """The ranges that this recipe's activations get; scales are folded into `network`, in place.

    Raises UsageError for settings that this model has no use for, InputError where the calibration lacks something.
    """
    alpha, bits = alpha_of(config.smooth), config.activation_bits
    if calibration:
        check_widths(network, calibration)
    found = Activations(results={"smooth": alpha, "smoothed": [], "smoothed_observer": None, "observer": None})
    raw = _rows(plan, calibration, config, found)
    observer = chosen_observer(calibration, config.observer) if calibration else None
    outliers = any(map(has_outliers, raw.values()))
    if outliers and config.observer is None and observer and OBSERVERS[observer].averages:
        observer = "minmax"  # an average clips what is rare, and a massive value that is clipped changes the function
    estimate = _estimate(calibration, observer, bits) if calibration and observer else None
    if config.activations == "static":
        assert calibration and observer, "static ranges come from a calibration"
        ends = site_ranges(calibration, plan.activations, observer, bits)
        margin = outliers and not OBSERVERS[observer].needs_histogram  # it would bring back what others cut off
        found.ranges = {a: ActivationRange(widened(a, e) if margin else e, bits) for a, e in ends.items()}
        found.results["observer"] = observer
    elif config.activations == "dynamic":
        found.dynamic = {a: PerToken(bits) for a in plan.activations}
    if alpha is not None:
        assert calibration and estimate, "channels' maxima come from a calibration"
        _smooth_norms(network, calibration, plan, alpha, estimate, found, outliers)
    if raw:
        assert estimate, "rows come from a calibration"
        _search(network, plan, raw, config, estimate, found)
    if config.massive not in (None, "auto", "none"):
        _name_wide(network, config.massive, found)
    elif config.massive == "auto" and config.recipe == "paper":
        assert calibration, "channels' maxima come from a calibration"
        _widen_emulated(calibration, found)
    if observer and found.results["smoothed"] and found.ranges:
        scaled = found.results["smoothed_observer"] = _scaled_observer(observer)
        if scaled != observer:
            found.notices.append(
                f"{len(found.results['smoothed'])} scaled sites take their ranges of {scaled}, not of {observer}: "
                "histograms cannot be scaled; --smooth none keeps them"
            )
    return found


# By observer, whose range a scaled site takes: of all that need a histogram, the ends that were seen.
SCALED = {name: "minmax" if observer.needs_histogram else name for name, observer in OBSERVERS.items()}


def _scaled_observer(observer: str) -> str:
    check_observer(observer)
    return SCALED[observer]


def _estimate(calibration: Path, observer: str, bits: int) -> Estimate:
    """The range of a site from its channels' ends in every batch."""
    content, scaled = read_ranges(calibration), OBSERVERS[_scaled_observer(observer)]
    how = EstimatorSettings((observer,), content["momentum"], bits=(bits,))

    def estimate(observed: Observed) -> RangeEnds:
        batches = observed.minima.amin(dim=1).tolist(), observed.maxima.amax(dim=1).tolist()
        return scaled.estimate(Observations(None, *batches), how, bits)

    return estimate


def _smooth_norms(
    network: PreTrainedModel, calibration: Path, plan: Plan, alpha: float, estimate: Estimate, found: Activations,
    outliers: bool,
) -> None:  # fmt: skip
    """SmoothQuant: the norms whose outputs are quantized, in place; their new ranges are exact for what was observed.

    Raises UsageError for a model that has no such norms, InputError where the calibration kept no channels.
    """
    if not (readers := norm_readers(network)):
        raise UsageError("--smooth has nothing to ease in this model: its residual sums read the norms' outputs too")
    sites = [a for a in readers if a in plan.activations]
    channels = read_channels(calibration, sites)
    found.scales = smooth(network, {a: magnitudes(*channels[a]) for a in sites}, alpha)
    found.results["smoothed"] = list(found.scales)
    for a in sites if found.ranges else ():
        low, high = (ends / found.scales[a] for ends in channels[a])
        ends = estimate(Observed(low, high, low))
        found.ranges[a] = ActivationRange(widened(a, ends) if outliers else ends, found.ranges[a].bits)


def _searched(config: QuantizeConfig) -> tuple[bool, bool]:
    """Whether scales and whether massive channels are to be found."""
    gemm = config.recipe == "gemm" and config.activations == "static"
    return gemm and config.smooth == "auto", gemm and config.massive in (None, "auto")


def _rows(plan: Plan, calibration: Path | None, config: QuantizeConfig, found: Activations) -> dict[str, Observed]:
    """Site -> rows kept by the calibration for the search of scales; empty where nothing is searched."""
    if calibration is None or not any(_searched(config)):
        return {}
    if not has_rows(calibration):
        found.notices.append(
            f"{calibration} kept no rows to search with: nothing is scaled; whisperq calibrate --force keeps them"
        )
    return read_observed(calibration, plan.activations)


def _search(
    network: PreTrainedModel,
    plan: Plan,
    raw: Mapping[str, Observed],
    config: QuantizeConfig,
    estimate: Estimate,
    found: Activations,
) -> None:
    """--smooth auto and --massive auto: what they choose goes into `found`, and why into its results."""
    scales, massive = _searched(config)
    quantized = fake_weight(config)
    observed = {a: o.scaled(found.scales[a]) if a in found.scales else o for a, o in raw.items()}
    chosen = Findings(observed=observed)
    if scales:
        chosen = scale(network, plan, observed, found.ranges, estimate, quantized)
        found.scales |= chosen.scales
        for site in chosen.scales:
            ends = with_margin(site, estimate)(chosen.observed[site])
            found.ranges[site] = ActivationRange(ends, config.activation_bits)
        found.results |= {"smooth": "auto", "smoothed": list(chosen.scales), "scaled": scaled_as_results(chosen)}
    if massive:
        widen(network, plan, raw, chosen, found.ranges, estimate, quantized, config.budget / 100)
        found.ranges |= chosen.wide
        found.results |= {"massive": wide_as_results(chosen), "extra_products": chosen.cost}


def scaled_as_results(chosen: Findings) -> dict[str, Scaled]:
    return {
        s: {"alpha": c.alpha, "error_before": c.before, "error": c.after}
        for s, c in chosen.choices.items()
        if c.scales is not None and c.alpha is not None
    }


def wide_as_results(chosen: Findings) -> dict[str, Massive]:
    return {s: {"channels": o.count, "products": o.cost, "error_saved": o.gain} for s, o in chosen.offers.items()}


def _name_wide(network: PreTrainedModel, patterns: str, found: Activations) -> None:
    """Whole sites on 16 bits, by name. Raises UsageError for one that is not quantized, or a convolution's."""
    for site in resolve(patterns, model_sites(network)):
        if site not in found.ranges:
            raise UsageError(f"--massive names {site}, which this recipe leaves in float")
        if CONVOLVED.fullmatch(site):
            raise UsageError(f"--massive names {site}, the input of a convolution, which has 8 bits at most")
        found.ranges[site] = ActivationRange(with_headroom(found.ranges[site].ends), WIDE)


def _widen_emulated(calibration: Path, found: Activations) -> None:
    """Give 16 bits to every site with massive channels, residual sums too; for a recipe that only runs emulated."""
    held = held_channels(calibration)
    if not held:
        found.notices.append(f"{calibration} kept no channels, so that no massive one is found")
    ratios = {a: outlier_ratio(magnitudes(*held[a])) for a in found.ranges if a in held}
    for site, ratio in ratios.items():
        if ratio >= MASSIVE:
            found.ranges[site] = ActivationRange(with_headroom(found.ranges[site].ends), WIDE)
    found.results["massive"] = {a: {"ratio": ratio} for a, ratio in ratios.items() if ratio >= MASSIVE}


def fake_weight(config: QuantizeConfig) -> Any:
    """A weight (N, K) through the grid that `quantize` will give it."""
    per_channel = config.recipe == "gemm" if config.per_channel is None else config.per_channel

    def through(weight: Tensor) -> Tensor:
        dims = 1 if per_channel else 0
        grid = GRIDS[config.weight_observer](
            weight, config.weight_bits, symmetric=config.recipe == "gemm", channel_dims=dims, group=config.group
        )
        return fake_quantize(weight, grid)

    return through
