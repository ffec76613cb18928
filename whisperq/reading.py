"""Reading a folder sealed by its manifest: whole, of this version's schema, and of the kind that is wanted.

    load(path, "evaluation").results["sets"]

Results are of the kind's type in `whisperq.kinds`, and in today's form whichever version wrote them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast, overload

from whisperq import manifests
from whisperq.errors import InputError
from whisperq.former import todays_settings
from whisperq.hashing import file_sha256
from whisperq.kinds import in_todays_form, noun
from whisperq.kinds.comparisons import Comparison, Robustness
from whisperq.kinds.models import Distilled, Onnx, Quantized, Student
from whisperq.kinds.observations import Attention, Calibration, Outliers, PseudoLabels, Report, Sensitivity
from whisperq.kinds.scores import Evaluation, Scores
from whisperq.references import MANIFEST, stamps
from whisperq.schema import Fields, count, read_json, record, text
from whisperq.sealing import SCHEMA

ATTEMPTS = 5  # at reading a folder that others replace
PathLike = str | os.PathLike[str]
Results = TypeVar("Results", covariant=True)


@dataclass(frozen=True)
class Artifact(Generic[Results]):
    """A finished folder and what its manifest says."""

    path: Path
    manifest: dict[str, Any]

    def __fspath__(self) -> str:
        """The folder's path, so that an artifact can be used wherever Python takes a path."""
        return str(self.path)

    def __repr__(self) -> str:
        """What a notebook shows: a manifest names every site, and is pages long."""
        return f"<{self.kind} {self.path}>"

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    @property
    def config(self) -> dict[str, Any]:
        """Settings by the names that they have today."""
        return todays_settings(self.manifest["command"], self.manifest["config"])

    @property
    def inputs(self) -> dict[str, dict[str, str]]:
        return self.manifest["inputs"]

    @cached_property
    def results(self) -> Results:
        """Results in the current version's form. Raises InputError, which names the artifact, for a missing key."""
        return cast(Results, in_todays_form(self.kind, self.manifest["results"]))


def is_artifact(path: Path) -> bool:
    """False also of what this user may not look into."""
    return os.path.isfile(path / MANIFEST)


@overload
def load(path: PathLike, kind: Literal["student"], verify: bool = True) -> Artifact[Student]: ...
@overload
def load(path: PathLike, kind: Literal["distilled"], verify: bool = True) -> Artifact[Distilled]: ...
@overload
def load(path: PathLike, kind: Literal["calibration"], verify: bool = True) -> Artifact[Calibration]: ...
@overload
def load(path: PathLike, kind: Literal["quantized"], verify: bool = True) -> Artifact[Quantized]: ...
@overload
def load(path: PathLike, kind: Literal["evaluation"], verify: bool = True) -> Artifact[Evaluation]: ...
@overload
def load(path: PathLike, kind: Literal["scores"], verify: bool = True) -> Artifact[Scores]: ...
@overload
def load(path: PathLike, kind: Literal["comparison"], verify: bool = True) -> Artifact[Comparison]: ...
@overload
def load(path: PathLike, kind: Literal["sensitivity"], verify: bool = True) -> Artifact[Sensitivity]: ...
@overload
def load(path: PathLike, kind: Literal["outliers"], verify: bool = True) -> Artifact[Outliers]: ...
@overload
def load(path: PathLike, kind: Literal["attention"], verify: bool = True) -> Artifact[Attention]: ...
@overload
def load(path: PathLike, kind: Literal["onnx"], verify: bool = True) -> Artifact[Onnx]: ...
@overload
def load(path: PathLike, kind: Literal["robustness"], verify: bool = True) -> Artifact[Robustness]: ...
@overload
def load(path: PathLike, kind: Literal["report"], verify: bool = True) -> Artifact[Report]: ...
@overload
def load(path: PathLike, kind: Literal["pseudo-labels"], verify: bool = True) -> Artifact[PseudoLabels]: ...
@overload
def load(path: PathLike, kind: str | None = None, verify: bool = True) -> Artifact[Any]: ...
def load(path: PathLike, kind: str | None = None, verify: bool = True) -> Artifact[Any]:
    """Read and check an artifact.

    Raises InputError: no manifest, one that is not as whisperq.manifests says, a newer schema, another kind, a file
    that is missing or whose sha256 differs (`verify`).
    """
    path = Path(path)
    for _ in range(ATTEMPTS):
        before = stamps(path, (MANIFEST,))
        try:
            return _load(path, kind, verify)
        except (InputError, FileNotFoundError):
            if before == stamps(path, (MANIFEST,)):
                raise
    return _load(path, kind, verify)


def _load(path: Path, kind: str | None, verify: bool) -> Artifact[Any]:
    if not is_artifact(path):
        lacks = f"it has no {MANIFEST}" if path.exists() else "nothing is there"
        raise InputError(f"{path} is not a finished whisperq artifact: {lacks}")
    manifest = Fields(read_json(path / MANIFEST, _this_version), path / MANIFEST)
    found, schema = manifest["kind"], manifest["schema"]
    if schema > SCHEMA:
        raise InputError(f"{path} was written by a newer whisperq (schema {schema}, this one reads {SCHEMA})")
    if kind is not None and found != kind:
        raise InputError(f"{path} holds {noun(found)}, but {noun(kind)} is needed here")
    if verify:
        _verify(path, manifest["files"])
    return Artifact(path, manifest)


def _this_version(manifest: Any, place: str) -> None:
    """Check a manifest; of a newer version's only the schema and kind. Raises Wrong."""
    record({"schema": count(1)})(manifest, place)
    (manifests.manifest if manifest["schema"] <= SCHEMA else record({"kind": text}))(manifest, place)


def _verify(path: Path, files: Mapping[str, str]) -> None:
    for name, digest in files.items():
        file = path / name
        if not file.is_file():
            raise InputError(f"{path} lacks its file {name}; run the command that made it again with --force")
        if file_sha256(file) != digest:
            raise InputError(
                f"{file} has changed since it was written (its sha256 differs from the manifest); "
                "run the command that made it again with --force"
            )
