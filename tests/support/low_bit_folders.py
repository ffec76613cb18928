"""Quantized folders of few bits."""

from support.quantizing import observed_ranges
from support.tiny import processor
from whisperq import artifact
from whisperq.models.loading import save_model
from whisperq.ptq.checkpoint import Fit, PerToken, Quantization, quantize_weight, save_quantization
from whisperq.ptq.plan import make_plan
from whisperq.quant.wide import ActivationRange
from whisperq.steps.quantize import describe

PLAIN = Fit()


def folder_of(model, folder, bits: int = 8, fit: Fit = PLAIN, activations: str = "static", recipe: str = "gemm"):
    """As `whisperq quantize` leaves it -> its folder and what was quantized."""
    plan, gemm = make_plan(model, recipe, activation_ranges=activations), recipe == "gemm"
    weights = {w.parameter: quantize_weight(model, w, bits, gemm, gemm, fit) for w in plan.weights}
    ranges = {}
    if activations == "static":
        ranges = {a: ActivationRange(ends) for a, ends in observed_ranges(model, plan.activations).items()}
    grids = {a: ranges[a].grid() if ranges else PerToken(8) for a in plan.activations}
    quantization = Quantization(weights, grids)
    with artifact.create(folder, "quantized", "quantize", {}, {}) as draft:
        save_model(model, processor, draft.folder)
        (draft.folder / "model.safetensors").unlink()
        save_quantization(model, quantization, ranges, draft.folder)
        draft.results |= {"recipe": recipe, "group": fit.group, **describe(plan)}
    return folder, quantization
