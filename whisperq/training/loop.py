"""One optimiser step of a training against a float model, and the schedule around it."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from whisperq.data.batches import Batch
from whisperq.data.tokens import IGNORED
from whisperq.errors import InputError, TrainingError, UsageError
from whisperq.jobs.determinism import deterministic
from whisperq.jobs.distributed import ALONE, Processes
from whisperq.models.families import tied_names
from whisperq.training.checkpoints import require_like
from whisperq.training.layers import recompute_layers
from whisperq.training.losses import Weighting
from whisperq.training.student_teacher import Pair, Whisper
from whisperq.training.teacher_cache import TeacherCache
from whisperq.training.training_pair import TrainingPair
from whisperq.training_options import DistillConfig, TrainingConfig


@dataclass(frozen=True)
class StepMetrics:
    """Figures of a step over all processes: unweighted losses in nats per token; gradient norm before clipping."""

    step: int
    loss: float
    ce: float  # the task's own loss
    kl: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    task: str = "ce"
    extra: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, float]:
        """The figures for the log, `ce` under the name of the task's own loss."""
        found = {self.task if k == "ce" else k: v for k, v in asdict(self).items() if k not in ("task", "extra")}
        return {**found, **self.extra}


@dataclass(frozen=True)
class Step:
    """An update on its way: its figures are still on the device, so that nobody waits for them before they are read."""

    number: int  # counted from zero
    figures: Tensor  # CE, KL and `terms` summed over tokens, gradient norm
    tokens: int
    learning_rate: float
    utterances: tuple[str, ...]
    weighting: Weighting
    task: str = "ce"
    extra: Mapping[str, float] = field(default_factory=dict)  # further figures for the log
    terms: tuple[str, ...] = ()  # of the loss, beside CE and KL

    def read(self) -> StepMetrics:
        """Raises TrainingError, with the utterances' ids, where the loss or the gradient is not finite."""
        *sums, norm = self.figures.tolist()
        ce, kl, *terms = (value / self.tokens for value in sums)
        loss = self.weighting.ce * ce + self.weighting.kl * kl + self.weighting.ranges * sum(terms)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"step {self.number + 1}: the loss is {loss} and the gradient's norm {norm}; "
                f"its utterances: {', '.join(self.utterances)}"
            )
        extra = {**dict(zip(self.terms, terms, strict=True)), **self.extra}
        return StepMetrics(self.number + 1, loss, ce, kl, self.learning_rate, norm, self.tokens, self.task, extra)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up from zero, then as `schedule` says, zero at max_steps; `step` counts from zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    left = max(0.0, (config.max_steps - step) / max(1, config.max_steps - config.warmup_steps))
    share = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[config.schedule]
    return config.learning_rate * share


