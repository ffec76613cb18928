"""Tiny models quantized as `whisperq quantize` does it, and emulated."""

import torch

from support.tiny import logits_of, processor
from whisperq.models.loading import save_model
from whisperq.models.sites import model_sites, watch
from whisperq.ptq.checkpoint import PerToken, Quantization, quantize_weight, quantizers, save_quantization
from whisperq.ptq.plan import make_plan
from whisperq.quant.wide import ActivationRange


def observed_ranges(model, activations) -> dict[str, tuple[float, float]]:
    ranges = {}

    def see(address):
        return lambda x: ranges.update({address: (float(x.min()), float(x.max()))})

    with watch(model, model_sites(model), {a: see(a) for a in activations}):
        logits_of(model, seed=3)
    return ranges


def quantization_of(model, recipe: str, bits: int = 8, **options) -> tuple[Quantization, dict]:
    plan, gemm = make_plan(model, recipe, **options), recipe == "gemm"
    ranges = observed_ranges(model, plan.activations)
    weights = {w.parameter: quantize_weight(model, w, bits, symmetric=gemm, per_channel=gemm) for w in plan.weights}
    if options.get("activation_ranges") == "dynamic":
        return Quantization(weights, {a: PerToken(bits) for a in ranges}), {}
    covered = {a: ActivationRange(r, bits) for a, r in ranges.items()}
    return Quantization(weights, {a: r.grid() for a, r in covered.items()}), covered


def saved(model, folder, recipe: str, bits: int = 8, **options) -> Quantization:
    """A folder as `whisperq quantize` leaves it: the quantized weights in the place of the float ones."""
    quantization, ranges = quantization_of(model, recipe, bits, **options)
    save_model(model, processor, folder)
    (folder / "model.safetensors").unlink()
    save_quantization(model, quantization, ranges, folder)
    return quantization


def emulated(model, quantization: Quantization, **options) -> torch.Tensor:
    with watch(model, model_sites(model), quantizers(quantization.activations)):
        return logits_of(model, **options)
