"""A student taught by its frozen teacher: cross-entropy on the references plus 0.8 KL."""

import itertools
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperProcessor

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.batches import Loader, epoch_order, require_texts
from whisperq.data.groups import UtteranceGroup, read_all
from whisperq.data.prefetch import prefetch
from whisperq.data.sampling import Sampler, training_batches
from whisperq.data.tokens import make_codec
from whisperq.errors import InputError, TrainingError, UsageError
from whisperq.models.gated_whisper import GatedWhisperForConditionalGeneration
from whisperq.models.loading import compute_device, load_model, load_processor, local_folder, save_model
from whisperq.options import Context, DistillConfig
from whisperq.report.progress import bar, say
from whisperq.runtime.decoding import make_rules
from whisperq.runtime.pytorch import PyTorchRuntime
from whisperq.runtime.transcription import transcribe
from whisperq.scoring.normalizers import normalizer_of
from whisperq.scoring.words import count_errors
from whisperq.training.loop import Distiller, StepMetrics, autocast_dtype


@dataclass(frozen=True)
class TrainingData:
    train: Sequence[Source]
    validation: Sequence[Source]
    normalizer: str  # of the validation WER


@dataclass
class Best:
    """The step with the lowest validation WER so far."""

    step: int = 0
    wer: float = float("inf")


def distill(
    student: Path, teacher: str | Path, data: TrainingData, out: Path, config: DistillConfig, context: Context
) -> artifact.Artifact:
    """Train the student for `config.max_steps` and keep the step of the lowest validation WER.

    Raises InputError for data or models that do not fit, TrainingError for a loss that is not finite.
    """
    if config.batch_size % (config.micro_batch or config.batch_size):
        raise UsageError(f"--micro-batch {config.micro_batch} does not divide --batch-size {config.batch_size}")
    teacher_folder = local_folder(teacher)
    train, validation = read_all(data.train, config.skip_bad), read_all(data.validation, config.skip_bad)
    require_texts(train.utterances, "distillation")
    require_texts(validation.utterances, "validation")
    settings = context.settings(config, normalizer=data.normalizer)
    inputs = {
        "student": artifact.reference(student),
        "teacher": artifact.reference(teacher_folder),
        "train": train.reference,
        "validation": validation.reference,
    }
    warn_of_another_teacher(student, inputs["teacher"]["sha256"])
    with artifact.create(out, "distilled", "distill", settings, inputs, context.force) as draft:
        run = Run(student, teacher_folder, (train, validation, data.normalizer), out, config, context)
        try:
            run.train()
        except TrainingError as error:
            raise TrainingError(f"{error}; metrics and the best weights so far are in {run.work}") from error
        run.finish(draft)
    shutil.rmtree(run.work)
    return artifact.load(out)


def warn_of_another_teacher(student: Path, sha256: str) -> None:
    entry = artifact.load(student, verify=False).inputs.get("teacher") if artifact.is_artifact(student) else None
    if entry and entry["sha256"] != sha256:
        say(f"warning: the student was made from another teacher, {entry['path']}, or that has changed since")


