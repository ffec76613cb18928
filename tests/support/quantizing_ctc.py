"""Tiny wav2vec 2.0 and HuBERT models, quantized as `whisperq quantize` does it, and waveforms for them."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from support.smoothed_models import random_scales
from support.tiny_ctc import save_checkpoint
from whisperq import artifact
from whisperq.models.loading import load_model
from whisperq.models.sites import model_sites, watch
from whisperq.ptq.checkpoint import (
    Fit,
    PerToken,
    Quantization,
    load_quantized,
    quantize_weight,
    quantizers,
    save_quantization,
)
from whisperq.ptq.folding import fold
from whisperq.ptq.plan import make_plan
from whisperq.quant.wide import ActivationRange
from whisperq.steps.quantize import describe

LENGTHS = (4000, 3217, 5001)
CHANNELS = Fit()  # a scale for each


def waveforms(lengths=LENGTHS, seed: int = 0) -> list[Tensor]:
    """Noise that is louder at one end, as no norm over time may forget."""
    generator = torch.Generator().manual_seed(3000 + seed)
    return [torch.randn(n, generator=generator) * torch.linspace(0.5, 1.5, n) for n in lengths]


def float_folder(folder: Path, variant: str, **changes) -> Path:
    save_checkpoint(folder, variant, **changes)
    return folder


def quantization_of(model, bits: int = 8, fit: Fit = CHANNELS, **options) -> tuple[Quantization, dict]:
    """Ranges from other waveforms than those that tests listen to."""
    plan, ranges = make_plan(model, "gemm", **options), {}

    def see(address: str):
        def widen(x: Tensor) -> None:
            low, high = ranges.get(address, (0.0, 0.0))
            ranges[address] = (min(low, float(x.min())), max(high, float(x.max())))

        return widen

    with watch(model, model_sites(model), {a: see(a) for a in plan.activations}), torch.inference_mode():
        for waveform in waveforms(seed=9):
            model(waveform[None])
    weights = {
        w.parameter: quantize_weight(model, w, bits, symmetric=True, per_channel=True, fit=fit) for w in plan.weights
    }
    if options.get("activation_ranges") == "dynamic":
        return Quantization(weights, {a: PerToken(bits) for a in ranges}), {}
    covered = {a: ActivationRange(r, bits) for a, r in ranges.items()}
    return Quantization(weights, {a: r.grid() for a, r in covered.items()}), covered


def quantized_folder(source: Path, bits: int = 8, fit: Fit = CHANNELS, scaled: bool = False, **options) -> Path:
    """Beside the float folder, as `whisperq quantize` leaves it."""
    folder, model = source.with_name(f"{source.name}-quantized"), load_model(source, torch.float32, "cpu")
    scales = random_scales(model) if scaled else {}
    fold(model, scales)
    with artifact.create(folder, "quantized", "quantize", {}, {}) as draft:
        quantization, ranges = quantization_of(model, bits, fit, **options)
        save_quantization(model, replace(quantization, scales=scales), ranges, draft.folder)
        for path in source.glob("*.json"):
            shutil.copy(path, draft.folder)
        draft.results |= {"recipe": "gemm", "group": fit.group, **describe(make_plan(model, "gemm", **options))}
    return folder


def float_logits(folder: Path, recordings: list[Tensor]) -> list[Tensor]:
    """Each waveform alone, by our network."""
    model = load_model(folder, torch.float32, "cpu")
    with torch.inference_mode():
        return [model(x[None]).logits[0] for x in recordings]


def emulated_logits(folder: Path, recordings: list[Tensor]) -> list[Tensor]:
    """The same of a quantized model."""
    model, quantization = load_quantized(folder, torch.float32, "cpu")
    with watch(model, model_sites(model), quantizers(quantization.activations)), torch.inference_mode():
        return [model(x[None]).logits[0] for x in recordings]


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Mean, relative, of the utterance that is the worst."""
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).abs().mean() / b.abs().mean()) for a, b in pairs)
