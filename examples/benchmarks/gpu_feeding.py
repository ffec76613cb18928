"""`whisperq distill` of a small model with random weights, on recordings made on the spot: what it waits for.

Noise and a tone of 12 s each in Opus, which takes longest to decode. Figures are those of the training's own log,
metrics.jsonl, `feeding`'s without the first epoch: `data_wait` is the share of the time that training waits for data.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from building import DIGITS, WINDOW_S, Size
from gpu_task import Failed, Task
from training_worker import write_recordings
from transformers import WhisperConfig, WhisperForConditionalGeneration

import whisperq as wq
from whisperq.jobs.signals import STARTED

RECORDING_S = 12
TEXT = "one two three four five six"
NEVER = 10**6  # steps


@dataclass(frozen=True)
class Shape:
    teacher: Size
    student: tuple[int, int]  # encoder and decoder layers
    recordings: int
    batch: int
    steps: int  # of each training that `feeding` compares
    workers: int


FULL = Shape(Size(6, 6, 512, 8), (3, 2), recordings=128, batch=64, steps=8, workers=8)  # whisper-base's
SMALLEST = Shape(Size(2, 2, 64, 2), (1, 1), recordings=4, batch=2, steps=3, workers=1)
KEPT_BACK, MOST = 8, 60  # seconds of `distillation` to save and end in; and the longest that it trains


@dataclass(frozen=True)
class Material:
    teacher: Path
    student: Path
    utterances: Path


def feeding(task: Task) -> None:
    """Training with and without --audio-cache; with it, the first epoch decodes as well."""
    shape, place = shape_of(task), task.folder / "runs" / "feeding"
    material = material_of(task, shape)
    shutil.rmtree(place, ignore_errors=True)
    options = {"max_steps": shape.steps, "log_every": 1}
    task.results |= {**described(shape), "steps": shape.steps, "runs": {}}
    for name, more in {"no cache": {}, "audio cache": {"audio_cache": str(place / "cache")}}.items():
        metrics = trained(task, material, shape, place / name.replace(" ", "-"), **options, **more)
        epoch = shape.recordings // shape.batch
        task.results["runs"][name] = figures(metrics[epoch:], shape)
        task.save()


def distillation(task: Task) -> None:
    """A minute of training, or what time there is; raises Failed where it took no step."""
    shape, place = shape_of(task), task.folder / "runs" / "distillation"
    material = material_of(task, shape)
    shutil.rmtree(place, ignore_errors=True)
    if task.smallest:
        options: dict[str, Any] = {"max_steps": shape.steps, "log_every": 1}
    else:
        ends = time.monotonic() - STARTED + min(MOST, max(5, task.left() - KEPT_BACK))
        options = {"max_steps": NEVER, "log_every": 5, "max_time": f"00:{int(ends) // 60:02}:{int(ends) % 60:02}"}
    metrics = trained(task, material, shape, place, **options)
    if not metrics[1:]:
        raise Failed("too few steps to tell: give it more time with LIMITS")
    task.results |= {**described(shape), "steps": metrics[-1]["step"], **figures(metrics[1:], shape)}


def shape_of(task: Task) -> Shape:
    return SMALLEST if task.smallest else FULL


def described(shape: Shape) -> dict[str, Any]:
    teacher = [shape.teacher.encoder_layers, shape.teacher.decoder_layers]
    return {
        "teacher": teacher, "student": list(shape.student), "width": shape.teacher.width, "batch": shape.batch,
        "workers": shape.workers, "recording_s": RECORDING_S, "recordings": shape.recordings,
    }  # fmt: skip


def figures(metrics: list[dict[str, Any]], shape: Shape) -> dict[str, Any]:
    """Of the lines of a log: each line's figures, and the most memory."""
    return {
        "steps_per_second": [line["samples_per_second"] / shape.batch for line in metrics],
        "data_wait": [line["data_wait"] for line in metrics],
        "memory_gib": max(line["memory_gib"] for line in metrics),
    }


def trained(task: Task, material: Material, shape: Shape, run: Path, **options: Any) -> list[dict[str, Any]]:
    """The lines of the training's log that hold its speed."""
    if task.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # of an earlier training in this process
    try:
        wq.distill(
            material.student, material.teacher, material.utterances, material.utterances, run=run, device=task.device,
            batch_size=shape.batch, workers=shape.workers, eval_every=NEVER, eval_limit=1, save_every=NEVER,
            normalizer="basic", **options,
        )  # fmt: skip
    except wq.Interrupted:  # its time is over
        pass
    lines = (run / "checkpoints" / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "data_wait" in line]


def material_of(task: Task, shape: Shape) -> Material:
    """Teacher, student and recordings; made once, they appear whole or not at all."""
    folder = task.folder / "training" / ("smallest" if task.smallest else "full")
    if not folder.exists():
        draft = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(draft, ignore_errors=True)
        make_teacher(draft / "teacher", shape.teacher)
        layers = dict(zip(("layers", "decoder_layers"), shape.student, strict=True))
        wq.init_student(draft / "teacher", **layers, out=draft / "student", device="cpu")
        files = write_recordings(draft, "Opus", shape.recordings, RECORDING_S)
        lines = [{"audio_filepath": file.name, "text": TEXT, "duration": RECORDING_S} for file in files]
        (draft / "utterances.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        draft.rename(folder)
    return Material(folder / "teacher", folder / "student", folder / "utterances.jsonl")


def make_teacher(folder: Path, size: Size) -> None:
    """Random weights that end every text at once, so that what is decoded to validate costs little."""
    sys.path.append(str(DIGITS))
    from make_tokenizer import MAX_TOKENS, make_generation_config, make_processor, save_processor

    processor = make_processor(WINDOW_S)
    generation = make_generation_config(processor.tokenizer)
    special = ("decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
    config = WhisperConfig(
        **size.config(), max_target_positions=MAX_TOKENS, **{name: getattr(generation, name) for name in special}
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = generation
    decoder = model.model.decoder
    decoder.embed_tokens.weight.data[generation.eos_token_id] = decoder.layer_norm.bias.data[:] = 0.5
    model.save_pretrained(folder)
    save_processor(processor, folder)
