"""All artifacts of some run folders, each known by the sha256 of its manifest, which is how others name it."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Generic, Literal, overload

from whisperq import artifact
from whisperq.artifact import Artifact
from whisperq.errors import InputError
from whisperq.jobs.progress import track
from whisperq.kinds.comparisons import Robustness
from whisperq.kinds.observations import Outliers, Sensitivity
from whisperq.kinds.scores import Evaluation
from whisperq.reading import Results

SKIPPED = ("report",)  # kinds that are no result of their own


@dataclass(frozen=True, eq=False)
class Entry(Generic[Results]):
    """One artifact, itself alone; `problem` says what is wrong with its own files, where something is."""

    artifact: Artifact[Results]
    sha256: str
    name: str  # its path, from the folder that holds all runs
    problem: str | None = None
    reference: Mapping[str, str] | None = None  # as a report names it

    @property
    def kind(self) -> str:
        return self.artifact.kind

    @property
    def path(self) -> Path:
        return self.artifact.path

    @property
    def results(self) -> Results:
        """Raises InputError, which names the artifact, where a key is not there."""
        return self.artifact.results

    @property
    def config(self) -> dict[str, Any]:
        return self.artifact.config

    @property
    def anchor(self) -> str:
        return f"m-{self.sha256[:12]}"

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Gathered:
    """What the runs hold, in the order of their paths."""

    entries: tuple[Entry, ...]
    unreadable: tuple[tuple[str, str], ...]  # path and reason

    @cached_property
    def by_hash(self) -> dict[str, Entry]:
        return {entry.sha256: entry for entry in self.entries}

    @cached_property
    def by_file(self) -> dict[str, list[tuple[Entry, Path]]]:
        """sha256 of a file in an artifact -> where such files lie."""
        places: dict[str, list[tuple[Entry, Path]]] = {}
        for entry in self.entries:
            for name, sha256 in entry.artifact.manifest["files"].items():
                places.setdefault(sha256, []).append((entry, entry.path / name))
        return places

    def found(self, named: Mapping[str, str]) -> tuple[Entry, Path] | None:
        """An input's artifact and its place: the artifact's folder, or the file in it that the input is.

        Of several files with that content it is the one whose path ends most like the recorded one.
        """
        if (entry := self.by_hash.get(named["sha256"])) is not None:
            return entry, entry.path
        places = self.by_file.get(named["sha256"], ())
        return max(places, key=lambda place: _common_end(place[1], Path(named["path"])), default=None)

    @overload
    def of_kind(self, kind: Literal["evaluation"], /) -> list[Entry[Evaluation]]: ...
    @overload
    def of_kind(self, kind: Literal["sensitivity"], /) -> list[Entry[Sensitivity]]: ...
    @overload
    def of_kind(self, kind: Literal["outliers"], /) -> list[Entry[Outliers]]: ...
    @overload
    def of_kind(self, kind: Literal["robustness"], /) -> list[Entry[Robustness]]: ...
    @overload
    def of_kind(self, *kinds: str) -> list[Entry[Any]]: ...
    def of_kind(self, *kinds: str) -> list[Entry[Any]]:
        return [entry for entry in self.entries if entry.kind in kinds]

    def input(self, entry: Entry, role: str) -> Entry | None:
        """The artifact that served in this role, if it is among these."""
        named = entry.artifact.inputs.get(role)
        return self.by_hash.get(named["sha256"]) if named else None

    def ancestors(self, entry: Entry) -> Iterator[Entry]:
        """The models that it was made from: evaluation -> quantized -> distilled -> student."""
        while (found := next((p for r in ("model", "student") if (p := self.input(entry, r))), None)) is not None:
            yield found
            entry = found


def _common_end(a: Path, b: Path) -> int:
    """How many parts of two paths are the same, counted from their ends."""
    pairs = zip(reversed(a.parts), reversed(b.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def gather(runs: Sequence[Path], verify: bool) -> Gathered:
    """Raises InputError for a folder that is not there or holds nothing. Each artifact comes once."""
    for run in runs:
        if not run.is_dir():
            no_folder = f"{run} is a file; name run folders, or the folder that they are in: {run.parent}"
            raise InputError(no_folder if run.exists() else f"there is no run folder {run}")
    folders = sorted({folder.resolve() for run in runs for folder in artifacts_below(run)})
    if not folders:
        raise InputError(f"{', '.join(map(str, runs))} holds no finished artifact; run whisperq init-student first")
    base = Path(os.path.commonpath([run.resolve().parent for run in runs]))
    entries: list[Entry] = []
    unreadable = []
    for folder in track(folders, len(folders), "report", "artifacts"):
        try:
            entry = read_entry(folder, base, verify)
        except InputError as error:
            unreadable.append((os.path.relpath(folder, base), str(error)))
            continue
        if entry.kind not in SKIPPED:
            entries.append(entry)
    return Gathered(once_each(entries), tuple(unreadable))


def once_each(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """One entry of each set of copies: the one whose path other artifacts recorded as their input, else the first."""
    recorded = {named["path"] for entry in entries for named in entry.artifact.inputs.values()}
    chosen: dict[str, Entry] = {}
    for entry in entries:
        first = chosen.setdefault(entry.sha256, entry)
        if str(entry.path) in recorded and str(first.path) not in recorded:
            chosen[entry.sha256] = entry
    return tuple(chosen.values())


def artifacts_below(run: Path) -> Iterable[Path]:
    """Folders of all artifacts below `run`, also in nested run folders; hidden folders of killed jobs are skipped."""
    for folder, children, files in os.walk(run):
        children[:] = sorted(c for c in children if not c.startswith("."))
        if artifact.MANIFEST in files:
            children.clear()
            yield Path(folder)


def read_entry(folder: Path, base: Path, verify: bool) -> Entry:
    """Raises InputError for a manifest that cannot be read; files that are not as it says are noted."""
    named = artifact.reference(folder, verify=False)
    sealed, problem = artifact.load(folder, verify=False), None
    if verify:
        try:
            artifact.load(folder)
        except InputError as error:
            problem = str(error)
    return Entry(sealed, named["sha256"], os.path.relpath(folder, base), problem, named)
