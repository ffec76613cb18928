"""What hypotheses a place holds: an evaluation's or score's folder, or one hypotheses file of anybody's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from whisperq import artifact
from whisperq.artifact import Artifact
from whisperq.errors import InputError, UsageError
from whisperq.kinds import noun
from whisperq.kinds.scores import Measure, Scores
from whisperq.names import set_file

FOLDER = "hypotheses"  # of an artifact, with a file for each set
SPELLING = "normalizer.json"  # as models carry it, beside that folder
KINDS = ("evaluation", "scores")


@dataclass(frozen=True)
class Evaluation:
    """A place and the hypotheses files of its sets; what an artifact says of how they were scored."""

    path: Path
    files: Mapping[str, Path]
    normalizers: Mapping[str, str] = field(default_factory=dict)  # set -> id
    scorer: str | None = None
    measures: Mapping[str, Measure] = field(default_factory=dict)  # of each set
    version: int | None = None  # of the normalisers
    spelling: Path | None = None

    @property
    def name(self) -> str:
        return self.path.resolve().name if self.path.is_dir() else self.path.stem


def open_evaluation(place: Path) -> Evaluation:
    """Raises InputError for a place that holds no hypotheses."""
    if place.is_file():
        return Evaluation(place, {place.stem: place}, spelling=spelling_beside(place))
    if not artifact.is_artifact(place):
        raise InputError(f"{place} is neither a hypotheses file nor a finished evaluation or score")
    sealed: Artifact[Scores] = artifact.load(place)
    if sealed.kind not in KINDS:
        raise InputError(f"{place} holds {noun(sealed.kind)}, but an evaluation or score is needed here")
    if not (sets := sealed.results["sets"]):
        raise InputError(f"{place} holds no test set")
    files = {name: set_file(place / FOLDER, name, ".jsonl") for name in sets}
    normalizers = {name: r["normalizer"] for name, r in sets.items()}
    scorers = {r["scorer"] for r in sets.values()}
    measures = {name: r["measure"] for name, r in sets.items()}
    version = min((r["normalizer_version"] for r in sets.values()), default=None)
    return Evaluation(place, files, normalizers, scorers.pop(), measures, version, _there(place / SPELLING))


def spelling_beside(file: Path) -> Path | None:
    """The spelling map that an evaluation keeps for its hypotheses."""
    return _there(file.parent.parent / SPELLING) if file.parent.name == FOLDER else None


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None


def read_spelling(path: Path) -> dict[str, str]:
    """British -> American, from a model's normalizer.json or the folder that holds it. Raises InputError."""
    file = path / SPELLING if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the spelling map {file} cannot be read; name a model's {SPELLING}") from error
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise InputError(f"{file} is no spelling map, which has one spelling for each other")
    return content


def common_sets(a: Evaluation, b: Evaluation) -> dict[str, tuple[Path, Path]]:
    """The files of each set that both have; two places with one set each are one pair. Raises UsageError."""
    if len(a.files) == len(b.files) == 1:
        ((name, one),), (other,) = a.files.items(), b.files.values()
        return {name: (one, other)}
    if found := {name: (a.files[name], b.files[name]) for name in a.files if name in b.files}:
        return found
    raise UsageError(
        f"A has the sets {', '.join(a.files)} and B has {', '.join(b.files)}: none in common; "
        "evaluate both on the same test sets"
    )
