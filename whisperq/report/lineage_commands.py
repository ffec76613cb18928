"""The command that made an artifact, as a line that can be typed: its inputs, and the settings that are no defaults.

Inputs in the artifact's own run folder have their names there, and --run is left to the reader; all others have their
paths. What a manifest does not tell, or no flag can say, stands behind the line as a comment of the shell.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from whisperq.declared import SETTINGS
from whisperq.report.gathering import Entry, Gathered
from whisperq.settings import Common

SHARED = ("seed", "device", "dtype")  # of the settings of every command, those that a flag can change
NAMED = {"model": "model", "compare": "compare", "student": "model"}  # role -> flag that takes a name or a path
PATHS = {"teacher": "teacher", "calibration": "calibration", "sensitivity": "sensitivity"}
LISTS = ("train", "validation", "data", "dev")
NO_FLAG = ("float", "spelling map")  # found by the command itself; --spelling is a setting
FOLDERS = ("quantized", "eval", "scores", "comparisons", "sensitivity", "robustness", "onnx", "pseudo-labels")
TOP = ("student", "distilled", "calibration")


def command_line(entry: Entry, gathered: Gathered) -> str:
    """The whisperq command that made the artifact, with a shell comment where something is not known."""
    command = entry.artifact.manifest["command"]
    words, unknown = ["whisperq", command], []
    for role, named in entry.artifact.inputs.items():
        found = gathered.found(named)
        place = found[1] if found else Path(named["path"])
        said = list(_input(entry, role, named["path"], place))
        words += said
        if not said and role not in NO_FLAG and role != "calibration":
            unknown.append(f"{role}: {named['path']}, which no flag names")
    words += flags(command, _given(entry, gathered))
    words += [] if run_root(entry.path) else ["--out", str(entry.path)]
    comment = "; ".join([*unknown, *_unsaid(entry)])
    return shlex.join(words) + (f"  # {comment}" if comment else "")


def _input(entry: Entry, role: str, recorded: str, place: Path) -> Iterator[str]:
    """The words for one input; none for the run folder's own calibration, and for what no flag can say."""
    root, (kind, _, name) = run_root(entry.path), role.partition(" ")
    if role in NAMED:
        yield from (f"--{NAMED[role]}", _short(place, root, "quantized"))
    elif role in PATHS and (root is None or place != root / "calibration"):
        yield from (f"--{PATHS[role]}", str(place))
    elif role in ("a", "b"):
        yield _short(place, root, "eval", "scores")
    elif kind == "hypotheses":
        yield f"{name}={place}"
    elif kind == "test" and place.is_absolute():
        yield from ("--test", f"{name}={place}")
    elif role in LISTS:
        yield from _lists(entry, role, recorded)


def _lists(entry: Entry, role: str, recorded: str) -> Iterator[str]:
    """Utterance lists, each a path. A single utterance is named by its list and its id; a data set has no flag."""
    if entry.kind == "attention":
        path, line, _ = recorded.partition(" line ")
        utterance = entry.artifact.results.get("utterance")
        if line and utterance and Path(path).is_absolute():
            yield from ("--test", path, "--utterance", utterance)
        elif not line and Path(path).stem == utterance:  # a recording that was named alone
            yield from ("--utterance", path)
        return
    paths = recorded.split(", ")
    flag = "test" if entry.kind == "outliers" else role
    if all(Path(path).is_absolute() for path in paths):
        yield from (word for path in paths for word in (f"--{flag}", path))


def run_root(path: Path) -> Path | None:
    """The run folder in which an artifact has its usual place; None of one that lies elsewhere."""
    if path.parent.name in FOLDERS:
        return path.parents[1]
    if path.parent.parent.name in ("outliers", "attention"):
        return path.parents[2]
    return path.parent if path.name in TOP else None


def _short(place: Path, root: Path | None, *folders: str) -> str:
    """A name in the run folder, where it is one."""
    usual = [root, *(root / folder for folder in folders)] if root else []
    return place.name if place.parent in usual else str(place)


def _given(entry: Entry, gathered: Gathered) -> dict[str, Any]:
    """The settings, less those that a command finds out itself where no flag says it."""
    config = dict(entry.config)
    if entry.kind == "comparison":
        pair = [gathered.by_hash.get(entry.artifact.inputs.get(role, {}).get("sha256", "")) for role in ("a", "b")]
        scorers = {one.config.get("scorer", "jiwer") for one in pair if one} or {"jiwer"}
        if scorers == {config.get("scorer")}:
            del config["scorer"]
    kinds = set(_normalizers(entry).values())
    if not config.get("normalizer") and len(kinds) == 1 and kinds != {"english"}:
        config["normalizer"] = kinds.pop()  # the configuration may have said so, which the flags do without
    return config


def _normalizers(entry: Entry) -> dict[str, str]:
    """Normaliser of each set, or of each list that was labelled; empty for kinds whose flags name none."""
    kinds = entry.config.get("normalizers") or {}
    if entry.kind == "pseudo-labels" and isinstance(kinds, list):
        return {f"list {number}": kind for number, kind in enumerate(kinds, 1)}
    return kinds if entry.kind in ("evaluation", "scores") else {}


def _unsaid(entry: Entry) -> Iterator[str]:
    """What the manifest tells and no flag takes, or what it does not tell."""
    kinds = _normalizers(entry)
    if not entry.config.get("normalizer") and len(set(kinds.values())) > 1:
        yield "normalizers: " + ", ".join(f"{name} {kind}" for name, kind in kinds.items())


def flags(command: str, config: Mapping[str, Any]) -> list[str]:
    """The settings that are not the command's defaults, as words."""
    words = []
    options = {f.name: f for kind in (SETTINGS.get(command), Common) if kind for f in fields(kind)}
    usual = {f.name: f.default for f in fields(Common)}
    shared = {n: config[n] for n in SHARED if n in config and config[n] != usual[n]}
    for name, value in {**unusual(command, config), **shared}.items():
        flag, off = name.replace("_", "-"), options[name].metadata["off"]
        if isinstance(value, bool):
            if value or off != "":  # what no flag turns off is off where it is not named
                words.append(f"--{flag}" if value else f"--{off or f'no-{flag}'}")
        elif isinstance(value, list):
            words += [word for each in value for word in (f"--{flag}", str(each))]
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def unusual(command: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are not the command's defaults."""
    kind = SETTINGS.get(command)
    defaults = {f.name: f.default for f in fields(kind) if f.default is not MISSING} if kind else {}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    return {name: config[name] for name in plain if name in config and config[name] not in (plain[name], [plain[name]])}
