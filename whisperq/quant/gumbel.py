"""A choice among bit-widths that can be learned, its annealing, and the price of a bit that keeps it at a target.

    p_lk = softmax_k((a_lk - v r_l b_k + g_lk) / tau),   g = -log(-log u), u uniform in (0, 1)   (Jang et al. 2017)
    sum_l r_l sum_k p_lk b_k = T sum_l r_l   for g = 0                                           v, the price of a bit
    tau(t) = tau_0 (tau_1 / tau_0)^t                            t: 0 at the search's first step, 1 at its last

a (layers, K): what is learned; b_k: widths; r_l: the layer's size relative to the mean one; T: the target. As tau falls
p becomes one-hot. v is the Lagrange multiplier of the mean width, solved for in every step instead of being learned:
the target is met throughout, and a layer of few values may have many bits. The paper (arXiv 2501.03643) names
Gumbel-softmax; price and schedule are ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

MOST = 1e6  # price
HALVINGS = 50
FLAT = 1e-9  # bits for each unit of price: all layers are as good as decided


def temperature(progress: float, first: float, last: float) -> float:
    """Falls by the same factor in every step; progress: 0 to 1."""
    return first * (last / first) ** min(1.0, max(0.0, progress))


def gumbel_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, on the CPU: equal on every machine and in every process."""
    smallest = torch.finfo(torch.float32).tiny
    uniform = torch.rand(*shape, generator=generator).clamp_(min=smallest, max=1 - 2**-24)
    return -(-uniform.log()).log()


def relaxed(logits: Tensor, tau: float, noise: Tensor | None = None) -> Tensor:
    """Logits (..., K) -> probabilities (..., K)."""
    return torch.softmax((logits if noise is None else logits + noise.to(logits.device)) / tau, dim=-1)


def priced(logits: Tensor, relative: Tensor, widths: Sequence[int], target: float, tau: float) -> tuple[Tensor, float]:
    """a (layers, K), r (layers) -> a - v r b, differentiable with v a function of a; and v."""
    bits, a, r = torch.tensor(widths, dtype=torch.float64), logits.double(), relative.double()[:, None]
    with torch.no_grad():
        solved = _price(a, r, bits, target, tau)
        price: Tensor | float = solved
        p = torch.softmax((a - price * r * bits) / tau, dim=-1)
        spread = p @ bits**2 - (p @ bits) ** 2
        slope = (r.squeeze(1) ** 2 * spread).mean() / tau  # by which the mean width falls with the price
    if slope > FLAT:  # a Newton step: it leaves v where it is, and carries the derivative
        price = price + (_mean_width(a, r, bits, price, tau) - target) / slope
    return (a - price * r * bits).to(logits.dtype), solved


def _mean_width(a: Tensor, r: Tensor, bits: Tensor, price: Tensor | float, tau: float) -> Tensor:
    return (r.squeeze(1) * (torch.softmax((a - price * r * bits) / tau, dim=-1) @ bits)).mean()


def _price(a: Tensor, r: Tensor, bits: Tensor, target: float, tau: float) -> float:
    """Price at which the mean width is `target`, found by bisection: the mean width falls as the price rises."""
    low, high = -1.0, 1.0
    while _mean_width(a, r, bits, low, tau) < target and low > -MOST:
        low *= 2
    while _mean_width(a, r, bits, high, tau) > target and high < MOST:
        high *= 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean_width(a, r, bits, middle, tau) > target else (low, middle)
    return (low + high) / 2
