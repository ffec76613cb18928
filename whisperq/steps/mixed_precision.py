"""Fewer bits where a layer can do with fewer: widths and weights learned together, or the baselines of that.

The system of Xu et al. 2025 (arXiv 2501.03643) on any family, weights alone: `training.mixed` says what is learned,
`training.bit_search` what its baselines do instead. All modes train on the same data for the same number of steps.
"""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from whisperq import artifact
from whisperq.data.batches import Batch
from whisperq.data.sources import UtteranceGroup
from whisperq.errors import UsageError
from whisperq.jobs.determinism import prepare_determinism
from whisperq.jobs.distributed import Processes, joined
from whisperq.jobs.progress import say, say_left_out, stepping
from whisperq.jobs.signals import stop_requested
from whisperq.kinds.models import MixedPrecision
from whisperq.models.families import family_of
from whisperq.models.loading import compute_device, load_model, load_processor
from whisperq.preconditions import check_batches, check_weights, seconds_of
from whisperq.ptq.checkpoint import Quantization, save_quantization
from whisperq.ptq.descriptions import describe, descriptions
from whisperq.ptq.plan import make_plan
from whisperq.report.bits import plot_bits
from whisperq.settings import Context
from whisperq.training.bit_search import (
    SearchBook,
    check_search,
    check_target,
    parse_widths,
    sensitive_choice,
    uniform_choice,
)
from whisperq.training.bit_summary import entries, sizes
from whisperq.training.checkpoints import Progress
from whisperq.training.inputs import prepare
from whisperq.training.job import Job, TrainingData, TrainingStart
from whisperq.training.logs import METRICS
from whisperq.training.loop import autocast_dtype
from whisperq.training.micro_batch import settle_micro_batch
from whisperq.training.mixed import MixedLearner, MixedWeights, search_steps
from whisperq.training.run import Training, TrainingContext
from whisperq.training.student_teacher import make_pair
from whisperq.training_options import MixedPrecisionConfig

BITS = "bits.json"


def mixed_precision(
    model: Path, data: TrainingData, out: Path, config: MixedPrecisionConfig, context: Context
) -> artifact.Artifact:
    """Quantize the weights to `target_bits` on average, training them for `max_steps`; the best step is kept.

    Goes on from the newest checkpoint beside `out`. Raises UsageError for a target that cannot be met, InputError for
    data that do not fit, TrainingError and Interrupted as `distill` does.
    """
    check_search(config)
    if config.deterministic:
        prepare_determinism()
    with (
        joined(compute_device(context.device)) as processes,
        stop_requested(seconds_of(config.max_time)) as stopping,
        ExitStack() as held,
    ):
        check_batches(config, processes.world)
        check_weights(config)
        train, validation = data.read(config.skip_bad)
        inputs = {"model": artifact.reference(model), "train": train.reference, "validation": validation.reference}
        # Where the search ends hangs on max_steps: more steps are another search, and so not the same training.
        settings = context.settings(config, normalizer=data.normalizers, search_steps=search_steps(config))
        job = Job("mixed-precision", "quantized", out, settings, inputs)
        held.enter_context(job.alone(context.force, processes))
        beginning = job.begin(config, context.force, processes, say)
        fresh = beginning.start is None
        work = MixedPrecisionRun(model, (train, validation, data.normalizer), config, context, processes, fresh)
        artifact.all_read(inputs)
        settle_micro_batch(work.learner, work.material.feed, beginning.start, processes, say)
        book = SearchBook(out, {**settings, "micro_batch": work.material.feed.micro_batch}, inputs)
        if fresh:
            work.settle(processes, stopping, book)
        with stepping("mixed-precision", config.max_steps, beginning.step) as advance:
            around, material = TrainingContext(processes, stopping, say, advance), work.material
            training = Training(work.learner, material.feed, material.validation, beginning.checkpoints, config, around)
            training.seconds_before = work.search_seconds
            reached = beginning.train(training)
        if processes.main:
            with beginning.draft(all_read=True) as draft:
                work.finish(draft, reached, beginning)
            say_left_out(material.left_out())
            book.remove()
        return processes.result(out)


