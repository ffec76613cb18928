"""Trains the digits teacher from scratch, in half an hour on two CPU cores.

    python train_teacher.py --speech DIR --out teacher --minutes 27

    loss = CE(tokens) + w * CE(frames)

`frames`: which half of which digit, or silence, each encoder output hears. A
linear head reads it and is thrown away; without it, and with the stock
initialisation, the encoder is still deaf after a thousand steps.
"""

import argparse
import copy
import json
import os
import time
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch
from batches import Batch, prefetched
from greedy_wer import word_error_rate
from make_tokenizer import make_processor, save_processor
from mixing import FRAME_CLASSES, Sources, load_sources
from recipe import Settings, build_model, schedule
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import WhisperForConditionalGeneration, WhisperProcessor

HERE = Path(__file__).parent
BETAS = (0.9, 0.98)
KEEP = 0.98  # share of the old in the log's running means


def losses(
    model: WhisperForConditionalGeneration, head: nn.Linear, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Token loss, frame loss, and the share of frames heard rightly."""
    out = model(input_features=batch.features, decoder_input_ids=batch.inputs, use_cache=False)
    heard = head(out.encoder_last_hidden_state).float().flatten(0, 1)
    frames = batch.frames.flatten()
    right = (heard.argmax(-1) == frames).float().mean().item()
    token_loss = cross_entropy(out.logits.float().flatten(0, 1), batch.targets.flatten())
    return token_loss, cross_entropy(heard, frames), right


def save(model: WhisperForConditionalGeneration, processor: WhisperProcessor, out: Path, record: dict) -> None:
    """A folder that from_pretrained reads; float16 halves it at no loss that WER could show."""
    copy.deepcopy(model).half().save_pretrained(out)
    save_processor(processor, out)
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def evaluate(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, lists: dict[str, Path]
) -> dict[str, dict[str, float]]:
    """Word error rate of every list that is there."""
    return {name: word_error_rate(model, processor, path) for name, path in lists.items() if path.exists()}


def update(
    model: WhisperForConditionalGeneration,
    head: nn.Linear,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    progress: float,
) -> np.ndarray:
    """One step of the optimizer; token loss, frame loss and share of frames heard rightly."""
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        token_loss, frame_loss, right = losses(model, head, batch)
    loss = token_loss + settings.frame_weight * (1 - 0.8 * progress) * frame_loss
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], settings.clip)
    optimizer.step()
    return np.array([token_loss.item(), frame_loss.item(), right])


def make_optimizer(
    model: WhisperForConditionalGeneration, head: nn.Linear, settings: Settings
) -> torch.optim.Optimizer:
    """AdamW over everything but the encoder's positions, which are fixed sinusoids."""
    parameters = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=settings.lr, betas=BETAS, weight_decay=settings.weight_decay)


def report(step: int, watched: np.ndarray, seconds: float, batch: int) -> None:
    """One line of the log; `watched` is a running mean that starts at zero."""
    token, frame, right = watched / (1 - KEEP**step)
    print(f"{step:6d} {seconds / 60:5.1f} min  tokens {token:.3f}  frames {frame:.3f}  "
          f"right {right:.3f}  {step * batch / seconds:.1f} samples/s", flush=True)  # fmt: skip


def train(
    model: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    sources: Sources,
    settings: Settings,
    lists: dict[str, Path],
    out: Path,
) -> dict:
    """Run to the end of `steps` or `minutes`; returns the record that is saved beside the model."""
    model.set_attn_implementation("eager")  # on a CPU, at this size, a third faster than SDPA
    head = nn.Linear(model.config.d_model, FRAME_CLASSES)
    optimizer = make_optimizer(model, head, settings)
    record = {"settings": asdict(settings), "steps": 0, "minutes": 0.0, "history": []}
    began, watched = time.monotonic(), np.zeros(3)
    for step, batch in enumerate(prefetched(sources, processor, settings), start=1):
        seconds = time.monotonic() - began
        progress = max((step - 1) / settings.steps, seconds / 60 / settings.minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule(step, progress, settings)
        figures = update(model, head, batch, optimizer, settings, progress)
        watched = KEEP * watched + (1 - KEEP) * figures
        record |= {"steps": step, "minutes": round(seconds / 60, 2)}
        if step % 50 == 0:
            report(step, watched, time.monotonic() - began, settings.batch)
        if step % settings.eval_every == 0:
            found = evaluate(model, processor, lists)
            record["history"].append({"step": step, **{k: v["wer"] for k, v in found.items()}})
            print(record["history"][-1], flush=True)
            save(model, processor, out, record)
    return record


def parse() -> tuple[argparse.Namespace, Settings]:
    """The command line: folders, and every field of `Settings`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speech", type=Path, default=os.environ.get("WHISPERQ_SPEECH"))
    parser.add_argument("--sample", type=Path, default=HERE / "sample")
    parser.add_argument("--real", type=Path, default=HERE / "real")
    parser.add_argument("--out", type=Path, default=HERE / "teacher")
    parser.add_argument("--init", type=Path, help="go on from this folder's weights")
    parser.add_argument("--threads", type=int, default=2)
    for field in fields(Settings):
        kind = argparse.BooleanOptionalAction if field.type is bool else None
        option = {"action": kind} if kind else {"type": field.type}
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=field.default, **option)
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


def main() -> None:
    args, settings = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(settings.seed)
    processor = make_processor()
    if args.init:
        model = WhisperForConditionalGeneration.from_pretrained(args.init, dtype=torch.float32)
    else:
        model = build_model(processor)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters", flush=True)
    watched, final = list_paths(args)
    sources = load_sources(args.speech, args.sample, np.random.default_rng(settings.seed))
    record = train(model, processor, sources, settings, watched, args.out)
    save(model, processor, args.out, record)
    model = WhisperForConditionalGeneration.from_pretrained(args.out, dtype=torch.float32)
    record["results"] = evaluate(model, processor, final)  # of the saved, rounded weights
    save(model, processor, args.out, record)
    print(json.dumps(record["results"], indent=2))


if __name__ == "__main__":
    main()
