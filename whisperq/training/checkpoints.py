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
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from whisperq.disk import replace, sync
from whisperq.errors import InputError, TrainingError
from whisperq.hashing import file_sha256

MARK = "COMPLETE"
STATE = "state.json"
TENSORS = ("student", "optimizer")


@dataclass
class Progress:
    """How far a training is, tensors apart."""

    step: int = 0
    position: dict[str, Any] | None = None  # of the data, after this step
    best_step: int | None = None
    best_wer: float | None = None
    best_sha256: str | None = None  # of its file
    validated: int = 0  # the last step whose validation is done
    owed: bool = False  # whether this step's validation is still to be done
    log_bytes: int = 0  # of metrics.jsonl
    seconds: float = 0.0  # of training; validations and checkpoints are not counted
    last: dict[str, Any] | None = None  # the last step's figures
    skipped: list[str] = field(default_factory=list)  # origins of utterances that were unusable


@dataclass(frozen=True)
class Identity:
    """What a training is: settings that decide its result, and its inputs' hashes."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]  # role -> sha256

    def differences(self, other: "Identity") -> tuple[list[str], list[str]]:
        """Settings and inputs that differ; a greater max_steps in `other` is the same training, going on."""
        mine, theirs = dict(self.settings), dict(other.settings)
        if theirs.get("max_steps", 0) >= mine.get("max_steps", 0):
            mine.pop("max_steps", None), theirs.pop("max_steps", None)
        keys = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
        roles = sorted(r for r in {*self.inputs, *other.inputs} if self.inputs.get(r) != other.inputs.get(r))
        return keys, roles


@dataclass(frozen=True)
class Checkpoint:
    """A complete one on disk."""

    path: Path
    progress: Progress
    identity: Identity

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """student and optimizer, by name."""
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
        state = json.loads((path / STATE).read_text())
        return Checkpoint(path, Progress(**state["progress"]), Identity(state["settings"], state["inputs"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the checkpoint {path} is damaged: {error}") from error


class Checkpoints:
    """The checkpoints folder of one training."""

    def __init__(self, folder: Path, identity: Identity, keep: int) -> None:
        self.folder, self.identity, self.keep = folder, identity, keep

    def paths(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("step-*") if (p / MARK).is_file())

    def newest(self) -> tuple[Checkpoint | None, dict[Path, str]]:
        """The newest checkpoint that is whole, and what is wrong with newer ones.

        Raises InputError where there are some, but all damaged.
        """
        problems: dict[Path, str] = {}
        for path in reversed(self.paths()):
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
        final = self.folder / f"step-{progress.step:08d}"
        partial = self.folder / f".{final.name}.partial"
        self._clear_half_written()
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
            self._clear_half_written()
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

    def best_path(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.safetensors"

    def _clear_half_written(self) -> None:
        """What a killed process or a full disk left: of a large student gigabytes."""
        for path in self.folder.glob(".*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self.folder.glob("step-*"):
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
        named = {json.loads((p / STATE).read_text())["progress"]["best_step"] for p in self.paths()}
        for path in self.folder.glob("best-*.safetensors"):
            if int(path.stem.split("-")[1]) not in named:
                path.unlink()
