"""Checkpoints: what a training needs to go on as if nothing had happened.

    checkpoints/
      step-00001000/   student.safetensors  optimizer.safetensors  state.json  COMPLETE
      best-00000500.safetensors             the student at its lowest validation WER
      metrics.jsonl

A checkpoint is written beside its place, synced, renamed, and marked last: COMPLETE holds the SHA-256 of its files,
and a folder without it is never read. The teacher is in none. `best-*` of a step stays as long as a checkpoint that
is kept calls it the best, so that whatever is resumed finds its own.
"""

import itertools
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from whisperq.disk import replace, sync
from whisperq.errors import InputError, TrainingError
from whisperq.hashing import file_sha256
from whisperq.training.stored_state import Identity, Progress, read_state

MARK = "COMPLETE"
STATE = "state.json"
TENSORS = ("student", "optimizer")
# Names of ours and of nobody else: a copy beside them that a user named step-00001000-good is not ours to remove.
STEP, BEST = re.compile(r"step-(\d{8,})"), re.compile(r"best-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    progress: Progress
    identity: Identity

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Tensors of student and optimizer, by file and name."""
        return {name: load_file(self.path / f"{name}.safetensors") for name in TENSORS}


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises InputError for a folder that is no complete checkpoint, or whose files are not those written."""
    if not path.is_dir():
        raise InputError(f"there is no checkpoint folder {path}")
    if not (path / MARK).is_file():
        raise InputError(f"{path} is no complete checkpoint: it has no file {MARK}")
    try:
        hashes = json.loads((path / MARK).read_text())
        for name in (*(f"{t}.safetensors" for t in TENSORS), STATE):
            if file_sha256(path / name) != hashes[name]:
                raise ValueError(f"{name} is not the file that was written")
        progress, identity = read_state((path / STATE).read_text())
        if path.resolve().name != folder_name(progress.step):
            raise ValueError(f"{STATE} is of step {progress.step}")
        return Checkpoint(path, progress, identity)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> InputError:
    """The error for a checkpoint that cannot be used."""
    what = f"{error} is missing" if isinstance(error, KeyError) else error
    return InputError(f"the checkpoint {path} is damaged: {what}")


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def require_like(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises KeyError for a tensor that is missing, ValueError for one too many or of another shape or dtype."""
    for name in found.keys() - expected.keys():
        raise ValueError(f"the tensor {name} is not of this network")
    for name, tensor in expected.items():
        ours, theirs = ((tuple(t.shape), t.dtype) for t in (tensor, found[name]))
        if ours != theirs:
            raise ValueError(f"the tensor {name} has shape and type {theirs} instead of {ours}")


class Checkpoints:
    """The checkpoints folder of one training."""

    def __init__(self, folder: Path, identity: Identity, keep: int) -> None:
        self.folder, self.identity, self.keep = folder, identity, keep

    def paths(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return [path for path in self._ours(STEP).values() if (path / MARK).is_file()]

    def newer(self, step: int) -> list[Path]:
        """Complete checkpoints and best weights of later steps."""
        best = [path for number, path in self._ours(BEST).items() if number > step]
        return [path for path in self.paths() if path.name > folder_name(step)] + best

    def _ours(self, pattern: re.Pattern[str]) -> dict[int, Path]:
        """Step -> path, in the order of the steps."""
        found = ((pattern.fullmatch(path.name), path) for path in sorted(self.folder.glob("*")))
        return {int(match[1]): path for match, path in found if match}

    def newest(self, known: Mapping[Path, str] = MappingProxyType({})) -> tuple[Checkpoint | None, dict[Path, str]]:
        """The newest checkpoint that is whole, and what is wrong with newer ones; of some that is known already.

        Raises InputError where there are some, but all damaged.
        """
        problems = dict(known)
        for path in reversed(self.paths()):
            if path in problems:
                continue
            try:
                return read_checkpoint(path), problems
            except InputError as error:
                problems[path] = str(error)
        for problem in problems.values():
            raise InputError(f"{problem}, and no other is left; give --resume never to start anew")
        return None, problems

    def holds_best(self, progress: Progress) -> bool:
        """Whether the best weights so far, if there are any, are those that were written."""
        if progress.best_step is None:
            return True
        path = self.best_path(progress.best_step)
        return path.is_file() and file_sha256(path) == progress.best_sha256

    def save(self, tensors: Mapping[str, Mapping[str, Tensor]], progress: Progress) -> None:
        """Raises TrainingError, the older checkpoints untouched, where the disk takes no more."""
        final = self.folder / folder_name(progress.step)
        partial = self.folder / f".{final.name}.partial"
        self.clear_half_written()
        try:
            partial.mkdir(parents=True)
            for name in TENSORS:
                save_file({k: t.contiguous() for k, t in tensors[name].items()}, partial / f"{name}.safetensors")
            state = {"progress": asdict(progress), "settings": self.identity.settings, "inputs": self.identity.inputs}
            (partial / STATE).write_text(json.dumps(state, indent=1) + "\n")
            hashes = {file.name: file_sha256(file) for file in partial.iterdir()}
            for file in (*partial.iterdir(), partial):
                sync(file)
            shutil.rmtree(final, ignore_errors=True)  # of a training that went on from before this step
            partial.rename(final)
            sync(self.folder)
            replace(final / MARK, json.dumps(hashes) + "\n")
        except (OSError, SafetensorError) as error:
            self.clear_half_written()
            raise self._failed(f"the checkpoint of step {progress.step}", error) from error
        self._prune()

    def save_best(self, step: int, student: Mapping[str, Tensor]) -> str:
        """Returns the file's SHA-256. Raises TrainingError where the disk takes no more."""
        path = self.best_path(step)
        partial = path.with_name(f".{path.name}.partial")
        try:
            save_file({k: t.contiguous() for k, t in student.items()}, partial)
            sync(partial)
            partial.rename(path)
            return file_sha256(path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise self._failed(f"the best weights, those of step {step},", error) from error

    def best_path(self, step: int | None) -> Path:
        """Raises TrainingError for None, where no step was found the best."""
        if step is None:
            raise TrainingError("no step of the training has been called the best, so that it has no result")
        return self.folder / f"best-{step:08d}.safetensors"

    def clear_half_written(self) -> None:
        """Delete incomplete checkpoints of a killed process or a full disk, which can be gigabytes."""
        for path in self.folder.glob(".*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self._ours(STEP).values():
            if not (path / MARK).is_file():
                shutil.rmtree(path, ignore_errors=True)

    def set_aside(self, paths: list[Path]) -> Path:
        """Move files and folders of an abandoned training where they hinder nobody; returns the place."""
        places = (self.folder.with_name(f"{self.folder.name}.{n}") for n in itertools.count(1))
        place = next(p for p in places if not p.exists())
        place.mkdir(parents=True)
        for path in paths:
            path.rename(place / path.name)
        return place

    def _failed(self, what: str, error: Exception) -> TrainingError:
        kept = self.paths()
        rest = f"; {kept[-1]} is whole, and the same command goes on from there" if kept else ""
        return TrainingError(f"{what} could not be saved ({error}){rest}")

    def _prune(self) -> None:
        """Remove all but the newest `keep`, and best weights that none of these names."""
        for path in self.paths()[: -self.keep]:
            (path / MARK).unlink()  # first, so that a removal cut short leaves nothing that looks whole
            shutil.rmtree(path, ignore_errors=True)
        named = set()
        for path in self.paths():
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # a damaged one counts for nothing
                named.add(read_state((path / STATE).read_text())[0].best_step)
        for step, path in self._ours(BEST).items():
            if step not in named:
                path.unlink()
