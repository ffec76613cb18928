"""A student taught by its frozen teacher: cross-entropy on the references plus 0.8 KL."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors.torch import load_file

from whisperq import artifact
from whisperq.bounded_folder import GIB
from whisperq.data.sources import UtteranceGroup
from whisperq.errors import InputError
from whisperq.jobs.determinism import prepare_determinism
from whisperq.jobs.distributed import Processes, joined
from whisperq.jobs.progress import say, say_left_out, stepping
from whisperq.jobs.signals import stop_requested
from whisperq.kinds.models import Distilled
from whisperq.models.gated_whisper import GatedWhisperForConditionalGeneration
from whisperq.models.loading import compute_device, load_whisper, load_whisper_processor, local_folder, save_model
from whisperq.preconditions import check_training, seconds_of
from whisperq.ptq.descriptions import descriptions
from whisperq.settings import Context
from whisperq.training.checkpoints import Checkpoints, Progress
from whisperq.training.inputs import prepare
from whisperq.training.job import Job, TrainingData
from whisperq.training.logs import METRICS
from whisperq.training.loop import Distiller, autocast_dtype
from whisperq.training.memory import keep_freed_memory
from whisperq.training.micro_batch import settle_micro_batch
from whisperq.training.run import Training, TrainingContext
from whisperq.training.student_teacher import attention_kernel
from whisperq.training.teacher_cache import TeacherCache
from whisperq.training_options import DistillConfig


def distill(
    student: Path, teacher: str | Path, data: TrainingData, out: Path, config: DistillConfig, context: Context
) -> artifact.Artifact:
    """Train the student up to `config.max_steps` and keep the step of the lowest validation WER.

    Goes on from the newest checkpoint beside `out`. Raises InputError for data or models that do not fit,
    TrainingError for a loss that is not finite or a disk that is full, Interrupted where it was told to stop.
    """
    if config.deterministic:
        prepare_determinism()
    with (
        joined(compute_device(context.device)) as processes,
        stop_requested(seconds_of(config.max_time)) as stopping,
        ExitStack() as held,
    ):
        check_training(config, processes.world)
        teacher_folder = local_folder(teacher)
        train, validation = data.read(config.skip_bad)
        inputs = {
            "student": artifact.reference(student),
            "teacher": artifact.reference(teacher_folder),
            "train": train.reference,
            "validation": validation.reference,
        }
        warn_of_another_teacher(student, inputs["teacher"]["sha256"])
        settings = context.settings(config, normalizer=data.normalizers)
        job = Job("distill", "distilled", out, settings, inputs)
        held.enter_context(job.alone(context.force, processes))
        beginning = job.begin(config, context.force, processes, say)
        sources = train, validation, data.normalizer
        pupil = Pupil(student, teacher_folder, sources, config, context, processes, inputs["teacher"]["sha256"])
        artifact.all_read(inputs)
        settle_micro_batch(pupil.distiller, pupil.material.feed, beginning.start, processes, say)
        with stepping("distill", config.max_steps, beginning.step) as advance:
            around = TrainingContext(processes, stopping, say, advance)
            checkpoints = beginning.checkpoints
            material = pupil.material
            training = Training(pupil.distiller, material.feed, material.validation, checkpoints, config, around)
            reached = beginning.train(training)
        if processes.main:
            with beginning.draft(all_read=True) as draft:
                pupil.finish(draft, reached, checkpoints)
            say_left_out(material.left_out())
            if pupil.cache and pupil.cache.full:
                say(f"{config.teacher_cache} found no room for all windows: the teacher ran again for the others")
        return processes.result(out)


def warn_of_another_teacher(student: Path, sha256: str) -> None:
    entry = artifact.load(student, verify=False).inputs.get("teacher") if artifact.is_artifact(student) else None
    if entry and entry["sha256"] != sha256:
        say(f"warning: the student was made from another teacher, {entry['path']}, or that has changed since")


class Pupil:
    """Student, teacher, training data and validation of one distillation."""

    def __init__(
        self,
        student: Path,
        teacher: Path,
        data: tuple[UtteranceGroup, UtteranceGroup, str],
        config: DistillConfig,
        context: Context,
        processes: Processes,
        taught_by: str,
    ) -> None:
        """data: training lists, validation lists, and normaliser; taught_by: the teacher's hash."""
        device = compute_device(context.device)
        if device == "cpu":
            keep_freed_memory()
        self.autocast = autocast_dtype(context.dtype, device)
        descriptions(student)  # as in init-student: no link out of the folder is followed
        self.student, frozen = load_pair(student, teacher, device)
        self.processor = load_whisper_processor(student)
        self.material = prepare(self.student, self.processor, data, config, context, processes)
        for notice in self.material.notices():
            say(notice)
        self.cache = teacher_cache(config, taught_by, self.autocast)
        self.distiller = Distiller(self.student, frozen, config, self.autocast, context.seed, processes, self.cache)

    def finish(self, draft: artifact.Draft, reached: Progress, checkpoints: Checkpoints) -> None:
        """The best weights as a model folder, with the metrics and what was reached."""
        self.distiller.load_weights(load_file(checkpoints.best_path(reached.best_step)))
        if self.distiller.config.timestamp_prob:
            # `transcribe` asks for them then; what a GenerationConfig holds its annotations do not limit.
            self.student.generation_config.trained_with_times = True  # type: ignore[attr-defined]
        save_model(self.student, self.processor, draft.folder)
        shutil.copy(checkpoints.folder / METRICS, draft.folder / METRICS)
        speed = reached.step * self.distiller.config.batch_size / reached.seconds
        results: Distilled = {**self.material.results(reached, self.autocast), "samples_per_second": speed}
        draft.results |= results


def teacher_cache(config: DistillConfig, teacher: str, dtype: torch.dtype) -> TeacherCache | None:
    """The cache of --teacher-cache, None without it; teacher: the hash of the teacher."""
    if config.teacher_cache is None:
        return None
    return TeacherCache(
        Path(config.teacher_cache).absolute(),
        config.teacher_cache_gib * GIB,
        teacher=teacher,
        dtype=str(dtype),
    )


def load_pair(
    student: Path, teacher: Path, device: str
) -> tuple[GatedWhisperForConditionalGeneration, GatedWhisperForConditionalGeneration]:
    """Raises InputError where teacher and student differ in their tokens or in their audio window."""
    models = load_whisper(student, torch.float32, device), load_whisper(teacher, torch.float32, device)
    for key in ("vocab_size", "num_mel_bins", "max_source_positions"):
        ours, theirs = (getattr(model.config, key) for model in models)
        if ours != theirs:
            raise InputError(f"student and teacher differ in {key}: {ours} and {theirs}")
    for model in models:
        model.set_attn_implementation(attention_kernel(device, model.config.max_source_positions))
    return models
