"""Learned step size quantization, written out once more."""

import math

import torch


def lsq(weight: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """The pseudo-code of Esser et al. 2020, section 2.1, with `detach` where the paper stops gradients."""
    greatest = 2 ** (bits - 1) - 1
    factor = 1 / math.sqrt(weight.numel() / scale.numel() * greatest)
    scale = (scale - scale * factor).detach() + scale * factor
    real = (weight / scale).clamp(-greatest, greatest)
    return ((real.round() - real).detach() + real) * scale
