"""One optimiser step of distillation, and the schedule around it."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from whisperq.data.batches import Batch, teacher_forced
from whisperq.data.tokens import IGNORED
from whisperq.errors import TrainingError, UsageError
from whisperq.options import DistillConfig
from whisperq.training.losses import cross_entropy_sum, kl_sum


@dataclass(frozen=True)
class StepMetrics:
    """Losses in nats for each token, unweighted; gradient norm before clipping."""

    step: int
    loss: float
    ce: float
    kl: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    samples: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Equal bits from equal input and thread count: scattered gradients are otherwise summed in any order."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def learning_rate(step: int, config: DistillConfig) -> float:
    """Linear warm-up from zero, then linear to zero at max_steps; `step` counts from zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    rest = max(1, config.max_steps - config.warmup_steps)
    return config.learning_rate * max(0.0, (config.max_steps - step) / rest)


class Distiller:
    """Student, frozen teacher and optimiser."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, config: DistillConfig, autocast: torch.dtype, seed: int
    ) -> None:
        self.student, self.teacher, self.config, self.autocast, self.seed = student, teacher, config, autocast, seed
        self.device = next(student.parameters()).device.type
        teacher.eval().requires_grad_(False)
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, number: int, micro_batches: Sequence[Batch]) -> StepMetrics:
        """Forward and backward over the micro-batches of one effective batch, then one update.

        Raises TrainingError, with the utterances' ids, where the loss or the gradient is not finite.
        """
        torch.manual_seed(self.seed * 1_000_003 + number)  # dropout is a function of seed and step
        rate = learning_rate(number, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        tokens = sum(int((b.tokens.labels != IGNORED).sum()) for b in micro_batches)
        self.student.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.device)
        with deterministic(self.device == "cpu"):
            for batch in micro_batches:
                sums += self._accumulate(batch, tokens)
        ce, kl = (sums / tokens).tolist()
        loss = self.config.ce_weight * ce + self.config.kl_weight * kl
        clip = self.config.max_grad_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.parameters, clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            ids = ", ".join(u.id for b in micro_batches for u in b.utterances)
            raise TrainingError(
                f"step {number + 1}: the loss is {loss} and the gradient's norm {norm}; its utterances: {ids}"
            )
        self.optimizer.step()
        samples = sum(len(b.utterances) for b in micro_batches)
        return StepMetrics(number + 1, loss, ce, kl, rate, norm, tokens, samples)

    def _accumulate(self, batch: Batch, tokens: int) -> Tensor:
        """Add one micro-batch's gradient; returns its summed CE and KL."""
        labels = batch.tokens.labels.to(self.device)
        with self._autocast():
            with torch.no_grad():
                teacher = teacher_forced(self.teacher, batch, self.device)
            student = teacher_forced(self.student, batch, self.device)
        ce = cross_entropy_sum(student, labels)
        kl = kl_sum(student, teacher, labels, self.config.temperature)
        ((self.config.ce_weight * ce + self.config.kl_weight * kl) / tokens).backward()
        return torch.stack([ce.detach(), kl.detach()])

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device, self.autocast, enabled=self.autocast != torch.float32)


def autocast_dtype(name: str, device: str) -> torch.dtype:
    """auto: bfloat16 where the hardware multiplies it, else float32. Raises UsageError for float16."""
    if name == "float16":
        raise UsageError("distill does not train in float16, whose gradients vanish; give --dtype bfloat16 or float32")
    if name != "auto":
        return getattr(torch, name)
    hardware = torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if hardware else torch.float32
