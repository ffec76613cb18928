"""Which checkpoint a training goes on from, and what becomes of those that it does not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from whisperq.errors import InputError, UsageError, WhisperqError
from whisperq.jobs.distributed import Processes
from whisperq.training.checkpoints import Checkpoint, Checkpoints, read_checkpoint


def starting_point(
    checkpoints: Checkpoints,
    resume: str,
    force: bool,
    processes: Processes,
    say: Callable[[str], None],
    known: Mapping[Path, str] = MappingProxyType({}),
) -> Checkpoint | None:
    """The checkpoint to go on from; None to begin. The first process decides for all.

    known: checkpoints that turned out to be damaged, and how.
    Raises InputError for one that cannot be used or was made from other inputs, UsageError for one of other settings.
    """
    found: Checkpoint | WhisperqError | None = None
    if processes.main:
        try:
            found = _choose(checkpoints, resume, force, say, known)
        except WhisperqError as error:
            found = error
    found = processes.gather(found)[0]
    if isinstance(found, WhisperqError):
        raise found
    return found


def _choose(
    checkpoints: Checkpoints, resume: str, force: bool, say: Callable[[str], None], known: Mapping[Path, str]
) -> Checkpoint | None:
    if resume != "auto" and known:  # the user named it
        raise InputError(next(iter(known.values())))
    if resume == "never":
        _begin_anew(checkpoints, say)
        return None
    if resume != "auto":
        return _named(checkpoints, Path(resume), say)
    newest, problems = checkpoints.newest(known)
    if newest is None:
        return None
    try:
        check_identity(newest, checkpoints)
    except WhisperqError:
        if not force:
            raise
        _begin_anew(checkpoints, say)
        return None
    for problem in problems.values():
        say(f"warning: {problem}; going on from an older one")
    if problems:  # aside, or they would count as the newest that are kept
        say(f"what is damaged is now in {checkpoints.set_aside(list(problems))}")
    say(f"going on from {newest.path}")
    _say_computed_otherwise(newest, checkpoints, say)
    return with_best(newest, checkpoints, say)


def _begin_anew(checkpoints: Checkpoints, say: Callable[[str], None]) -> None:
    """Weights of weeks, perhaps, keep a number instead of being overwritten."""
    if checkpoints.folder.is_dir() and any(checkpoints.folder.iterdir()):
        place = checkpoints.set_aside(list(checkpoints.folder.iterdir()))
        say(f"what an earlier training left is now in {place}")


def _named(checkpoints: Checkpoints, path: Path, say: Callable[[str], None]) -> Checkpoint:
    """The checkpoint that the user names; newer ones of this training step aside, or the next job would prefer them."""
    chosen = read_checkpoint(path)
    check_identity(chosen, checkpoints)
    if path.resolve().parent != checkpoints.folder.resolve():
        raise UsageError(f"--resume {path} is no checkpoint in {checkpoints.folder}, this training's folder")
    if newer := checkpoints.newer(chosen.progress.step):
        say(f"newer checkpoints are now in {checkpoints.set_aside(newer)}")
    _say_computed_otherwise(chosen, checkpoints, say)
    return with_best(chosen, checkpoints, say)


def _say_computed_otherwise(checkpoint: Checkpoint, checkpoints: Checkpoints, say: Callable[[str], None]) -> None:
    if keys := checkpoint.identity.computed_otherwise(checkpoints.identity):
        flags = " and ".join(f"--{key.replace('_', '-')}" for key in keys)
        say(f"another {flags} than before: the same training from here on, rounding apart")


def with_best(checkpoint: Checkpoint, checkpoints: Checkpoints, say: Callable[[str], None]) -> Checkpoint:
    """The checkpoint; it names no best weights and is validated anew where those that it named do not count any more.

    They are gone or damaged, or another normaliser found them.
    """
    progress = checkpoint.progress
    if progress.best_step is not None and checkpoint.identity.judged_otherwise(checkpoints.identity):
        say("warning: the validation has another normaliser than before: the best weights so far are forgotten")
    elif checkpoints.holds_best(progress):
        return checkpoint
    else:
        best = checkpoints.best_path(progress.best_step)
        say(f"warning: {best}, the best weights so far, is gone or damaged; forgotten")
    forgotten = replace(progress, best_step=None, best_wer=None, best_sha256=None, owed=True)
    return replace(checkpoint, progress=forgotten)


def check_identity(checkpoint: Checkpoint, checkpoints: Checkpoints) -> None:
    """Raises InputError for other inputs, UsageError for other settings; both name them."""
    keys, roles = checkpoint.identity.differences(checkpoints.identity)
    rest = "use what it was begun with, or give --resume never to start anew (nothing is deleted)"
    if keys:
        raise UsageError(f"{checkpoint.path} belongs to a training with other settings: {', '.join(keys)}; {rest}")
    if roles:
        what = " and ".join(f"the {role} input" for role in roles)
        raise InputError(f"{what} changed since the training of {checkpoint.path} began; {rest}")
