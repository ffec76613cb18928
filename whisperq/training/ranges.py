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

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from whisperq.models.sites import Site, Watcher, model_sites, watch

SHARPNESS = 4.0
INSIDE = ("scores", "probs", "gate")  # of attention


def soft_peak(x: Tensor, used: Tensor | None = None) -> Tensor:
    """(batch, time, width) -> r of each window, (batch,), float32; used (batch, time): which times are no padding."""
    x = x.float().flatten(2)
    weight = torch.ones(x.shape[:2], device=x.device) if used is None else used.float()
    count = weight.sum(dim=1) * x.shape[2]
    mean = (x.sum(dim=2) * weight).sum(dim=1) / count
    apart = x - mean[:, None, None]
    std = ((apart.square().sum(dim=2) * weight).sum(dim=1) / count).clamp(min=1e-12).sqrt()
    logits = SHARPNESS * apart.abs() / std[:, None, None]
    if used is not None:
        logits = logits.masked_fill(~used[:, :, None], -torch.inf)
    return logits.flatten(1).logsumexp(dim=1) / SHARPNESS


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
            # Computed again in the backward pass: nothing but the site's own tensor is kept for that.
            found.append(checkpoint(soft_peak, x, mask, use_reentrant=False, preserve_rng_state=False))

    return see


def penalty_sum(peaks: Sequence[Tensor], used: Tensor) -> Tensor:
    """R of each window times its labelled tokens, summed; at least one token is labelled."""
    return (torch.stack([*peaks]).mean(dim=0) * used.sum(dim=1)).sum()
