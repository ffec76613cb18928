"""The distillation loss.

    L = a_CE * CE + a_KL * T^2 * KL(p_teacher || p_student)        (arXiv 2406.11022, equation 1: a_KL 0.8)

    CE = -sum_t log p_student(y_t),   KL = sum_t sum_v p_teacher(v) (log p_teacher(v) - log p_student(v))

t: the tokens that are not padding; p: softmax(logits / T), T the `temperature` (1 in the paper as far as it
says; T^2 keeps the gradients' size, Hinton et al. 2015). Both are sums over tokens here: the caller divides
by the tokens of the whole effective batch, so that micro-batches change nothing.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from whisperq.data.tokens import IGNORED


def cross_entropy_sum(student: Tensor, labels: Tensor) -> Tensor:
    """Logits (batch, tokens, vocabulary), labels (batch, tokens) -> nats, summed over labelled tokens."""
    return cross_entropy(student.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def kl_sum(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) in nats, summed over labelled tokens; logits (batch, tokens, vocabulary)."""
    used = labels != IGNORED
    log_student = torch.log_softmax(student[used].float() / temperature, dim=-1)
    log_teacher = torch.log_softmax(teacher[used].float() / temperature, dim=-1)
    return temperature**2 * kl_div(log_student, log_teacher, reduction="sum", log_target=True)
