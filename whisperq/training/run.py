"""A training from wherever its newest checkpoint left it to its last step.

One step: the update; then what is due: its figures, a validation, a checkpoint. A training that is told to stop
finishes the step, saves and says so; when it resumes, it repeats a validation that was cut short. No limit of time cuts
that one short again, or jobs of less than a validation's time would repeat it for ever.
Where the data fails, a recording that is none or a disk that does not answer, the steps so far are saved as well, and
where memory fails, of one process alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from safetensors import SafetensorError

from whisperq.errors import Interrupted, TrainingError, WhisperqError
from whisperq.jobs.distributed import ENDED, Processes
from whisperq.jobs.signals import Stopping
from whisperq.training.checkpoints import Checkpoint, Checkpoints, damaged
from whisperq.training.feed import Feed, Position, TrainingStep
from whisperq.training.logs import MetricsLog
from whisperq.training.loop import Learner, Step
from whisperq.training.speed import Speed
from whisperq.training.stored_state import Progress, require_like_start
from whisperq.training.validation import Validation
from whisperq.training_options import TrainingConfig

WAITING = 0.05  # share of the time


@dataclass(frozen=True)
class TrainingContext:
    """Surroundings of a training: other processes, what may stop it, and what shows its progress."""

    processes: Processes
    stopping: Stopping
    say: Callable[[str], None]
    advance: Callable[[str], None]  # after each step, with a word on it


class Training:
    """Learner, data and checkpoints, step by step."""

    def __init__(
        self,
        learner: Learner,
        feed: Feed,
        validation: Validation,
        checkpoints: Checkpoints,
        config: TrainingConfig,
        around: TrainingContext,
    ) -> None:
        self.learner, self.feed, self.validation = learner, feed, validation
        self.checkpoints, self.config, self.around = checkpoints, config, around
        self.progress = Progress(micro_batch=feed.micro_batch)
        self.seconds_before = 0.0
        self.log: MetricsLog | None = None
        self.told_of_waiting = False
        # Position up to which, and what filters had left out there, in the jobs before this one.
        self.counted: tuple[Position | None, Counter[str]] = None, Counter()
        self.saved = 0  # the step of the last checkpoint
        self.pending: list[Step] = []  # updates whose figures are not read yet

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Raises InputError for tensors that are not this student's, and for a position that is none of these data."""
        try:
            if checkpoint.progress.position is not None:
                start = {**self.feed.window_source.start(), "window": 0, "taken": 0}
                require_like_start(checkpoint.progress.position, start)
            tensors = checkpoint.tensors()
            self.learner.load_weights(tensors["student"])
            self.learner.load_optimizer_state(tensors["optimizer"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise damaged(checkpoint.path, error) from error
        self.progress = replace(checkpoint.progress, micro_batch=self.feed.micro_batch)
        known = checkpoint.progress.dropped
        self.counted = (None, Counter()) if known is None else (checkpoint.progress.position, Counter(known))
        self.seconds_before = checkpoint.progress.seconds
        self.feed.loader.skipped |= set(checkpoint.progress.skipped)

    def run(self) -> Progress:
        """Raises Interrupted where it was told to stop, after a checkpoint."""
        progress, processes = self.progress, self.around.processes
        if processes.main:
            folder = self.checkpoints.folder
            folder.mkdir(parents=True, exist_ok=True)
            self.checkpoints.clear_half_written()
            self.log = MetricsLog(folder, self.config.report_to, progress.log_bytes, progress.step)
        self.speed = Speed(processes)
        try:
            if progress.step == 0:  # where the growth of outliers begins
                self.learner.ready()
                self._write({"step": 0, **self.validation.observe(self.learner.student)})
            if not self._validate_if_due(timed=False):
                raise self._interrupted("was saved before")
            self.saved = progress.step
            for data in self._data():
                with self._saved_at_failure():
                    self._step(data)
            return progress
        finally:
            if self.log:
                self.log.close()

    def _data(self) -> Iterator[TrainingStep]:
        """The data of the steps that are left. Where reading it fails, in any process, what is learned is saved."""
        progress, processes = self.progress, self.around.processes
        rest = self.config.max_steps - progress.step
        where = progress.position, rest, processes.rank, processes.world, progress.step
        with closing(self.feed.steps(*where)) as steps:
            for _ in range(rest):
                data: TrainingStep | None = None
                problem: Exception | None = None
                try:
                    data = next(steps)
                except Exception as error:
                    problem = error
                if processes.any(problem is not None):
                    self._save_what_is_new()
                    raise problem or TrainingError(ENDED)
                assert data is not None, "a feed has as many steps as it was asked for"
                yield data

    @contextmanager
    def _saved_at_failure(self) -> Iterator[None]:
        """Of one process alone: what its memory does not suffice for, say, costs this step and none of those before.

        An error of ours says that nothing should be saved, or that nothing could be.
        """
        try:
            yield
        except WhisperqError:
            raise
        except Exception:
            if self.around.processes.world == 1:
                self._save_what_is_new()
            raise

    def _save_what_is_new(self) -> None:
        """A checkpoint between two steps, unless the last one holds all that is learned."""
        if self.progress.step == self.saved:
            return
        if self.pending:
            self._read(logs=False)
        self._save()
        self.around.say(f"step {self.progress.step} is saved")

    def _step(self, data: TrainingStep) -> None:
        progress, config = self.progress, self.config
        self.pending.append(self.learner.step(progress.step, data.batches))
        progress.step, progress.position = progress.step + 1, data.position
        self.speed.add(data)
        last = progress.step == config.max_steps
        stop = self.around.processes.any(self.around.stopping())
        due_log = progress.step == 1 or progress.step % config.log_every == 0
        due_save = last or stop or progress.step % config.save_every == 0
        if due_log or due_save or self._validation_due() or self.learner.device == "cpu":
            self._read(due_log or last)
        self.around.advance(f"loss {progress.last['loss']:.3f}" if progress.last else "")
        if not stop:
            stop = not self._validate_if_due()
        if due_save or stop:
            self._save()
        if stop and not (last and progress.validated == progress.step):
            raise self._interrupted("is saved")

    def _interrupted(self, what: str) -> Interrupted:
        command = "the same command" if self.config.resume == "auto" else "the same command with --resume auto"
        return Interrupted(f"told to stop: step {self.progress.step} {what}, and {command} goes on from there")

    def _read(self, logs: bool) -> None:
        """The figures of all steps since the last time: here, and nowhere else, a GPU is waited for."""
        metrics = [step.read() for step in self.pending]
        self.pending.clear()
        self.progress.last = metrics[-1].as_dict()
        if logs:
            epoch = {}
            if self.feed.epoch_size:
                epoch["epoch"] = self.progress.step * self.config.batch_size / self.feed.epoch_size
            rates = self.speed.rates()
            self._write({**self.progress.last, **epoch, **rates})
            self._tell_of_waiting(rates["data_wait"])

    def _tell_of_waiting(self, share: float) -> None:
        """Once, and not of the first step, which waits for the first recordings whatever is done."""
        if share > WAITING and self.progress.step > 1 and not self.told_of_waiting:
            self.told_of_waiting = True
            self.around.say(
                f"step {self.progress.step}: {share:.0%} of the time is spent waiting for recordings; more --workers "
                "decode faster, and --audio-cache DIR keeps what they have decoded"
            )

    def _write(self, entry: dict[str, Any]) -> None:
        if self.log:
            self.log.write(entry)

    def _validation_due(self) -> bool:
        step = self.progress.step
        due = step > 0 and (step % self.config.eval_every == 0 or step == self.config.max_steps)
        return self.progress.owed or (due and self.progress.validated < step)

    def _validate_if_due(self, timed: bool = True) -> bool:
        """False where it was told to stop before the end; timed: whether the end of the job's time says so, too."""
        if not self._validation_due():
            return True
        stopping = self.around.stopping
        with self.speed.paused():
            self.learner.ready()
            found = self.validation.measure(self.learner.student, stopping, None if timed else stopping.told)
        if found is None:
            return False
        progress, wer = self.progress, found["validation_wer"]
        self._write({"step": progress.step, **found})
        words = f"of {found['reference_words']} words"
        circles = f", {found['loops']} utterances in loops" if found["loops"] else ""
        short = f", {found['cut_short']} cut short at --tokens-per-second" if found.get("cut_short") else ""
        self.around.say(f"step {progress.step}: validation WER {100 * wer:.2f} % {words}{circles}{short}")
        progress.validated, progress.owed = progress.step, False
        better = progress.best_wer is None or wer < progress.best_wer
        if better and self.learner.may_be_result(progress.step):
            progress.best_step, progress.best_wer = progress.step, wer
            if self.around.processes.main:
                progress.best_sha256 = self.checkpoints.save_best(progress.step, self.learner.weights())
        return True

    def _save(self) -> None:
        progress, processes = self.progress, self.around.processes
        progress.seconds, progress.owed = self.seconds_before + self.speed.seconds, self._validation_due()
        self.feed.loader.skipped.update(*processes.gather(self.feed.loader.skipped))  # each knows its own share's
        progress.skipped = sorted(self.feed.loader.skipped)
        if progress.position is not None:
            after, before = self.counted
            progress.dropped = dict(before + Counter(self.feed.window_source.dropped(after, progress.position)))
        with self.speed.paused():
            if processes.main and self.log is not None:
                progress.log_bytes = self.log.sync()
                tensors = {"student": self.learner.weights(), "optimizer": self.learner.optimizer_state()}
                self.checkpoints.save(tensors, progress)
            processes.wait()  # where the first could not save, nobody says that it did
        self.saved = progress.step