class Run:
    """One distillation: models, data order, metrics and the best weights so far."""

    def __init__(
        self,
        student: Path,
        teacher: Path,
        data: tuple[UtteranceGroup, UtteranceGroup, str],
        out: Path,
        config: DistillConfig,
        context: Context,
    ) -> None:
        self.config, (self.train_data, self.validation_data, normalizer) = config, data
        device = compute_device(context.device)
        self.autocast = autocast_dtype(context.dtype, device)
        self.student = load_model(student, torch.float32, device)
        teacher_model = load_model(teacher, torch.float32, device)
        check_pair(self.student, teacher_model)
        if device == "cpu":
            # Fused attention's backward in bfloat16 took nine times as long: 1.44 s a step against 0.16 s explicit
            # (digits students, batch 16, two cores of a Xeon with AVX512-BF16); in float32 they are alike.
            self.student.set_attn_implementation("eager")
            teacher_model.set_attn_implementation("eager")
        self.processor: WhisperProcessor = load_processor(student)
        codec = make_codec(self.processor, self.student, context.language, context.task)
        self.rules = make_rules(codec, self.student.generation_config)
        self.loader = Loader(self.processor.feature_extractor, codec, device, config.skip_bad)
        self.normalizer = normalizer_of(normalizer, self.processor.tokenizer)
        self.distiller = Distiller(self.student, teacher_model, config, self.autocast, context.seed)
        lists = self.train_data.lists
        weights = [one.source.weight for one in lists]
        self.sampler = Sampler([one.utterances for one in lists], weights, context.seed)
        name = "checkpoints" if out.name == "distilled" else f"{out.name}-checkpoints"
        self.work = out.parent / name
        self.best, self.last_metrics, self.training_seconds = Best(), None, 0.0
        drawn = epoch_order(len(self.validation_data.utterances), context.seed, epoch=0)[: config.eval_limit]
        self.validation_utterances = [self.validation_data.utterances[i] for i in sorted(drawn)]

    def train(self) -> None:
        """All steps; metrics.jsonl grows in the checkpoints folder, best.safetensors beside it."""
        config = self.config
        self._check_validation()
        set_aside(self.work)
        self.work.mkdir(parents=True)
        micro = config.micro_batch or config.batch_size
        steps = training_batches(self.sampler, self.loader, range(config.max_steps), config.batch_size, micro)
        with open(self.work / "metrics.jsonl", "w") as log, bar() as progress:
            task = progress.add_task("distill", total=config.max_steps, unit="steps")
            for number, batches in enumerate(prefetch(steps)):
                began = time.perf_counter()
                self.last_metrics = metrics = self.distiller.step(number, batches)
                self.training_seconds += time.perf_counter() - began
                progress.update(task, advance=1, description=f"distill: loss {metrics.loss:.3f}")
                if metrics.step == 1 or metrics.step % config.log_every == 0:
                    self._log(log, self._speed(metrics))
                if metrics.step % config.eval_every == 0 or metrics.step == config.max_steps:
                    self._validate(metrics.step, log)

    def _speed(self, metrics: StepMetrics) -> dict[str, float]:
        done = metrics.step * self.config.batch_size
        rate = done / self.training_seconds  # validation and waiting for data apart
        return {**metrics.as_dict(), "epoch": done / self.sampler.epoch_size, "samples_per_second": rate}

    def _check_validation(self) -> None:
        """Before the first step rather than at the first validation: every recording decodes, there are words."""
        for utterance in self.validation_utterances:
            self.loader.audio(utterance)
        if not any(self.normalizer(u.text) for u in self.validation_utterances):
            raise InputError("the validation data has no reference words, so that no step can be called the best")

    def _log(self, log: TextIO, entry: dict[str, Any]) -> None:
        log.write(json.dumps(entry) + "\n")
        log.flush()

    def _validate(self, step: int, log: TextIO) -> None:
        """Greedy WER in float32; the best step's weights are kept on disk."""
        self.student.eval()
        runtime = PyTorchRuntime(self.student)
        found = list(transcribe(runtime, self.loader, self.rules, self.validation_utterances, 32))
        errors = count_errors([h.utterance.text for h in found], [h.text for h in found], self.normalizer)
        self._log(log, {"step": step, "validation_wer": errors.wer, "reference_words": errors.reference_words})
        say(f"step {step}: validation WER {100 * errors.wer:.2f} % of {errors.reference_words} words")
        if errors.wer < self.best.wer:
            self.best = Best(step, errors.wer)
            temporary = self.work / ".best.safetensors"
            tensors = {k: v.contiguous() for k, v in self.student.state_dict().items() if k != "proj_out.weight"}
            save_file(tensors, temporary)
            temporary.rename(self.work / "best.safetensors")

    def finish(self, draft: artifact.Draft) -> None:
        """The best weights as a model folder, with the metrics and what was reached."""
        self.student.load_state_dict(load_file(self.work / "best.safetensors"), strict=False)
        save_model(self.student, self.processor, draft.folder)
        shutil.copy(self.work / "metrics.jsonl", draft.folder / "metrics.jsonl")
        draft.results |= {
            "best_step": self.best.step,
            "validation_wer": self.best.wer,
            "normalizer": self.normalizer.id,
            "steps": self.config.max_steps,
            "final": self.last_metrics.as_dict(),
            "samples_per_second": self._speed(self.last_metrics)["samples_per_second"],
            "training_seconds": self.training_seconds,
            "device": self.loader.device,
            "autocast": str(self.autocast).removeprefix("torch."),
            "skipped": len(self.loader.skipped) + self.train_data.bad + self.validation_data.bad,
        }


def set_aside(work: Path) -> None:
    """What an interrupted run left, weights of hours perhaps, keeps a number instead of being overwritten."""
    if work.exists():
        number = next(n for n in itertools.count(1) if not work.with_name(f"{work.name}.{n}").exists())
        work.rename(work.with_name(f"{work.name}.{number}"))
        say(f"an interrupted run's metrics and best weights are now in {work}.{number}")


def check_pair(student: GatedWhisperForConditionalGeneration, teacher: GatedWhisperForConditionalGeneration) -> None:
    """Raises InputError where teacher and student do not speak the same tokens or hear the same window."""
    for key in ("vocab_size", "num_mel_bins", "max_source_positions"):
        ours, theirs = getattr(student.config, key), getattr(teacher.config, key)
        if ours != theirs:
            raise InputError(f"student and teacher differ in {key}: {ours} and {theirs}")
