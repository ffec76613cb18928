"""Integers for weights, and for activations with a calibration's ranges or each token's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from whisperq import artifact
from whisperq.errors import InputError, UsageError
from whisperq.jobs.progress import say, track
from whisperq.kinds.models import Quantized, Scheme
from whisperq.models.loading import compute_device, load_model, load_processor
from whisperq.models.weight_files import weights_size
from whisperq.options import QuantizeConfig
from whisperq.ptq.activation_ranges import alpha_of, prepare_activations
from whisperq.ptq.checkpoint import (
    Fit,
    Quantization,
    QuantizedWeight,
    quantize_weight,
    save_quantization,
    stored_dtypes,
)
from whisperq.ptq.cross_cache import cache_grids, cache_sites
from whisperq.ptq.descriptions import copy_descriptions, describe
from whisperq.ptq.plan import PaperScope, Plan, make_plan
from whisperq.ptq.statistics import held_channels
from whisperq.quant.grid import QParams
from whisperq.results.cells import megabytes
from whisperq.schema import each, read_json, record, text
from whisperq.schemes import scheme_of
from whisperq.settings import Context


def quantize(
    model: Path,
    calibration: Path | None,
    out: Path,
    config: QuantizeConfig,
    context: Context,
    sensitivity: Path | None = None,
) -> artifact.Artifact:
    """Quantize by recipe: `gemm` (symmetric weights, per channel or group) or `paper` (asymmetric, per tensor).

    calibration: for static ranges and for smoothing; sensitivity: what --keep-worst goes by.
    Raises UsageError for settings that contradict each other, InputError where the calibration is of another
    model, lacks a site, or was made for other bits.
    """
    compute_device(context.device)  # as in init-student: one that is not there was asked for in vain
    check_combination(config)
    inputs = {"model": artifact.reference(model)}
    if calibration:
        inputs["calibration"] = artifact.reference(calibration)
        check_calibration(calibration, inputs["model"])
    exclude = config.exclude
    if config.keep_worst:
        if sensitivity is None:
            raise UsageError("--keep-worst goes by a sensitivity; run whisperq sensitivity first")
        inputs["sensitivity"] = artifact.reference(sensitivity)
        exclude += worst_parts(sensitivity, config.keep_worst, inputs["model"])
    with artifact.create(out, "quantized", "quantize", context.settings(config), inputs, context.force) as draft:
        copy_descriptions(model, draft.folder)
        load_processor(model)  # refuses another model's tokenizer, which would be sealed with these weights
        network = load_model(model, torch.float32, "cpu")
        plan = make_plan(network, config.recipe, exclude, config.encoder_only, config.activations, paper_scope(config))
        activations = prepare_activations(network, plan, calibration, config)
        for notice in activations.notices:
            say(notice)
        cached = cached_grids(network, calibration, config, exclude, activations.scales)
        grids = activations.grids() | cached
        quantization = Quantization(quantized_weights(network, plan, config), grids, activations.scales)
        plan.activations += cached
        plan.float_activations = {a: why for a, why in plan.float_activations.items() if a not in cached}
        save_quantization(network, quantization, activations.ranges, draft.folder, stored_dtypes(model))
        if network.can_generate():  # a model may live without its settings; eval needs them
            network.generation_config.save_pretrained(draft.folder)
        results: Quantized = {
            **scheme(config),
            **activations.results,
            "cross_cache": "int8" if cached else "float",
            "kept_worst": list(exclude[len(config.exclude) :]),
            **describe(plan),
            "bytes": weights_size(draft.folder),
            "float_bytes": weights_size(model),
        }
        draft.results |= results
    warn_of_growth(finished := artifact.load(out, "quantized"))
    return finished


def warn_of_growth(quantized: artifact.Artifact[Quantized]) -> None:
    size, source = quantized.results["bytes"], quantized.results["float_bytes"]
    if size > source:
        say(f"warning: {megabytes(size)} of quantized weights are more than the {megabytes(source)} of their source")


def worst_parts(sensitivity: Path, count: int, model: dict[str, str]) -> tuple[str, ...]:
    """--exclude patterns of the `count` parts that cost most when quantized alone, the worst first.

    Raises InputError for another model's sensitivity, UsageError for more parts than there are.
    """
    sealed = artifact.load(sensitivity, "sensitivity")
    if sealed.inputs["float"]["sha256"] != model["sha256"]:
        raise InputError(f"{sensitivity} was measured of another model than {model['path']}; give --sensitivity")
    parts = read_json(sensitivity / "sensitivity.json", record({"parts": each(record({"exclude": text}))}))["parts"]
    if count > len(parts):
        raise UsageError(f"--keep-worst {count} is more than the {len(parts)} parts of {sensitivity}")
    return tuple(part["exclude"] for part in list(parts.values())[:count])


def check_combination(config: QuantizeConfig) -> None:
    """Raises UsageError for settings that contradict each other, with the reason."""
    paper, ranges = config.recipe == "paper", config.activations
    smooth, massive = isinstance(alpha_of(config.smooth), float), config.massive not in (None, "none")
    contradictions = [
        (
            not paper and config.sites,
            "--sites is for --recipe paper; --recipe gemm quantizes what integer products take in",
        ),
        (not paper and config.exception, "--exception is for --recipe paper; --recipe gemm has --exclude"),
        (paper and config.group, "--group divides output channels, which the paper recipe does not know"),
        (config.per_channel is False and config.group, "--group divides output channels, and --per-tensor joins them"),
        (
            ranges == "none" and config.activation_bits != 8,
            f"--activation-bits {config.activation_bits} is for quantized activations, not for --activations none",
        ),
        (
            ranges == "dynamic" and paper,
            "--activations dynamic is for --recipe gemm: the paper recipe quantizes attention scores too, whose rows "
            "reach over tokens that are masked or not there yet",
        ),
        (
            smooth and paper,
            "--smooth is for --recipe gemm: the paper recipe's other sites it does not ease",
        ),
        (
            config.observer and ranges != "static",
            f"--observer chooses among calibrated ranges, none of which --activations {ranges} reads",
        ),
        (smooth and ranges == "none", "--smooth eases activations, which --activations none leaves alone"),
        (massive and ranges != "static", f"--massive chooses static grids, which --activations {ranges} has none of"),
        (
            config.cross_cache == "int8" and (paper or ranges != "static" or config.encoder_only),
            "--cross-cache int8 is for --recipe gemm with --activations static, and not for the encoder alone",
        ),
    ]
    for contradiction, reason in contradictions:
        if contradiction:
            raise UsageError(reason)


def paper_scope(config: QuantizeConfig) -> PaperScope:
    return PaperScope(config.sites or PaperScope.sites, config.exception or PaperScope.exception)


def scheme(config: QuantizeConfig) -> Scheme:
    """The quantization scheme of the settings, with the scope of the paper recipe; None where one does not apply."""
    asked = scheme_of(config)
    if config.recipe == "paper":
        scope = paper_scope(config)
        asked["sites"], asked["exception"] = scope.sites, scope.exception
    return asked


def quantized_weights(network: PreTrainedModel, plan: Plan, config: QuantizeConfig) -> dict[str, QuantizedWeight]:
    symmetric = config.recipe == "gemm"
    per_channel = symmetric if config.per_channel is None else config.per_channel
    fit = Fit(config.weight_observer, config.group)
    weights = track(plan.weights, len(plan.weights), "quantize", "weights")
    return {w.parameter: quantize_weight(network, w, config.weight_bits, symmetric, per_channel, fit) for w in weights}


def cached_grids(
    network: PreTrainedModel,
    calibration: Path | None,
    config: QuantizeConfig,
    exclude: Sequence[str],
    scales: Mapping[str, Tensor],
) -> dict[str, QParams]:
    """Site -> grid of the cross-attention keys and values that decoding caches; empty where they stay float.

    scales: of contexts, by which the rows of v_proj are divided already.
    Raises UsageError for a model without any, InputError where int8 is asked for and the calibration kept no channels.
    """
    static = config.recipe == "gemm" and config.activations == "static" and not config.encoder_only
    if config.cross_cache == "float" or not static or calibration is None:
        return {}
    sites, channels = cache_sites(network, exclude), held_channels(calibration)
    if config.cross_cache == "int8" and not sites:
        raise UsageError("--cross-cache int8 finds no cross-attention to cache in this model")
    absent = [site for site in sites if site not in channels]
    if absent and config.cross_cache == "int8":
        raise InputError(
            f"{calibration} has no maxima of the channels of {absent[0]}; run whisperq calibrate --force first, "
            "without --sites"
        )
    if absent:
        return {}
    for site in sites:
        if (s := scales.get(site.replace("v_proj", "context"))) is not None and site.endswith("v_proj"):
            low, high = channels[site]
            channels[site] = low / s, high / s
    return cache_grids(channels, sites)


def check_calibration(calibration: Path, model: dict[str, str]) -> None:
    sealed = artifact.load(calibration, "calibration")
    if sealed.inputs["model"]["sha256"] != model["sha256"]:
        raise InputError(
            f"{calibration} was made from another model than {model['path']}; "
            f"run whisperq calibrate --model {model['path']} --force first"
        )
