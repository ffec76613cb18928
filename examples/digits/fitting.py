"""The training loop that the digits teachers share: a task's loss plus a framewise one.

    loss = task loss + w(t) * CE(frames),  w falling linearly to a fifth

`frames`: which half of which digit, or silence, each encoder output covers. A
linear head reads it and is thrown away. Runs end by steps or by the clock.
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mixing import FRAME_CLASSES
from recipe import Settings, schedule
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

HERE = Path(__file__).parent
BETAS = (0.9, 0.98)
KEEP = 0.98  # share of the old in the log's running means
Results = dict[str, dict[str, float]]  # list -> wer, errors, reference_words


@dataclass(frozen=True)
class Task:
    """What one teacher does differently from another."""

    losses: Callable[[PreTrainedModel, nn.Linear, Any], tuple[torch.Tensor, torch.Tensor, float]]
    word_error_rate: Callable[[PreTrainedModel, Path], dict[str, float]]
    save_processor: Callable[[Path], None]


def frame_loss(head: nn.Linear, hidden: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Cross-entropy of hidden states (batch, frames, width), and the share of frames classified correctly."""
    logits = head(hidden).float().flatten(0, 1)
    right = (logits.argmax(-1) == frames.flatten()).float().mean().item()
    return cross_entropy(logits, frames.flatten()), right


def save(model: PreTrainedModel, task: Task, out: Path, record: dict) -> None:
    """A folder that from_pretrained reads; float16 halves it at no loss that WER could show."""
    copy.deepcopy(model).half().save_pretrained(out)
    task.save_processor(out)
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def evaluate(model: PreTrainedModel, task: Task, lists: dict[str, Path]) -> Results:
    """Word error rate of every list that is there."""
    return {name: task.word_error_rate(model, path) for name, path in lists.items() if path.exists()}


def update(
    model: PreTrainedModel,
    head: nn.Linear,
    batch: Any,
    optimizer: torch.optim.Optimizer,
    task: Task,
    settings: Settings,
    progress: float,
) -> np.ndarray:
    """One step of the optimizer; task loss, frame loss and share of frames classified correctly."""
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        task_loss, framewise, right = task.losses(model, head, batch)
    loss = task_loss + settings.frame_weight * (1 - 0.8 * progress) * framewise
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], settings.clip)
    optimizer.step()
    return np.array([task_loss.item(), framewise.item(), right])


def make_optimizer(model: PreTrainedModel, head: nn.Linear, settings: Settings) -> torch.optim.Optimizer:
    """AdamW over everything that learns: not Whisper's encoder positions, which are fixed sinusoids."""
    parameters = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=settings.lr, betas=BETAS, weight_decay=settings.weight_decay)


def report(step: int, watched: np.ndarray, seconds: float, batch: int) -> None:
    """One line of the log; `watched` is a running mean that starts at zero."""
    tokens, frames, right = watched / (1 - KEEP**step)
    print(f"{step:6d} {seconds / 60:5.1f} min  tokens {tokens:.3f}  frames {frames:.3f}  "
          f"right {right:.3f}  {step * batch / seconds:.1f} samples/s", flush=True)  # fmt: skip


def train(
    model: PreTrainedModel,
    task: Task,
    batches: Iterable[Any],
    settings: Settings,
    lists: dict[str, Path],
    out: Path,
) -> dict:
    """Run to the end of `steps` or `minutes`; returns the record that is saved beside the model."""
    model.set_attn_implementation("eager")  # on a CPU, at this size, a third faster than SDPA
    model.train()
    head = nn.Linear(model.config.hidden_size, FRAME_CLASSES)
    optimizer = make_optimizer(model, head, settings)
    record = {"parameters": model.num_parameters(), "settings": asdict(settings), "steps": 0, "minutes": 0.0}
    record["history"] = []
    began, watched = time.monotonic(), np.zeros(3)
    for step, batch in enumerate(batches, start=1):
        seconds = time.monotonic() - began
        progress = max((step - 1) / settings.steps, seconds / 60 / settings.minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule(step, progress, settings)
        figures = update(model, head, batch, optimizer, task, settings, progress)
        watched = KEEP * watched + (1 - KEEP) * figures
        record |= {"steps": step, "minutes": round(seconds / 60, 2)}
        if step % 50 == 0:
            report(step, watched, time.monotonic() - began, settings.batch)
        if step % settings.eval_every == 0:
            found = evaluate(model, task, lists)
            record["history"].append({"step": step, **{k: v["wer"] for k, v in found.items()}})
            print(record["history"][-1], flush=True)
            save(model, task, out, record)
    return record


def finish(model: PreTrainedModel, task: Task, lists: dict[str, Path], out: Path, record: dict) -> None:
    """Save, read back, and measure what was saved: the rounded weights."""
    save(model, task, out, record)
    model = type(model).from_pretrained(out, dtype=torch.float32)
    record["results"] = evaluate(model, task, lists)
    save(model, task, out, record)
    print(json.dumps(record["results"], indent=2))


def parse(about: str, defaults: Settings, out: str) -> tuple[argparse.Namespace, Settings]:
    """The command line: folders, and every field of `Settings`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--speech", type=Path, default=os.environ.get("WHISPERQ_SPEECH"))
    parser.add_argument("--sample", type=Path, default=HERE / "sample")
    parser.add_argument("--real", type=Path, default=HERE / "real")
    parser.add_argument("--out", type=Path, default=HERE / out)
    parser.add_argument("--init", type=Path, help="go on from this folder's weights")
    parser.add_argument("--threads", type=int, default=2)
    for field in fields(Settings):
        kind = argparse.BooleanOptionalAction if field.type is bool else None
        option = {"action": kind} if kind else {"type": field.type}
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=getattr(defaults, field.name), **option)
    args = parser.parse_args()
    if args.speech is None:
        parser.error("name the folder of digits.jsonl: --speech DIR, or WHISPERQ_SPEECH")
    return args, Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})


def list_paths(args: argparse.Namespace) -> tuple[dict[str, Path], dict[str, Path]]:
    """Lists to watch while training, and lists to measure once at its end."""
    watched = {
        "validation": args.real / "validation.jsonl",
        "validation_synthetic": args.sample / "validation.jsonl",
    }
    final = {
        "test_takes": args.real / "test_takes.jsonl",
        "test_speaker": args.real / "test_speaker.jsonl",
        "test_synthetic": args.sample / "test.jsonl",
    }
    return watched, watched | final
