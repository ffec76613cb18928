"""How fast int8 is on this device beside transformers in bfloat16: the encoder, and a decoder step.

All contenders are in one process and work in turn, each round beginning with another one; a ratio is formed within a
round. The twin that transformers runs has our model's shape, random weights of its own and no gates, with PyTorch's
scaled dot product attention; its encoder is timed compiled by torch.compile too, for every batch size anew.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from building import WHISPER_SIZES, Size, build, random_features
from contenders import run_steps
from gpu_task import Failed, Task, in_a_line
from machine import timed
from ours import int8_runtime
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from whisperq.runtime.int8.whisper import Int8Runtime
from whisperq.runtime.pytorch import PyTorchRuntime

BATCHES = (8, 32, 1)  # those with a target first
COMPILE_LIMIT = 60  # seconds for one batch size
KEPT_BACK = 5  # seconds of the part that compiling may not use
Encode = Callable[[Tensor], Any]


def int8(task: Task) -> None:
    """Raises Failed where an encoder could not be compiled; all else is measured by then."""
    size = "tiny" if task.smallest else "large-16-2"
    batches = (2, 1) if task.smallest else BATCHES
    rounds, tokens = (2, 4) if task.smallest else (5, 65)  # int8 records a step first: as many as a sentence has
    ours = int8_runtime(build("quantized", size, task.folder), task.device)
    theirs = PyTorchRuntime(twin(WHISPER_SIZES[size], task.device))
    task.results |= {
        "size": size, "rounds": rounds, "steps": tokens - 1, "notices": list(ours.notices), "batches": {},
    }  # fmt: skip
    for batch in batches:
        features = random_features(batch).to(task.device)
        entry = task.results["batches"].setdefault(str(batch), {})
        entry["encoder_s"] = alternate(encoders(ours, theirs), features, rounds)
        entry["step_s"] = decoder_steps({"int8": ours, "bf16": theirs}, features, rounds, tokens)
        task.save()
    if task.compile:
        reasons = [add_compiled(task, ours, theirs, batch, rounds) for batch in batches]
        if failed := [reason for reason in reasons if reason]:
            raise Failed(f"compiling: {failed[0]}")


def twin(size: Size, device: str) -> WhisperForConditionalGeneration:
    """Stock Whisper of this shape in bfloat16, made on the device."""
    torch.manual_seed(0)
    config = WhisperConfig(**size.config())
    config._attn_implementation = "sdpa"
    with torch.device(device):
        return WhisperForConditionalGeneration(config).to(torch.bfloat16).eval()


def encoders(ours: Int8Runtime, theirs: PyTorchRuntime) -> dict[str, Encode]:
    return {"int8": ours.encoded, "bf16": lambda x: theirs.model.model.encoder(x.to(torch.bfloat16))}


@torch.inference_mode()
def alternate(contenders: dict[str, Encode], features: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of one run of each in every round; two runs of each come before."""
    device = features.device.type
    for encode in contenders.values():
        for _ in range(2):
            timed(lambda encode=encode: encode(features), device)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for name in turns(list(contenders), rounds):
        found[name].append(timed(lambda name=name: contenders[name](features), device))
    return found


@torch.inference_mode()
def decoder_steps(
    runtimes: dict[str, Int8Runtime | PyTorchRuntime], features: Tensor, rounds: int, tokens: int
) -> dict[str, list[float]]:
    """Seconds of a step after the prompt's, the mean of tokens - 1 of them, in every round; one round comes before."""
    found: dict[str, list[float]] = {name: [] for name in runtimes}
    for name in turns(list(runtimes), rounds + 1):
        found[name].append(run_steps(runtimes[name], features, tokens).token)
    return {name: seconds[1:] for name, seconds in found.items()}


def turns(names: list[str], rounds: int) -> Iterator[str]:
    for number in range(rounds):
        start = number % len(names)
        yield from names[start:] + names[:start]


def add_compiled(task: Task, ours: Int8Runtime, theirs: PyTorchRuntime, batch: int, rounds: int) -> str | None:
    """Time all encoders anew, the compiled one among them; why not, where that takes too long or fails."""
    entry, features = task.results["batches"][str(batch)], random_features(batch).to(task.device)
    compiled = torch.compile(theirs.model.model.encoder, dynamic=False)

    def encode(x: Tensor) -> Any:
        return compiled(x.to(torch.bfloat16))

    limit, began = max(1.0, min(COMPILE_LIMIT, task.left() - KEPT_BACK)), time.monotonic()
    try:
        with at_most(limit), torch.inference_mode():
            timed(lambda: encode(features), task.device)
        entry["compile_s"] = time.monotonic() - began
        entry["encoder_s"] = alternate({**encoders(ours, theirs), "compiled": encode}, features, rounds)
    except Exception as error:  # of Triton's and of the compiler's, of whatever kind: what was measured counts without
        late = time.monotonic() - began >= limit  # the compiler may have made another error of it
        entry["not_compiled"] = f"not done after {limit:.0f} s" if late else in_a_line(error)
    task.save()
    return f"batch {batch}, {entry['not_compiled']}" if "not_compiled" in entry else None


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside when the time is over."""

    def over(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
