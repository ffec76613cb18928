"""SmoothQuant: what is hard to quantize moves from activations into weights (Xiao et al. 2022, equations 3 and 4).

    y = x W^T = (x / s) (W * s)^T,      s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)

x: (tokens, K), the input of linear layers; W: (N, K), all their weights, one below the other; j: input channel;
s: (K); alpha: 0 leaves all of the difficulty to the activations, 1 moves all of it into the weights. The division
costs nothing where a norm makes x: its weight and bias take it in.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from whisperq.quant.reading import Read, now


def smoothing_scales(activation_maxima: Tensor, weight_maxima: Tensor, alpha: float) -> Tensor:
    """s (K) of max|x_j| (K) and max|w_j| (K); 1 where either is zero, since nothing can be moved there."""
    scales = activation_maxima.pow(alpha) / weight_maxima.pow(1 - alpha)
    movable = (activation_maxima > 0) & (weight_maxima > 0) & torch.isfinite(scales)
    return torch.where(movable, scales, 1.0)


@dataclass
class ChannelExtrema:
    """Minimum and maximum of every channel of one site, (K) for each batch.

    With these the range of x / s is exact arithmetic for any s, whatever the observer makes of batches.
    """

    minima: list[Tensor] = field(default_factory=list)
    maxima: list[Tensor] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # of the batches, in the order of the data

    def observe(self, tensors: Iterable[Tensor], number: int | None = None, read: Read = now) -> None:
        """One batch as tensors (..., K), an utterance's or several.

        number: the batch's, where this is a shard's or read later; default: the next.
        """
        rows = [x.detach().to(torch.float32).flatten(0, -2) for x in tensors]
        minima = torch.stack([x.amin(dim=0) for x in rows]).amin(dim=0)
        maxima = torch.stack([x.amax(dim=0) for x in rows]).amax(dim=0)
        read(torch.stack([minima, maxima]), partial(self._take, number))

    def _take(self, number: int | None, ends: Tensor) -> None:
        """ends (2, K)"""
        self.minima.append(ends[0].clone())
        self.maxima.append(ends[1].clone())
        self.numbers.append(len(self.numbers) if number is None else number)

    def merge(self, other: "ChannelExtrema") -> None:
        """Add what was observed in other batches: the same as having seen them too, in the order of their numbers."""
        numbers, minima, maxima = (
            getattr(self, name) + getattr(other, name) for name in ("numbers", "minima", "maxima")
        )
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        self.numbers, self.minima, self.maxima = ([x[i] for i in order] for x in (numbers, minima, maxima))


def magnitudes(minima: Tensor, maxima: Tensor) -> Tensor:
    """max|x_j| (K) over all batches, of (batches, K) each."""
    return torch.maximum(-minima, maxima).amax(dim=0).clamp(min=0.0)
