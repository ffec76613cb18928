"""A penalty on ranges: how far the peaks of the student's activations lie above their spread.

    R = mean_{windows, sites} r(x)        r(x) = 1/b log sum_i exp(b |x_i - mean(x)| / std(x)),   b = SHARPNESS

x: all values of one window at one site, padding tokens apart; r is a soft maximum, never below the peak in standard
deviations and at most log(values)/b above it. An integer grid spans the peak and has to resolve the spread, so that r
says how many of its steps are lost. Windows count by their labelled tokens, as in the other terms, so that
micro-batches change nothing.

Sites are those of all blocks whose values a quantizer would see between the products: every one but scores,
probabilities and gates, whose ranges are bounded or stay within a fused kernel.

The penalty is ours. Nearest to it is the small regulariser on the outputs of feed-forward layers with which Bondarenko
et al. fine-tune gates (arXiv 2306.12929, appendix B.6).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.models.sites import Site, Watcher, model_sites, watch

SHARPNESS = 4.0
SMALLEST = 1e-6  # standard deviation
LOWEST = -80.0  # of an exponent: exp of less is no normal float32, which a CPU computes thirty times more slowly
INSIDE = ("scores", "probs", "gate")  # of attention


def soft_peak(x: Tensor, used: Tensor | None = None) -> Tensor:
    """(batch, time, width) -> r of each window, (batch,), float32; used (batch, time): which times are no padding."""
    return _SoftPeak.apply(x.flatten(2), used)


class _SoftPeak(torch.autograd.Function):
    """r with a gradient of its own, which keeps nothing for the backward pass but x and five numbers of each window.

    With u = (x - mean(x)) / std(x), p = softmax(b |u|), g = p sign(u) and n values:

        dr/dx = (g - sum(g)/n - u sum(g u)/n) / std(x)

    On a CPU window by window, so that what lies between two operations stays in its caches.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, used: Tensor | None) -> Tensor:
        found = [_Window.measured(*part) for part in _parts(x, used)]
        r, *others = (torch.cat(values) for values in zip(*found, strict=True))
        ctx.save_for_backward(x, used, r, *others)
        return r

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        x, used, *numbers = ctx.saved_tensors
        gradient = torch.empty_like(x)
        places = _parts(x, used)
        values = zip(*(y.chunk(len(places)) for y in (*numbers, *upstream)), strict=True)
        for into, (part, mask), (*known, factor) in zip(gradient.chunk(len(places)), places, values, strict=True):
            into.copy_(_Window(*known).gradient(part, mask, factor))
        return gradient, None


class _Window(NamedTuple):
    """What the gradient needs of each window, (batch,) each."""

    r: Tensor
    mean: Tensor
    std: Tensor
    signs: Tensor  # sum(g) / n
    slope: Tensor  # sum(g u) / n

    @classmethod
    def measured(cls, x: Tensor, used: Tensor | None) -> "_Window":
        """x (batch, time, width), used (batch, time)."""
        sums = x.sum(dim=2, dtype=torch.float32)
        count = torch.full_like(sums[:, 0], sums.shape[1]) if used is None else used.sum(dim=1, dtype=torch.float32)
        count = count * x.shape[2]
        mean = (sums if used is None else sums.masked_fill(~used, 0)).sum(dim=1) / count
        u = _masked(x - mean[:, None, None], used)
        norm = torch.linalg.vector_norm(torch.linalg.vector_norm(u, dim=2), dim=1)
        std = (norm.square() / count).clamp(min=SMALLEST**2).sqrt()
        u.div_(std[:, None, None])
        g = u.abs()
        peak = g.amax(dim=(1, 2))
        _masked(_exponentials(g, peak[:, None, None]), used)
        total = g.sum(dim=2).sum(dim=1)
        g.copysign_(u)
        signs, slope = (y.sum(dim=2).sum(dim=1) / total / count for y in (g, u.mul_(g)))
        return cls(peak + total.log() / SHARPNESS, mean, std, signs, slope)

    def gradient(self, x: Tensor, used: Tensor | None, upstream: Tensor) -> Tensor:
        """dr/dx times upstream (batch,), float32; zero in padding, and of a window that stands still."""
        factor = (upstream / self.std).masked_fill(self.std <= SMALLEST, 0)
        r, mean, std, signs, slope, factor = (y[:, None, None] for y in (*self, factor))
        u = (x - mean).div_(std)
        g = _exponentials(u.abs(), r).copysign_(u)
        return _masked(g.sub_(u.mul_(slope).add_(signs)).mul_(factor), used)


def _parts(x: Tensor, used: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    count = len(x) if x.device.type == "cpu" else 1
    masks = [None] * count if used is None else used.chunk(count)
    return list(zip(x.chunk(count), masks, strict=True))


def _exponentials(sizes: Tensor, top: Tensor) -> Tensor:
    """exp(b (sizes - top)), never below exp(LOWEST), in the place of the sizes."""
    return sizes.sub_(top).mul_(SHARPNESS).clamp_(min=LOWEST).exp_()


def _masked(x: Tensor, used: Tensor | None) -> Tensor:
    """x (batch, time, width) itself, with zeros in padding."""
    return x if used is None else x.masked_fill_(~used[:, :, None], 0)


class Ranges:
    """The penalty of one network, gathered while it computes."""

    def __init__(self, student: PreTrainedModel) -> None:
        self.student, self.all = student, model_sites(student)
        self.sites = [a for a, s in self.all.items() if a.count(".") >= 2 and s.component not in INSIDE]

    @contextmanager
    def gathered(self, used: Tensor) -> Iterator[list[Tensor]]:
        """Inside, each site's r, (batch,), joins the list; used (batch, tokens): decoder inputs that are no padding."""
        found: list[Tensor] = []
        watchers = {a: _watcher(found, self.all[a], used) for a in self.sites}
        with watch(self.student, self.all, watchers):
            yield found


def _watcher(found: list[Tensor], site: Site, used: Tensor) -> Watcher:
    mask = used if site.axis else None

    def see(x: Tensor) -> None:
        with torch.autocast(x.device.type, enabled=False):
            found.append(soft_peak(x, mask))

    return see


def penalty_sum(peaks: Sequence[Tensor], used: Tensor) -> Tensor:
    """R of each window times its labelled tokens, summed; at least one token is labelled."""
    return (torch.stack([*peaks]).mean(dim=0) * used.sum(dim=1)).sum()
