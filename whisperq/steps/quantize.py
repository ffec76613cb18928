"""Static integers for weights and activations, from a calibration's ranges."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from whisperq import artifact
from whisperq.errors import InputError
from whisperq.models.loading import load_model
from whisperq.models.plan import Plan, make_plan
from whisperq.options import Context, QuantizeConfig
from whisperq.quant.grid import range_qparams
from whisperq.report.progress import track
from whisperq.runtime.quantized import Quantization, quantize_weight, save_quantization


def quantize(model: Path, calibration: Path, out: Path, config: QuantizeConfig, context: Context) -> artifact.Artifact:
    """Quantize by recipe: `gemm` (symmetric weights per channel) or `paper` (asymmetric per tensor, equation 2).

    Raises InputError where the calibration is of another model, lacks a site, or was made for other bits.
    """
    inputs = {"model": artifact.reference(model), "calibration": artifact.reference(calibration)}
    check_calibration(calibration, inputs["model"])
    with artifact.create(out, "quantized", "quantize", context.settings(config), inputs, context.force) as draft:
        network = load_model(model, torch.float32, "cpu")
        plan = make_plan(network, config.recipe, config.exclude, config.encoder_only)
        ranges = site_ranges(calibration, plan, config.activation_bits)
        symmetric = config.recipe == "gemm"
        per_channel = symmetric if config.per_channel is None else config.per_channel
        weights = track(plan.weights, len(plan.weights), "quantize", "weights")
        quantization = Quantization(
            {w.parameter: quantize_weight(network, w, config.weight_bits, symmetric, per_channel) for w in weights},
            {a: range_qparams(*r, bits=config.activation_bits) for a, r in ranges.items()},
        )
        save_quantization(network, quantization, ranges, draft.folder)
        copy_descriptions(model, draft.folder)
        network.generation_config.save_pretrained(draft.folder)  # a model may live without one; eval needs it
        draft.results |= {
            "recipe": config.recipe,
            "weight_bits": config.weight_bits,
            "activation_bits": config.activation_bits,
            **describe(plan),
            "bytes": sum(p.stat().st_size for p in draft.folder.glob("*.safetensors")),
            "float_bytes": sum(p.stat().st_size for p in model.glob("*.safetensors")),
        }
    return artifact.load(out)


def check_calibration(calibration: Path, model: dict[str, str]) -> None:
    sealed = artifact.load(calibration, "calibration")
    if sealed.inputs["model"]["sha256"] != model["sha256"]:
        raise InputError(
            f"{calibration} was made from another model than {model['path']}; "
            f"run whisperq calibrate --model {model['path']} --force first"
        )


def site_ranges(calibration: Path, plan: Plan, bits: int) -> dict[str, tuple[float, float]]:
    content = json.loads((calibration / "ranges.json").read_text())
    if content["activation_bits"] not in (None, bits):
        raise InputError(
            f"{calibration} chose its ranges for {content['activation_bits']} bits, not {bits}; "
            f"run whisperq calibrate --activation-bits {bits} --force first"
        )
    absent = [a for a in plan.activations if a not in content["sites"]]
    if absent:
        raise InputError(
            f"{calibration} has no range for {absent[0]} ({len(absent)} sites in all); "
            "run whisperq calibrate without --sites, or --exclude them"
        )
    return {a: tuple(content["sites"][a]["range"]) for a in plan.activations}


def describe(plan: Plan) -> dict[str, Any]:
    """How many weights and sites are quantized, which are not, and why."""
    return {
        "weights": len(plan.weights),
        "activations": len(plan.activations),
        "float_weights": plan.float_weights,
        "float_activations": plan.float_activations,
        "float_weights_by_reason": dict(Counter(plan.float_weights.values())),
        "float_activations_by_reason": dict(Counter(plan.float_activations.values())),
    }


def copy_descriptions(model: Path, folder: Path) -> None:
    """Configuration, tokenizer and feature extractor; not the manifest, nor code that would load floats."""
    for file in sorted(model.iterdir()):
        if file.suffix in (".json", ".txt") and file.name not in (artifact.MANIFEST, "model.safetensors.index.json"):
            shutil.copy(file, folder / file.name)
