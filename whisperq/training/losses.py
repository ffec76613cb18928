"""The distillation loss, from hidden states.

    L = a_CE * CE + a_KL * T^2 * KL(p_teacher || p_student)        (arXiv 2406.11022, equation 1: a_KL 0.8)

    CE = -sum_t log p_student(y_t),   KL = sum_t sum_v p_teacher(v) (log p_teacher(v) - log p_student(v))

t: the tokens that are labelled; p: softmax(z / T), z = W h the logits, T the `temperature` (1 in the paper as far
as it says; T^2 keeps the gradients' size, Hinton et al. 2015). Both are sums over tokens: the caller divides by the
tokens of the whole effective batch, so that micro-batches change nothing.

Logits of 64 windows of Whisper's length and vocabulary take 6 GB in float32, and as many again for each softmax and
gradient. So tokens go through the vocabulary in chunks, and each chunk's gradient

    dL/dz = a_CE (p_student - onehot(y)) + a_KL T (p_student,T - p_teacher,T)

is pulled back to h and W at once: nothing of the vocabulary's size outlives its chunk (as Liger's fused loss does).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**26}  # logits of one chunk: 64 and 256 MB in float32


@dataclass(frozen=True)
class Weighting:
    """a_CE, a_KL and T; a_R of the penalty on ranges (ranges.py), where there is one."""

    ce: float = 1.0
    kl: float = 0.8
    temperature: float = 1.0
    ranges: float = 0.0


@dataclass(frozen=True)
class Head:
    """Hidden states (tokens, d) and the vocabulary (vocabulary, d) that turns them into logits."""

    hidden: Tensor
    vocabulary: Tensor


def distillation_sums(student: Head, teacher: Head, labels: Tensor, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """Labels (tokens) -> L, differentiable in the student's head, and (CE, T^2 KL), in nats summed over tokens.

    Products are computed in autocast's number format where it is on, sums in float32 at least.
    """
    dtype = _product_dtype(student)
    return _ChunkedLoss.apply(
        student.hidden, student.vocabulary, teacher.hidden, teacher.vocabulary, labels, weighting, dtype
    )


def _product_dtype(student: Head) -> torch.dtype:
    device = student.hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else student.vocabulary.dtype


def kl_sum(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """logits (positions, vocabulary) of both -> T^2 KL(teacher || student), summed."""
    log_p, log_q = (torch.log_softmax(z / temperature, dim=-1) for z in (student, teacher))
    return temperature**2 * F.kl_div(log_p, log_q, reduction="sum", log_target=True)


class _ChunkedLoss(torch.autograd.Function):
    """The gradient is made in the forward pass, while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        vocabulary: Tensor,
        teacher_hidden: Tensor,
        teacher_vocabulary: Tensor,
        labels: Tensor,
        weighting: Weighting,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        wants_hidden, wants_vocabulary = ctx.needs_input_grad[:2]
        with torch.autocast(hidden.device.type, enabled=False):
            h, w = hidden.to(dtype), vocabulary.to(dtype)
            th, tw = teacher_hidden.to(dtype), teacher_vocabulary.to(dtype)
            precise = torch.promote_types(dtype, torch.float32)
            sums = torch.zeros(2, device=h.device, dtype=precise)
            grad_h = torch.zeros_like(hidden) if wants_hidden else None
            grad_w = torch.zeros_like(vocabulary) if wants_vocabulary else None
            size = max(1, CHUNK_ELEMENTS[h.device.type] // len(w))
            for part in (slice(i, i + size) for i in range(0, len(h), size)):
                logits, taught = (h[part] @ w.T).to(precise), (th[part] @ tw.T).to(precise)
                gradient = _chunk(logits, taught, labels[part], weighting, sums).to(dtype)
                if grad_h is not None:
                    grad_h[part] = gradient @ w
                if grad_w is not None:
                    grad_w += gradient.T @ h[part]
        ctx.gradients = grad_h, grad_w
        ctx.mark_non_differentiable(sums)
        return weighting.ce * sums[0] + weighting.kl * sums[1], sums

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        grads = [None if g is None else g.mul_(grad_loss) for g in ctx.gradients]
        return *grads, None, None, None, None, None


def _chunk(student: Tensor, teacher: Tensor, labels: Tensor, weighting: Weighting, sums: Tensor) -> Tensor:
    """Logits (tokens, vocabulary) of both -> dL/dz of the student's; adds CE and T^2 KL to `sums`."""
    temperature, rows = weighting.temperature, labels[:, None]
    log_p = torch.log_softmax(student, dim=-1)
    sums[0] -= log_p.gather(1, rows).sum()
    warm = log_p if temperature == 1.0 else torch.log_softmax(student / temperature, dim=-1)
    log_q = torch.log_softmax(teacher / temperature, dim=-1)
    q = log_q.exp()
    sums[1] += temperature**2 * log_q.sub_(warm).mul_(q).sum()
    if temperature == 1.0:  # both terms have one softmax
        gradient = log_p.exp().mul_(weighting.ce + weighting.kl).sub_(q, alpha=weighting.kl)
    else:
        gradient = (warm.exp() - q).mul_(weighting.kl * temperature)
        gradient.add_(log_p.exp(), alpha=weighting.ce)
    return gradient.scatter_add_(1, rows, torch.full_like(rows, -weighting.ce, dtype=gradient.dtype))