class MixedPrecisionRun:
    """The network with its learned grids, its data, and what it comes to."""

    def __init__(
        self,
        model: Path,
        data: tuple[UtteranceGroup, UtteranceGroup, str],
        config: MixedPrecisionConfig,
        context: Context,
        processes: Processes,
        fresh: bool,
    ) -> None:
        """fresh: whether it begins, or goes on from a checkpoint."""
        device = compute_device(context.device)
        self.config = config
        # What cannot be copied is refused before the training; at its end another model may lie there.
        self.descriptions = {name: path.read_bytes() for name, path in descriptions(model).items()}
        self.student, floats = (load_model(model, torch.float32, device) for _ in range(2))
        check_family(self.student, config)
        self.material = prepare(self.student, load_processor(model), data, config, context, processes)
        for notice in self.material.notices():
            say(notice)
        self.plan = make_plan(self.student, "gemm", activation_ranges="none")
        widths = parse_widths(config.bits)
        self.weights = MixedWeights(self.student, self.plan.weights, widths, config.target_bits, fitted=fresh)
        check_target(self.weights)
        self.autocast = autocast_dtype(context.dtype, device)
        pair = make_pair(self.student, floats, config, self.autocast)
        self.learner = MixedLearner(pair, self.weights, config, self.autocast, context.seed, processes)
        self.search_seconds = 0.0  # of a search before the first step, which is part of the training's time

    def settle(self, processes: Processes, told: Callable[[], bool], book: SearchBook) -> None:
        """The widths of a baseline, before the first step. Raises Interrupted."""
        began = time.perf_counter()
        if self.config.mode == "uniform":
            self.weights.choice = uniform_choice(self.weights)
        elif self.config.mode == "two-stage":
            say(f"measuring what each of {len(self.weights.layers)} weights costs at {self.config.bits} bits")
            batches = self.first_batches()
            total = len(processes.share(batches)) * len(self.weights.layers)
            with stepping("sensitivity", total, 0) as advance:
                found = sensitive_choice(self.student, self.weights, batches, processes, told, book, advance)
            self.weights.choice = found
        self.search_seconds = time.perf_counter() - began

    def first_batches(self) -> list[Batch]:
        """The first batches of the training data, the same in every process."""
        wanted = self.config.search_batches
        steps = -(-wanted * (self.material.feed.micro_batch or self.config.batch_size) // self.config.batch_size)
        batches = (batch for step in self.material.feed.steps(None, steps, 0, 1) for batch in step.batches)
        return list(islice((b for b in batches if b.utterances), wanted))

    def finish(self, draft: artifact.Draft, reached: Progress, beginning: TrainingStart) -> None:
        """The best weights as a quantized model, with the widths, the metrics and what was reached."""
        self.learner.load_weights(load_file(beginning.checkpoints.best_path(reached.best_step)))
        choice = self.weights.settled()
        for name, content in self.descriptions.items():
            (draft.folder / name).write_bytes(content)
        save_quantization(self.student, Quantization(self.weights.quantized(choice), {}), {}, draft.folder)
        if self.student.can_generate():
            self.student.generation_config.save_pretrained(draft.folder)
        shutil.copy(beginning.checkpoints.folder / METRICS, draft.folder / METRICS)
        learned = self.config.mode == "one-stage"
        probable = self.weights.probable(self.config.gumbel_last) if learned else None
        layers = entries(self.weights, choice, probable)
        (draft.folder / BITS).write_text(json.dumps(artifact.plain({"layers": layers}), indent=1) + "\n")
        mean = self.weights.mean_bits(choice)
        results: MixedPrecision = {
            "recipe": "gemm",
            "weight_bits": round(mean, 2),
            "group": None,
            "weight_scales": "learned",
            "activation_bits": None,
            "activation_ranges": "none",
            "smooth": None,
            **describe(self.plan),
            "mode": self.config.mode,
            "target_bits": self.config.target_bits,
            "average_bits": mean,
            "bits": {entry["address"]: entry["bits"] for entry in layers},
            "moved_from_most_probable": sum(e["bits"] != e["most_probable"] for e in layers) if learned else None,
            **sizes(draft.folder, self.student, self.weights),
            **self.material.results(reached, self.autocast),
            "search_steps": self.learner.search_steps,
            "figures": plot_bits(layers, mean, draft.folder),
        }
        draft.results |= results


def check_family(model: PreTrainedModel, config: MixedPrecisionConfig) -> None:
    """Raises UsageError for settings of another family's data."""
    if family_of(model.config).input == "log-mel":
        return
    flags = ("spec_augment", "timestamp_prob", "pack", "recompute", "compile")
    given = [f"--{flag.replace('_', '-')}" for flag in flags if getattr(config, flag)]
    given += ["--micro-batch auto"] if config.micro_batch == "auto" else []
    if given:
        raise UsageError(f"{given[0]} is for Whisper, not for a {model.config.model_type} model")
