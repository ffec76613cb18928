"""What tells models apart that would otherwise have one name: their folders' names, or where these are alike, paths."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHORT = 8  # characters of a hash


@dataclass(frozen=True)
class Named:
    """A model where it is used; of two with one title in one place one would hide the other."""

    title: Hashable
    place: Hashable  # what can be taken by one model of that title alone: a seed, a runtime
    sha256: str
    path: str


def labels_apart(found: Iterable[Named]) -> dict[str, str]:
    """sha256 -> what its title lacks, of every model whose title several have in some place."""
    titles: dict[Hashable, dict[Hashable, dict[str, str]]] = {}
    for one in found:
        titles.setdefault(one.title, {}).setdefault(one.place, {})[one.sha256] = one.path
    labels: dict[str, str] = {}
    for places in titles.values():
        if any(len(alike) > 1 for alike in places.values()):
            labels |= _labels(list(places.values()))
    return labels


def _labels(places: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The shortest that differ in every place; equal ones elsewhere stay equal, as seeds of one model do."""
    every = {sha256: path for alike in places for sha256, path in alike.items()}
    names = {sha256: Path(path).name for sha256, path in every.items()}
    for labels in (names, every):
        if all(len({labels[s] for s in alike}) == len(alike) for alike in places):
            return labels
    return {sha256: f"{path} {sha256[:SHORT]}" for sha256, path in every.items()}
