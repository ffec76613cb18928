"""Scales and wide channels for a model with outliers, found from what its calibration kept of each site.

First every site that can be scaled gets the scales of least output error (quant/scale_search.py), folded into the model
(ptq/folding.py). Then those that hold massive values get 16 bits for a few channels, as many as gain most for the
extra integer products that a budget allows: one product of K channels that sets n apart costs 2 n / K more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.models.families import family_of
from whisperq.models.sites import canonical
from whisperq.ptq.folding import Fold, alike, fold, foldable, weight_maxima, whole_readers
from whisperq.ptq.plan import CONVOLVED, Plan
from whisperq.quant.scale_search import (
    ALPHAS,
    COUNTS,
    MASSIVE,
    WINDOW_ALPHA,
    WINDOW_LIMITS,
    Choice,
    Estimate,
    Observed,
    Offer,
    Reading,
    balanced,
    massive_channels,
    outlier_ratio,
    output_error,
    search,
    spend,
    wide_range,
)
from whisperq.quant.wide import ActivationRange, RangeEnds

CHEAP = 0.002  # part of a model's products: one of few rows, in a decoder, may have 16 bits for what little it costs
# Of the decoder's 8-bit ranges: a calibration sees hundreds of frames for each token, and one value beyond the range of
# dec.norm costs more than coarser steps do (whisper-base: 37 instead of 31 dB of its logits).
TOKEN_MARGIN = 1.25

FakeWeight = Callable[[Tensor], Tensor]  # a weight (N, K) through its own grid


@dataclass
class Findings:
    """What was chosen, by site."""

    scales: dict[str, Tensor] = field(default_factory=dict)
    observed: dict[str, Observed] = field(default_factory=dict)  # of the scaled model
    choices: dict[str, Choice] = field(default_factory=dict)
    wide: dict[str, ActivationRange] = field(default_factory=dict)
    offers: dict[str, Offer] = field(default_factory=dict)
    cost: float = 0.0  # of all wide channels, in parts of the model's integer products


def scale(
    model: PreTrainedModel, plan: Plan, observed: Mapping[str, Observed], ranges: Mapping[str, ActivationRange],
    estimate: Estimate, quantized: FakeWeight,
) -> Findings:  # fmt: skip
    """Search every site's scales and fold them into the model; one without outliers is left alone.

    ranges: those of the sites as they are; estimate: the range of a scaled site. All errors are of the model as it
    came: what one site's scales do to another's layers changes no output.
    """
    found = Findings(observed=dict(observed))
    if not any(map(has_outliers, observed.values())):
        return found
    for site, one in foldable(model).items():
        if site not in plan.activations or site not in observed:
            continue
        seen = observed[site]
        candidates = _candidates(model, one, seen, windows=bool(CONVOLVED.fullmatch(site)))
        reading = Reading(whole_readers(model, one, seen.minima.shape[1]), quantized)
        choice = search(seen, reading, ranges[site], with_margin(site, estimate), candidates)
        found.choices[site] = choice
        if choice.scales is not None:
            found.scales[site] = choice.scales
            found.observed[site] = seen.scaled(choice.scales)
    fold(model, found.scales)
    return found


def with_margin(site: str, estimate: Estimate) -> Estimate:
    """The estimate of a site in a model with outliers."""
    return lambda observed: widened(site, estimate(observed))


def widened(site: str, ends: RangeEnds) -> RangeEnds:
    """Ends of a site's range, widened by TOKEN_MARGIN in the decoder."""
    factor = TOKEN_MARGIN if site.startswith("dec.") else 1.0
    return factor * ends[0], factor * ends[1]


def _candidates(model: PreTrainedModel, one: Fold, seen: Observed, windows: bool) -> dict[float, Tensor]:
    magnitudes = alike(one, seen.magnitudes)
    maxima = weight_maxima(model, one, len(magnitudes))
    if windows:
        return {WINDOW_ALPHA: balanced(magnitudes, maxima, WINDOW_ALPHA).clamp(*WINDOW_LIMITS)}
    return {alpha: balanced(magnitudes, maxima, alpha) for alpha in ALPHAS}


def widen(
    model: PreTrainedModel, plan: Plan, raw: Mapping[str, Observed], found: Findings,
    ranges: Mapping[str, ActivationRange], estimate: Estimate, quantized: FakeWeight, budget: float,
) -> None:  # fmt: skip
    """Choose massive channels within the budget, in parts of the integer products; adds to `found`.

    raw: what was observed before anything was scaled; ranges: those of all sites of the scaled model. Convolutions take
    no wide channels.
    """
    readers, costs = site_readers(model, plan), product_shares(model, plan)
    offers, options = [], {}
    if not any(has_outliers(one) for site, one in raw.items() if not CONVOLVED.fullmatch(site)):
        return
    for site, one in found.observed.items():
        if site not in plan.activations or CONVOLVED.fullmatch(site):
            continue
        few_rows = site.startswith("dec.") and has_outliers(raw[site])
        if not (has_outliers(one) or few_rows or costs[site] <= CHEAP):
            continue
        width = one.minima.shape[1]
        if not (whole := _whole(model, readers[site], width)):  # what each head's part is read by says nothing of all
            continue
        reading = Reading(torch.cat(whole), quantized).some()
        before = output_error(one, reading, ranges[site])
        counts = [c for c in COUNTS if c <= width // 8] if len(whole) == len(readers[site]) else []
        for count in (*counts, width):
            covered = wide_range(one, massive_channels(one, count), with_margin(site, estimate), ranges[site].bits)
            options[site, count] = covered
            gain = before - output_error(one, reading, covered)
            cost = costs[site] * (1 if count == width else 2 * count / width)
            offers.append(Offer(site, count, gain, cost))
    found.offers = spend(offers, budget)
    found.wide = {site: options[site, offer.count] for site, offer in found.offers.items()}
    found.cost = sum(offer.cost for offer in found.offers.values())


def has_outliers(observed: Observed) -> bool:
    """Whether one channel is so much greater than the others that a grid for all is coarse to most."""
    return outlier_ratio(observed.magnitudes) >= MASSIVE


def site_readers(model: PreTrainedModel, plan: Plan) -> dict[str, list[str]]:
    """Quantized site -> names of the quantized weights that read it."""
    found: dict[str, list[str]] = {}
    for weight in plan.weights:
        found.setdefault(canonical(f"{weight.address}:input"), []).append(weight.parameter)
    return {site: names for site, names in found.items() if site in plan.activations}


def _whole(model: PreTrainedModel, names: list[str], width: int) -> list[Tensor]:
    """The weights of the readers that take in whole rows, (N, width); a gate that looks at each head does not."""
    weights = [model.get_parameter(name).detach() for name in names]
    return [w for w in weights if w.shape[1:] == (width,)]


def product_shares(model: PreTrainedModel, plan: Plan) -> dict[str, float]:
    """Quantized site -> its share of all multiplications with quantized inputs, over one window."""
    rows = family_of(model.config).rows
    work = {
        site: sum(model.get_parameter(n).numel() for n in names) * rows(model.config, site)
        for site, names in site_readers(model, plan).items()
    }
    total = sum(work.values())
    return {site: each / total for site, each in work.items()}
