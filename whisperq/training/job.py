"""What every training command does around its learner: where it begins, how it goes on, what refuses it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.batches import Loader, require_texts
from whisperq.data.sources import UtteranceGroup, read_all
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, TrainingError, UsageError
from whisperq.jobs.distributed import Processes, alone
from whisperq.run_folder import work_folder
from whisperq.scoring.normalizers import Normalizer
from whisperq.training.checkpoints import Checkpoint, Checkpoints, Identity, Progress
from whisperq.training.resuming import starting_point
from whisperq.training.run import Training
from whisperq.training_options import TrainingConfig


@dataclass(frozen=True)
class TrainingData:
    train: Sequence[Source]
    validation: Sequence[Source]
    normalizer: str  # of the validation lists that name none

    @property
    def normalizers(self) -> str:
        """The name of the validation WER's, or several."""
        return ", ".join(dict.fromkeys(source.normalizer or self.normalizer for source in self.validation))

    def read(self, skip_bad: bool) -> tuple[UtteranceGroup, UtteranceGroup]:
        """Raises InputError for data that is not there or has no texts."""
        train, validation = read_all(self.train, skip_bad), read_all(self.validation, skip_bad)
        require_texts(train.utterances, "training")
        require_texts(validation.utterances, "validation")
        return train, validation


@dataclass(frozen=True)
class Job:
    """One training command: what it makes, of what."""

    command: str
    kind: str  # of artifact
    out: Path
    settings: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]]

    @contextmanager
    def alone(self, force: bool, processes: Processes) -> Iterator[None]:
        """Nobody else trains this inside. Raises as `refuse_overwrite` does, Interrupted where somebody is at work.

        What is finished is said without the lock: commands that find it finished never collide.
        """
        artifact.refuse_overwrite(self.out, self.command, self.settings, self.inputs, force or self.grows())
        with alone(self.out, self.command, processes):
            yield

    def begin(
        self, config: TrainingConfig, force: bool, processes: Processes, say: Callable[[str], None]
    ) -> "TrainingStart":
        """Raises Finished where all is done, and what `starting_point` raises."""
        grown = force or self.grows()
        artifact.refuse_overwrite(self.out, self.command, self.settings, self.inputs, grown)
        checkpoints = Checkpoints(work_folder(self.out), identity_of(self.settings, self.inputs), config.keep)
        start = starting_point(checkpoints, config.resume, force, processes, say)
        if start is None and grown and not force:
            raise UsageError(
                f"{self.out} is finished, and its checkpoints are gone: give --force to train anew, or --out"
            )
        older = partial(starting_point, checkpoints, config.resume, False, processes, say)
        return TrainingStart(self, checkpoints, start, grown, older)

    def grows(self) -> bool:
        """Whether `out` is this very training with fewer steps, which goes on from its last checkpoint."""
        if not artifact.is_artifact(self.out):
            return False
        old = artifact.load(self.out, verify=False)
        differences = identity_of(old.config, old.inputs).differences(identity_of(self.settings, self.inputs))
        return differences == ([], []) and self.settings["max_steps"] > old.config["max_steps"]


@dataclass(frozen=True)
class TrainingStart:
    """Where a job's training starts; `force`: whether it may replace what is there.

    older: gives the checkpoint to go on from where some, by path, turn out to be damaged, and how.
    """

    job: Job
    checkpoints: Checkpoints
    start: Checkpoint | None
    force: bool
    older: Callable[[Mapping[Path, str]], Checkpoint | None]

    @property
    def step(self) -> int:
        return self.start.progress.step if self.start else 0

    def train(self, training: Training) -> Progress:
        """All steps that are left. Raises TrainingError and Interrupted, each saying what was saved."""
        self._go_on(training)
        try:
            return training.run()
        except TrainingError as error:
            where = self.checkpoints.folder
            raise TrainingError(f"{error}; metrics and the best weights so far are in {where}") from error

    def _go_on(self, training: Training) -> None:
        """Resume from the newest checkpoint that the training can use; all processes agree."""
        start, problems = self.start, {}
        while start:
            problem = None
            try:
                training.go_on_from(start)
            except InputError as error:
                problem = str(error)
            if not (found := [p for p in training.around.processes.gather(problem) if p]):
                return
            problems[start.path] = found[0]
            start = self.older(problems)

    def draft(self, all_read: bool = False) -> AbstractContextManager[artifact.Draft]:
        """The artifact, to be filled; all_read: whether `artifact.all_read` has seen its inputs, perhaps days ago."""
        job = self.job
        inputs = {role: dict(entry) for role, entry in job.inputs.items()} if all_read else job.inputs
        return artifact.create(job.out, job.kind, job.command, job.settings, inputs, self.force)


def identity_of(settings: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> Identity:
    return Identity(settings, {role: entry["sha256"] for role, entry in inputs.items()})


def check_validation(loader: Loader, normalizers: Sequence[Normalizer], utterances: Sequence[Utterance]) -> None:
    """Before the first step rather than at the first validation: every recording decodes, there are words.

    With skip_bad, words in those that decode: a WER of nothing would call the first step the best, whatever comes.
    """
    usable = [(u, n) for u, n in zip(utterances, normalizers, strict=True) if loader.audio(u) is not None]
    if not any(normalizer(u.text or "") for u, normalizer in usable):
        of = "" if len(usable) == len(utterances) else f" in the {len(usable)} of {len(utterances)} usable recordings"
        raise InputError(f"the validation data has no reference words{of}, so that no step can be called the best")