class Learner:
    """A network that is trained against a float one, and its optimiser; what is trained, subclasses may change.

    A pair, as `student_teacher.Pair` is one, has `.student`, `.weighting`, `.task`, the name of the task's own loss,
    `.inputs(batch)`, what its forward takes of a batch, and `.set_modes()`; its forward gives L, and the task's loss
    and KL, each summed over a batch.
    """

    def __init__(
        self, pair: TrainingPair, config: TrainingConfig, autocast: torch.dtype, seed: int, processes: Processes = ALONE
    ) -> None:
        self.pair, self.config, self.autocast, self.seed, self.processes = pair, config, autocast, seed, processes
        self.student = pair.student
        if config.recompute:
            recompute_layers(self.student)
        self.device = next(self.student.parameters()).device.type
        self.module = DistributedDataParallel(pair) if processes.world > 1 else pair
        self.trained = self._trained()
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
        )

    def _trained(self) -> dict[str, nn.Parameter]:
        """Parameters that are trained, by name."""
        return {name: p for name, p in self.student.named_parameters() if p.requires_grad}

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser; `factor` multiplies the learning rate."""
        return [{"params": [*self.trained.values()], "factor": 1.0, "weight_decay": self.config.weight_decay}]

    def _clipped(self) -> list[nn.Parameter]:
        """Parameters over whose gradients the norm is measured and clipped."""
        return [*self.trained.values()]

    def _before(self, number: int) -> None:
        """Hook that may change the student before its forward pass."""

    def _after_backward(self, number: int) -> dict[str, float]:
        """Hook that may change the gradients; returns figures for the log."""
        return {}

    def may_be_result(self, step: int) -> bool:
        """Whether the student as it is after so many steps may be what the training is for."""
        return True

    def ready(self) -> None:
        """Called before the student is judged."""

    def step(self, number: int, micro_batches: Sequence[Batch]) -> Step:
        """Forward and backward over this process's micro-batches of one effective batch, then one update of all.

        A loss or gradient that is not finite updates nothing; the step's figures say so when they are read.
        """
        # Dropout is a function of seed, step and process.
        torch.manual_seed((self.seed * 1_000_003 + number) * 1_009 + self.processes.rank)
        rate = learning_rate(number, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        utterances = tuple(u.id for b in micro_batches for u in b.utterances)
        tokens = self.processes.total(sum(int((b.tokens.labels != IGNORED).sum()) for b in micro_batches))
        if not tokens:
            raise InputError(f"step {number + 1}: none of its utterances is usable")
        self._before(number)
        self.pair.set_modes()
        self.student.zero_grad(set_to_none=True)
        self.optimizer.zero_grad(set_to_none=True)
        terms = getattr(self.pair, "terms", ())
        sums = torch.zeros(2 + len(terms), device=self.device)
        repeatable = deterministic(self.device == "cpu" or self.config.deterministic)
        # The outermost autocast, though it is off: a weight that is cast for one micro-batch stays so for the next.
        with repeatable, self._autocast(on=False), self.pair.in_training():
            for i, batch in enumerate(micro_batches, 1):
                sums += self.accumulate(batch, tokens, last=i == len(micro_batches))
            extra = self._after_backward(number)
        if self.processes.world > 1:
            dist.all_reduce(sums)
        norm = nn.utils.clip_grad_norm_(self._clipped(), self.config.max_grad_norm or math.inf)
        figures = torch.cat([sums, norm.reshape(1)])
        # Read by the fused kernel, on the device; AdamW's annotations do not know of it.
        self.optimizer.found_inf = (~torch.isfinite(figures.sum())).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        return Step(number, figures, tokens, rate, utterances, self.pair.weighting, self.pair.task, extra, terms)

    def accumulate(self, batch: Batch, tokens: int, last: bool) -> Tensor:
        """Add one micro-batch's gradient; returns its summed task loss and KL. Processes meet at the last one only."""
        on_device = tuple(self._moved(x) for x in self.pair.inputs(batch))
        alone: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(self.module, DistributedDataParallel) and not last:
            alone = self.module.no_sync()
        with alone:
            with self._autocast():
                loss, sums = self.module(*on_device)
            (loss * (self.processes.world / tokens)).backward()  # processes' gradients are averaged
        return sums.float()

    def _autocast(self, on: bool = True) -> torch.autocast:
        return torch.autocast(self.device, self.autocast, enabled=on and self.autocast != torch.float32)

    def _moved(self, value: Any) -> Any:
        """A tensor to the device without waiting for it; what is none moves itself."""
        if self.device != "cuda" or not isinstance(value, Tensor) or value.is_cuda:
            return value
        return value.pin_memory().to(self.device, non_blocking=True)

    def weights(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of the student: everything, a tied output projection and its embedding once."""
        twice = tied_names(self.student.config)[1:]
        return {k: v for k, v in self.student.state_dict().items() if k not in twice}

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Raises ValueError and KeyError for tensors of another network."""
        require_like(tensors, self.weights())
        self.student.load_state_dict(tensors, strict=False)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter: `<name>/exp_avg`, `<name>/exp_avg_sq`, `<name>/step`."""
        state = self.optimizer.state
        return {f"{n}/{k}": t for n, p in self.trained.items() for k, t in state[p].items()}

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Raises ValueError and KeyError for a state that is not of these parameters."""
        step = torch.zeros((), dtype=torch.float32)
        expected = {name: {"step": step, "exp_avg": p, "exp_avg_sq": p} for name, p in self.trained.items()}
        require_like(tensors, {f"{name}/{k}": t for name, state in expected.items() for k, t in state.items()})
        for name, parameter in self.trained.items():
            state = {k: tensors[f"{name}/{k}"].to(parameter.device) for k in expected[name]}
            self.optimizer.state[parameter] = state


class Distiller(Learner):
    """A Whisper student, its frozen teacher and the optimiser."""

    def __init__(
        self,
        student: Whisper,
        teacher: Whisper,
        config: DistillConfig,
        autocast: torch.dtype,
        seed: int,
        processes: Processes = ALONE,
        cache: TeacherCache | None = None,
    ) -> None:
        student.model.encoder.requires_grad_(not config.freeze_encoder)
        student.model.encoder.embed_positions.requires_grad_(False)
        weighting = Weighting(config.ce_weight, config.kl_weight, config.temperature, config.range_weight or 0.0)
        pair = Pair(student, teacher, weighting, autocast, config.compile, cache)
        super().__init__(pair, config, autocast, seed, processes)
        self.teacher = teacher


def autocast_dtype(name: str, device: str) -> torch.dtype:
    """auto: bfloat16 where the hardware multiplies it, else float32. Raises UsageError for float16."""
    if name == "float16":
        raise UsageError("a training in float16 would lose its smallest gradients; give --dtype bfloat16 or float32")
    if name != "auto":
        return getattr(torch, name)
    hardware = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if hardware else torch.float32
