"""A student taught by its frozen teacher: cross-entropy on the references plus 0.8 KL."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import WhisperProcessor

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.batches import Loader, epoch_order, require_texts
from whisperq.data.feed import Feed
from whisperq.data.groups import UtteranceGroup, read_all
from whisperq.data.tokens import make_codec
from whisperq.errors import InputError, TrainingError, UsageError
from whisperq.flags import Context
from whisperq.models.gated_whisper import GatedWhisperForConditionalGeneration
from whisperq.models.loading import compute_device, load_processor, load_whisper, local_folder, save_model
from whisperq.report.progress import bar, say
from whisperq.runtime.decoding import make_rules
from whisperq.scoring.normalizers import Normalizer, normalizer_of
from whisperq.training.checkpoints import Checkpoint, Checkpoints, Identity, Progress
from whisperq.training.distributed import Processes, joined
from whisperq.training.logs import METRICS
from whisperq.training.loop import Distiller, autocast_dtype, prepare_determinism
from whisperq.training.pair import attention_kernel
from whisperq.training.resuming import starting_point
from whisperq.training.run import Surroundings, Training, load_weights
from whisperq.training.signals import seconds_of, stop_requested
from whisperq.training.validation import Validation
from whisperq.training_options import DistillConfig


@dataclass(frozen=True)
class TrainingData:
    train: Sequence[Source]
    validation: Sequence[Source]
    normalizer: str  # of the validation WER


def distill(
    student: Path, teacher: str | Path, data: TrainingData, out: Path, config: DistillConfig, context: Context
) -> artifact.Artifact:
    """Train the student up to `config.max_steps` and keep the step of the lowest validation WER.

    Goes on from the newest checkpoint beside `out`. Raises InputError for data or models that do not fit,
    TrainingError for a loss that is not finite or a disk that is full, Interrupted where it was told to stop.
    """
    if config.deterministic:
        prepare_determinism()
    with joined(compute_device(context.device)) as processes, stop_requested(seconds_of(config.max_time)) as stopping:
        check_batches(config, processes.world)
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
        force = context.force or grows(out, settings, inputs)
        artifact.refuse_overwrite(out, "distill", settings, inputs, force)
        checkpoints = Checkpoints(work_folder(out), identity_of(settings, inputs), config.keep)
        start = starting_point(checkpoints, config.resume, context.force, processes, say)
        if start is None and force and not context.force:
            raise UsageError(f"{out} is finished, and its checkpoints are gone: give --force to train anew, or --out")
        pupil = Pupil(student, teacher_folder, (train, validation, data.normalizer), config, context, processes)
        reached = train_on(pupil, start, checkpoints, processes, stopping)
        if processes.main:
            with artifact.create(out, "distilled", "distill", settings, inputs, force) as draft:
                pupil.finish(draft, reached, checkpoints)
        return processes.result(out)


def train_on(
    pupil: "Pupil",
    start: Checkpoint | None,
    checkpoints: Checkpoints,
    processes: Processes,
    stopping: Callable[[], bool],
) -> Progress:
    """All steps that are left. Raises TrainingError and Interrupted, each saying what was saved."""
    config = pupil.distiller.config
    with bar() as progress:
        done = start.progress.step if start else 0
        task = progress.add_task("distill", total=config.max_steps, completed=done, unit="steps")

        def advance(word: str) -> None:
            progress.update(task, advance=1, description=f"distill: {word}")

        around = Surroundings(processes, stopping, say, advance)
        training = Training(pupil.distiller, pupil.feed, pupil.validation, checkpoints, config, around)
        if start:
            training.go_on_from(start)
        try:
            return training.run()
        except TrainingError as error:
            raise TrainingError(f"{error}; metrics and the best weights so far are in {checkpoints.folder}") from error


def check_batches(config: DistillConfig, world: int) -> None:
    """Raises UsageError for an effective batch that these processes cannot make."""
    share, rest = divmod(config.batch_size, world)
    if rest:
        raise UsageError(f"--batch-size {config.batch_size} cannot be shared by {world} processes")
    if share % (config.micro_batch or share):
        whose = f", {share} for each of {world} processes" if world > 1 else ""
        raise UsageError(f"--micro-batch {config.micro_batch} does not divide --batch-size {config.batch_size}{whose}")


def grows(out: Path, settings: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether `out` is this very training with fewer steps, which goes on from its last checkpoint."""
    if not artifact.is_artifact(out):
        return False
    old = artifact.load(out, verify=False)
    differences = identity_of(old.config, old.inputs).differences(identity_of(settings, inputs))
    return differences == ([], []) and settings["max_steps"] > old.config["max_steps"]


