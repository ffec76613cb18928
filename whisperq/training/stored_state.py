"""What a checkpoint holds beside its tensors, and whether what was read is that."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

# Settings of how a step is computed, and of nothing else: with others the same numbers come out, rounding apart.
COMPUTATION = ("micro_batch", "recompute", "compile")
NORMALIZER = "normalizer"  # decides which step is the best, and nothing that is learned


@dataclass
class Progress:
    """State of a training apart from its tensors."""

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
    dropped: dict[str, int] | None = None  # utterances that filters left out so far, by reason
    micro_batch: int | None = None  # that --micro-batch auto came to, or that it was given


@dataclass(frozen=True)
class Identity:
    """What identifies a training: settings that decide its result, and its inputs' hashes."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]  # role -> sha256

    def differences(self, other: "Identity") -> tuple[list[str], list[str]]:
        """Settings and inputs that differ; a greater max_steps in `other` is the same training, going on.

        So is one with --skip-bad after one without, which has met nothing bad so far, and one that is computed
        otherwise: else nobody could go on who meets the first bad recording, or the first batch for which the memory
        does not suffice, after a week. What another normaliser called the best is forgotten (resuming.py).
        """
        mine, theirs = dict(self.settings), dict(other.settings)
        if theirs.get("max_steps", 0) >= mine.get("max_steps", 0):
            mine.pop("max_steps", None), theirs.pop("max_steps", None)
        if mine.get("skip_bad") is False:
            mine.pop("skip_bad"), theirs.pop("skip_bad", None)
        keys = sorted(k for k in {*mine, *theirs}.difference(COMPUTATION, [NORMALIZER]) if mine.get(k) != theirs.get(k))
        roles = sorted(r for r in {*self.inputs, *other.inputs} if self.inputs.get(r) != other.inputs.get(r))
        return keys, roles

    def judged_otherwise(self, other: "Identity") -> bool:
        return self.settings.get(NORMALIZER) != other.settings.get(NORMALIZER)

    def computed_otherwise(self, other: "Identity") -> list[str]:
        """The settings of the computation that differ."""
        return [key for key in COMPUTATION if self.settings.get(key) != other.settings.get(key)]


def read_state(text: str) -> tuple[Progress, Identity]:
    """Raises ValueError, KeyError and TypeError for a state.json that no training wrote."""
    state = json.loads(text)
    progress, settings, inputs = (require(state[key], dict, key) for key in ("progress", "settings", "inputs"))
    hints = get_type_hints(Progress)
    for name, value in progress.items():
        require(value, hints[name], name)
    for name, value in inputs.items():
        require(value, str, f"the {name} input")
    require(settings.get("max_steps", 0), int, "max_steps")
    found = Progress(**progress)
    check_counts(found)
    return found, Identity(settings, inputs)


def check_counts(progress: Progress) -> None:
    """Raises ValueError for numbers that no training comes to."""
    if (progress.best_step is None) != (progress.best_wer is None):
        raise ValueError("best_step and best_wer belong together")
    if not 0 <= progress.validated <= progress.step or not 0 <= (progress.best_step or 0) <= progress.step:
        raise ValueError(f"step {progress.step} cannot be after what it comes after")
    if (
        not 0 <= progress.seconds < float("inf")
        or progress.log_bytes < 0
        or (progress.micro_batch is not None and progress.micro_batch < 1)
        or not all(isinstance(origin, str) for origin in progress.skipped)
        or not all(type(count) is int and count >= 0 for count in (progress.dropped or {}).values())
    ):
        raise ValueError("seconds, log_bytes, micro_batch, skipped or dropped are none")


def require(value: Any, hint: Any, name: str) -> Any:
    """The value. Raises TypeError where it is not of the type."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = tuple(get_origin(option) or option for option in options)
    kinds += (int,) if float in kinds else ()
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{name} is {type(value).__name__}, not {hint}")
    return value


def require_like_start(position: Any, start: Any) -> None:
    """Raises ValueError for a position of the data that has not the form of their start: counts, in the same places."""
    alike = type(position) is type(start)
    if alike and isinstance(start, dict):
        alike = position.keys() == start.keys()
        pairs = [(position[key], start[key]) for key in start] if alike else []
    elif alike and isinstance(start, list):
        alike = len(position) == len(start)
        pairs = list(zip(position, start, strict=False))
    else:
        pairs, alike = [], alike and position >= 0
    if not alike:
        raise ValueError(f"the position in the data is {position}")
    for one, other in pairs:
        require_like_start(one, other)
