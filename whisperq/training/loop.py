"""One optimiser step of distillation, and the schedule around it."""

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from whisperq.data.batches import Batch
from whisperq.data.tokens import IGNORED
from whisperq.errors import InputError, TrainingError, UsageError
from whisperq.training.distributed import ALONE, Processes
from whisperq.training.losses import Weighting
from whisperq.training.pair import Pair, Whisper
from whisperq.training_options import DistillConfig


@dataclass(frozen=True)
class StepMetrics:
    """Losses in nats for each token, unweighted; gradient norm before clipping; of all processes together."""

    step: int
    loss: float
    ce: float
    kl: float
    learning_rate: float
    gradient_norm: float
    tokens: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Step:
    """An update on its way: its figures are still on the device, so that nobody waits for them before they are read."""

    number: int  # counted from zero
    figures: Tensor  # (3,): CE and KL summed over tokens, gradient norm
    tokens: int
    learning_rate: float
    utterances: tuple[str, ...]
    weighting: Weighting

    def read(self) -> StepMetrics:
        """Raises TrainingError, with the utterances' ids, where the loss or the gradient is not finite."""
        ce, kl, norm = self.figures.tolist()
        ce, kl = ce / self.tokens, kl / self.tokens
        loss = self.weighting.ce * ce + self.weighting.kl * kl
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"step {self.number + 1}: the loss is {loss} and the gradient's norm {norm}; "
                f"its utterances: {', '.join(self.utterances)}"
            )
        return StepMetrics(self.number + 1, loss, ce, kl, self.learning_rate, norm, self.tokens)


def prepare_determinism() -> None:
    """To be called before anything runs on a GPU: cuBLAS looks once, at its first product.

    Raises UsageError for a workspace with which its sums may be split in any way.
    """
    known = (":4096:8", ":16:8")
    if os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", known[0]) not in known:
        raise UsageError(f"--deterministic needs CUBLAS_WORKSPACE_CONFIG to be {' or '.join(known)}")


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Equal bits from equal input and thread count: scattered gradients are otherwise summed in any order."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(wanted or before[0])
    torch.utils.deterministic.fill_uninitialized_memory = False  # it costs percents, and nothing here reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def learning_rate(step: int, config: DistillConfig) -> float:
    """Linear warm-up from zero, then linear to zero at max_steps; `step` counts from zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    rest = max(1, config.max_steps - config.warmup_steps)
    return config.learning_rate * max(0.0, (config.max_steps - step) / rest)


def recompute_layers(student: Whisper) -> None:
    """Each layer keeps its input alone, and computes the rest again in the backward pass."""
    for layer in (*student.model.encoder.layers, *student.model.decoder.layers):
        layer.gradient_checkpointing = True  # transformers' layers ask for these two
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)


class Distiller:
    """Student, frozen teacher and optimiser."""

    def __init__(
        self,
        student: Whisper,
        teacher: Whisper,
        config: DistillConfig,
        autocast: torch.dtype,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self.student, self.teacher, self.config, self.autocast = student, teacher, config, autocast
        self.seed, self.processes = seed, processes
        self.device = next(student.parameters()).device.type
        student.model.encoder.requires_grad_(not config.freeze_encoder)
        student.model.encoder.embed_positions.requires_grad_(False)
        if config.recompute:
            recompute_layers(student)
        self.weighting = Weighting(config.ce_weight, config.kl_weight, config.temperature)
        self.pair = Pair(student, teacher, self.weighting, autocast, config.compile)
        self.module = DistributedDataParallel(self.pair) if processes.world > 1 else self.pair
        self.trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, number: int, micro_batches: Sequence[Batch]) -> Step:
        """Forward and backward over this process's micro-batches of one effective batch, then one update of all.

        A loss or gradient that is not finite updates nothing; the step's figures say so when they are read.
        """
        # Dropout is a function of seed, step and process.
        torch.manual_seed((self.seed * 1_000_003 + number) * 1_009 + self.processes.rank)
        rate = learning_rate(number, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        utterances = tuple(u.id for b in micro_batches for u in b.utterances)
        tokens = self.processes.total(sum(int((b.tokens.labels != IGNORED).sum()) for b in micro_batches))
        if not tokens:
            raise InputError(f"step {number + 1}: none of its utterances is usable")
        self._set_modes()
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.device)
        with deterministic(self.device == "cpu" or self.config.deterministic):
            for i, batch in enumerate(micro_batches, 1):
                sums += self._accumulate(batch, tokens, last=i == len(micro_batches))
        if self.processes.world > 1:
            dist.all_reduce(sums)
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.config.max_grad_norm or math.inf)
        figures = torch.cat([sums, norm.reshape(1)])
        self.optimizer.found_inf = (~torch.isfinite(figures.sum())).float()  # read by the fused kernel, on the device
        self.optimizer.step()
        return Step(number, figures, tokens, rate, utterances, self.weighting)

    def _set_modes(self) -> None:
        self.student.train()
        if self.pair.encoder_frozen:
            self.student.model.encoder.eval()

    def _accumulate(self, batch: Batch, tokens: int, last: bool) -> Tensor:
        """Add one micro-batch's gradient; returns its summed CE and KL. Processes meet at the last one only."""
        rows = (batch.tokens.labels.flatten() != IGNORED).nonzero().squeeze(1)
        on_device = (self._moved(t) for t in (batch.tokens.inputs, rows, batch.tokens.labels.flatten()[rows]))
        alone = contextlib.nullcontext() if last or self.processes.world == 1 else self.module.no_sync()
        with alone:
            with torch.autocast(self.device, self.autocast, enabled=self.autocast != torch.float32):
                loss, sums = self.module(batch.features, *on_device)
            (loss * (self.processes.world / tokens)).backward()  # processes' gradients are averaged
        return sums.float()

    def _moved(self, tensor: Tensor) -> Tensor:
        """To the device without waiting for it."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device == "cuda" else tensor

    def optimizer_state(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter: `<name>/exp_avg`, `<name>/exp_avg_sq`, `<name>/step`."""
        state = self.optimizer.state
        return {f"{n}/{k}": t for n, p in self.trained.items() for k, t in state[p].items()}

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Raises KeyError for a state that is not of these parameters."""
        for name, parameter in self.trained.items():
            keys = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[parameter] = {k: tensors[f"{name}/{k}"].to(parameter.device) for k in keys}


def autocast_dtype(name: str, device: str) -> torch.dtype:
    """auto: bfloat16 where the hardware multiplies it, else float32. Raises UsageError for float16."""
    if name == "float16":
        raise UsageError("distill does not train in float16, whose gradients vanish; give --dtype bfloat16 or float32")
    if name != "auto":
        return getattr(torch, name)
    hardware = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if hardware else torch.float32
