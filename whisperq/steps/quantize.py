"""Integers for weights, and for activations with a calibration's ranges or each token's own."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from whisperq import artifact
from whisperq.errors import InputError, UsageError
from whisperq.flags import Context
from whisperq.models.descriptions import copy_descriptions, describe
from whisperq.models.loading import load_model
from whisperq.models.norms import norm_readers, read_channels, smooth
from whisperq.models.plan import PaperScope, Plan, make_plan
from whisperq.models.ranges import chosen_observer, read_ranges, site_ranges
from whisperq.options import QuantizeConfig
from whisperq.quant.grid import range_qparams
from whisperq.quant.observers import ema_range, minmax_range
from whisperq.quant.smoothing import magnitudes, smoothed_ends
from whisperq.report.cells import megabytes
from whisperq.report.progress import say, track
from whisperq.runtime.quantized import (
    Fit,
    PerToken,
    Quantization,
    QuantizedWeight,
    quantize_weight,
    save_quantization,
    stored_dtypes,
)

Ranges = dict[str, tuple[float, float]]


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
    check_combination(config)
    inputs = {"model": artifact.reference(model)}
    if calibration:
        inputs["calibration"] = artifact.reference(calibration)
        check_calibration(calibration, inputs["model"])
    exclude = config.exclude
    if config.keep_worst:
        inputs["sensitivity"] = artifact.reference(sensitivity)
        exclude += worst_parts(sensitivity, config.keep_worst, inputs["model"])
    with artifact.create(out, "quantized", "quantize", context.settings(config), inputs, context.force) as draft:
        network = load_model(model, torch.float32, "cpu")
        plan = make_plan(network, config.recipe, exclude, config.encoder_only, config.activations, paper_scope(config))
        bits = config.activation_bits
        observer = chosen_observer(calibration, config.observer) if calibration else None
        ranges = site_ranges(calibration, plan.activations, observer, bits) if config.activations == "static" else {}
        smoothed = smooth_norms(network, calibration, plan, config.smooth, observer)
        if ranges:
            ranges |= smoothed
        quantization = Quantization(
            quantized_weights(network, plan, config),
            {a: range_qparams(*ranges[a], bits) if ranges else PerToken(bits) for a in plan.activations},
        )
        save_quantization(network, quantization, ranges, draft.folder, stored_dtypes(model))
        copy_descriptions(model, draft.folder)
        if network.can_generate():  # a model may live without its settings; eval needs them
            network.generation_config.save_pretrained(draft.folder)
        draft.results |= {
            **scheme(config),
            "smoothed": list(smoothed),
            "smoothed_observer": smoothed_observer(observer) if smoothed and ranges else None,
            "observer": observer if ranges else None,
            "kept_worst": list(exclude[len(config.exclude) :]),
            **describe(plan),
            "bytes": sum(p.stat().st_size for p in draft.folder.glob("*.safetensors")),
            "float_bytes": sum(p.stat().st_size for p in model.glob("*.safetensors")),
        }
    warn_of_growth(finished := artifact.load(out))
    return finished


def warn_of_growth(quantized: artifact.Artifact) -> None:
    size, source = quantized.results["bytes"], quantized.results["float_bytes"]
    if size > source:
        say(f"warning: {megabytes(size)} of quantized weights are more than the {megabytes(source)} of their source")


def worst_parts(sensitivity: Path, count: int, model: dict[str, str]) -> tuple[str, ...]:
    """What excludes the parts that cost most when quantized alone, the worst first.

    Raises InputError for another model's sensitivity, UsageError for more parts than there are.
    """
    sealed = artifact.load(sensitivity, "sensitivity")
    if sealed.inputs["float"]["sha256"] != model["sha256"]:
        raise InputError(f"{sensitivity} was measured of another model than {model['path']}; give --sensitivity")
    parts = json.loads((sensitivity / "sensitivity.json").read_text())["parts"]
    if count > len(parts):
        raise UsageError(f"--keep-worst {count} is more than the {len(parts)} parts of {sensitivity}")
    return tuple(part["exclude"] for part in list(parts.values())[:count])


def check_combination(config: QuantizeConfig) -> None:
    """Raises UsageError for settings that contradict each other, with the reason."""
    paper, smooth, ranges = config.recipe == "paper", config.smooth is not None, config.activations
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
    ]
    for contradiction, reason in contradictions:
        if contradiction:
            raise UsageError(reason)


def paper_scope(config: QuantizeConfig) -> PaperScope:
    return PaperScope(config.sites or PaperScope.sites, config.exception or PaperScope.exception)


def scheme(config: QuantizeConfig) -> dict[str, Any]:
    """What was asked for, as results; None where it does not apply."""
    scope = vars(paper_scope(config)) if config.recipe == "paper" else {"sites": None, "exception": None}
    return {
        "recipe": config.recipe,
        **scope,
        "weight_bits": config.weight_bits,
        "group": config.group,
        "weight_scales": config.weights,
        "activation_bits": None if config.activations == "none" else config.activation_bits,
        "activation_ranges": config.activations,
        "smooth": config.smooth,
    }


def quantized_weights(network: nn.Module, plan: Plan, config: QuantizeConfig) -> dict[str, QuantizedWeight]:
    symmetric = config.recipe == "gemm"
    per_channel = symmetric if config.per_channel is None else config.per_channel
    fit = Fit(config.weights, config.group)
    weights = track(plan.weights, len(plan.weights), "quantize", "weights")
    return {w.parameter: quantize_weight(network, w, config.weight_bits, symmetric, per_channel, fit) for w in weights}


def smooth_norms(
    network: nn.Module, calibration: Path | None, plan: Plan, alpha: float | None, observer: str | None
) -> Ranges:
    """Smooth the norms whose outputs are quantized, in place -> their new ranges, exact for what was observed.

    Raises InputError where the calibration kept no channels.
    """
    if alpha is None:
        return {}
    if not (readers := norm_readers(network)):
        raise UsageError("--smooth has nothing to ease in this model: its residual sums read the norms' outputs too")
    sites = [a for a in readers if a in plan.activations]
    channels = read_channels(calibration, sites)
    scales = smooth(network, {a: magnitudes(*channels[a]) for a in sites}, alpha)
    ends = {a: smoothed_ends(*channels[a], scales[a]) for a in sites}
    if smoothed_observer(observer) == "ema":
        momentum = read_ranges(calibration)["momentum"]
        return {a: ema_range(*batches, momentum) for a, batches in ends.items()}
    return {a: minmax_range(*batches) for a, batches in ends.items()}


def smoothed_observer(observer: str) -> str:
    """Histograms cannot be smoothed after the fact: for their observers it is the least and greatest value."""
    return "ema" if observer == "ema" else "minmax"


def check_calibration(calibration: Path, model: dict[str, str]) -> None:
    sealed = artifact.load(calibration, "calibration")
    if sealed.inputs["model"]["sha256"] != model["sha256"]:
        raise InputError(
            f"{calibration} was made from another model than {model['path']}; "
            f"run whisperq calibrate --model {model['path']} --force first"
        )