def identity_of(settings: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> Identity:
    return Identity(settings, {role: entry["sha256"] for role, entry in inputs.items()})


def work_folder(out: Path) -> Path:
    return out.parent / ("checkpoints" if out.name == "distilled" else f"{out.name}-checkpoints")


def warn_of_another_teacher(student: Path, sha256: str) -> None:
    entry = artifact.load(student, verify=False).inputs.get("teacher") if artifact.is_artifact(student) else None
    if entry and entry["sha256"] != sha256:
        say(f"warning: the student was made from another teacher, {entry['path']}, or that has changed since")


class Pupil:
    """What is trained, with what, and how it is judged."""

    def __init__(
        self,
        student: Path,
        teacher: Path,
        data: tuple[UtteranceGroup, UtteranceGroup, str],
        config: DistillConfig,
        context: Context,
        processes: Processes,
    ) -> None:
        train, validation, normalizer = data
        device = compute_device(context.device)
        self.autocast = autocast_dtype(context.dtype, device)
        self.student, taught_by = load_pair(student, teacher, device)
        self.processor: WhisperProcessor = load_processor(student)
        codec = make_codec(self.processor, self.student, context.language, context.task)
        self.loader = Loader(self.processor.feature_extractor, codec, device, config.skip_bad)
        self.normalizer = normalizer_of(normalizer, self.processor.tokenizer)
        drawn = epoch_order(len(validation.utterances), context.seed, epoch=0)[: config.eval_limit]
        utterances = [validation.utterances[i] for i in sorted(drawn)]
        check_validation(self.loader, self.normalizer, utterances)
        rules = make_rules(codec, self.student.generation_config)
        self.validation = Validation(self.loader, rules, self.normalizer, utterances, processes)
        self.feed = Feed(train, self.loader, config, context.seed)
        for reason, count in self.feed.dropped.items():
            say(f"left out of the training data, {reason}: {count:,} utterances")
        self.distiller = Distiller(self.student, taught_by, config, self.autocast, context.seed, processes)
        self.bad_lines = train.bad + validation.bad

    def finish(self, draft: artifact.Draft, reached: Progress, checkpoints: Checkpoints) -> None:
        """The best weights as a model folder, with the metrics and what was reached."""
        load_weights(self.student, load_file(checkpoints.best_path(reached.best_step)))
        if self.distiller.config.timestamp_prob:
            self.student.generation_config.trained_with_times = True  # `transcribe` asks for them then
        save_model(self.student, self.processor, draft.folder)
        shutil.copy(checkpoints.folder / METRICS, draft.folder / METRICS)
        draft.results |= {
            "best_step": reached.best_step,
            "validation_wer": reached.best_wer,
            "normalizer": self.normalizer.id,
            "steps": reached.step,
            "final": reached.last,
            "samples_per_second": reached.step * self.distiller.config.batch_size / reached.seconds,
            "training_seconds": reached.seconds,
            "device": self.loader.device,
            "autocast": str(self.autocast).removeprefix("torch."),
            "skipped": len(self.loader.skipped) + self.bad_lines,
            "dropped": self.feed.dropped,
        }


def check_validation(loader: Loader, normalizer: Normalizer, utterances: Sequence) -> None:
    """Before the first step rather than at the first validation: every recording decodes, there are words."""
    for utterance in utterances:
        loader.audio(utterance)
    if not any(normalizer(u.text) for u in utterances):
        raise InputError("the validation data has no reference words, so that no step can be called the best")


def load_pair(
    student: Path, teacher: Path, device: str
) -> tuple[GatedWhisperForConditionalGeneration, GatedWhisperForConditionalGeneration]:
    """Raises InputError where teacher and student do not speak the same tokens or hear the same window."""
    models = load_whisper(student, torch.float32, device), load_whisper(teacher, torch.float32, device)
    for key in ("vocab_size", "num_mel_bins", "max_source_positions"):
        ours, theirs = (getattr(model.config, key) for model in models)
        if ours != theirs:
            raise InputError(f"student and teacher differ in {key}: {ours} and {theirs}")
    for model in models:
        model.set_attn_implementation(attention_kernel(device, model.config.max_source_positions))
    return models
