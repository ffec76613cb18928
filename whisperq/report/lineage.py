"""Where a number comes from: an artifact's inputs as they are now, and whether the chain up to it holds.

An input is whole where an artifact with the hash that was written down, or a file of one, is among the gathered ones,
or what lies at its path still has that hash. It is changed where something else lies there, gone where nothing does,
unchecked where its hash cannot be had anew: recordings and data sets. An utterance list's hash holds how it was read
(limits, columns), which no path tells: where the usual reading gives another hash it is unlike, which proves nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.lists import UtteranceList
from whisperq.data.sources import UtteranceGroup
from whisperq.data.tables import METADATA_FILES
from whisperq.errors import InputError
from whisperq.hashing import file_sha256
from whisperq.report.gathering import Entry, Gathered

State = Literal["whole", "changed", "gone", "unlike", "unchecked"]
SAID = {
    "whole": "as it was",
    "changed": "has changed since",
    "gone": "is gone",
    "unlike": "has changed, or was read with options of its own",
    "unchecked": "not checked",
}
DATA_ROLES = ("data", "dev", "train", "validation", "test")


@dataclass(frozen=True)
class Link:
    """One input of an artifact."""

    role: str
    path: str
    sha256: str
    state: State
    entry: Entry | None  # where it is among the gathered


class Lineage:
    """Inputs of gathered artifacts, each looked at once."""

    def __init__(self, gathered: Gathered) -> None:
        self.gathered = gathered
        self._state = cache(state_of)  # many artifacts share a list or a model
        self._links = {e.sha256: tuple(self._look(e)) for e in gathered.entries}
        self._breaks = {e.sha256: tuple(self._find_breaks(e)) for e in gathered.entries}

    def links(self, entry: Entry) -> tuple[Link, ...]:
        return self._links[entry.sha256]

    def breaks(self, entry: Entry) -> tuple[str, ...]:
        """What is broken in the chain that leads to this artifact, its own files first; empty where it holds."""
        return self._breaks[entry.sha256]

    def _look(self, entry: Entry) -> Iterator[Link]:
        for role, named in entry.artifact.inputs.items():
            found = self.gathered.found(named)
            there: State = "whole" if found else self._state(role, named["path"], named["sha256"])
            yield Link(role, named["path"], named["sha256"], there, found[0] if found else None)

    def _find_breaks(self, entry: Entry, seen: frozenset[str] = frozenset()) -> Iterator[str]:
        if entry.sha256 in seen:
            return
        if entry.problem:
            yield f"{entry.name}: {entry.problem}"
        for link in self.links(entry):
            if link.state in ("changed", "gone"):
                yield f"{entry.name}: its {link.role} {link.path} {SAID[link.state]}"
            if link.entry:
                yield from self._find_breaks(link.entry, seen | {entry.sha256})


def state_of(role: str, path: str, sha256: str) -> State:
    """State of an input: what is at its path now, or at the several paths of data."""
    if role.split()[0] in DATA_ROLES:
        places = [Path(part) for part in path.split(", ")]
        if not all(place.exists() for place in places):  # a line of a list, or a data set of the Hub, has no path
            return "gone" if places[0].is_absolute() and " line " not in path else "unchecked"
        known = list_hash(places)
        return "unchecked" if known is None else "whole" if known == sha256 else "unlike"
    if not Path(path).exists():
        return "gone"
    return "whole" if present_hash(Path(path)) == sha256 else "changed"


def present_hash(place: Path) -> str | None:
    """A model's or file's; None where it cannot be read any more."""
    try:
        return artifact.reference(place)["sha256"]
    except (InputError, OSError):
        return None


def list_hash(places: Sequence[Path]) -> str | None:
    """Utterance lists' that are read as they are, without a limit, a weight or columns; None of what is no list."""
    lists = []
    for place in places:
        file = next((f for f in (place, *(place / name for name in METADATA_FILES)) if f.is_file()), None)
        if file is None or file.suffix == ".parquet":
            return None
        lists.append(UtteranceList(Source(path=str(place)), (), (), file_sha256(file)))
    return UtteranceGroup(tuple(lists)).reference["sha256"]
