"""An artifact's inputs as a tree, down to what no command of ours made; what does not hold is said where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from whisperq import artifact
from whisperq.artifact import Artifact
from whisperq.config import FILE
from whisperq.errors import InputError
from whisperq.hashing import file_sha256
from whisperq.report.gathering import artifacts_below
from whisperq.results.cells import plain

DEPTH = 4  # folders between an artifact and its run folder at most: outliers/<model>/<site>


@dataclass(frozen=True)
class Neighbours:
    """The artifacts of the same run folder, which may have moved since the manifests named each other's paths."""

    root: Path | None
    own: Mapping[str, Path]  # sha256 of a manifest -> its artifact
    nested: Mapping[str, Path]  # of run folders in this one

    def place(self, entry: Mapping[str, str]) -> Path:
        """Folder of an input: the one in the same run folder where that moved or is a copy, else the recorded path."""
        recorded, digest = Path(entry["path"]), entry["sha256"]
        if digest in self.own and self.root not in recorded.parents:
            return self.own[digest]
        if artifact.is_artifact(recorded) and file_sha256(recorded / artifact.MANIFEST) == digest:
            return recorded
        return {**self.nested, **self.own}.get(digest, recorded)


def lineage_tree(sealed: Artifact) -> Tree:
    tree = Tree(_made(sealed))
    _grow(tree, sealed, neighbours(sealed.path.resolve()))
    return tree


def neighbours(path: Path) -> Neighbours:
    root = _run_folder(path)
    own: dict[str, Path] = {}
    nested: dict[str, Path] = {}
    for place in artifacts_below(root) if root else ():
        (own if _run_folder(place) == root else nested).setdefault(file_sha256(place / artifact.MANIFEST), place)
    return Neighbours(root, own, nested)


def _run_folder(path: Path) -> Path | None:
    """The nearest folder above with a configuration."""
    return next((folder for folder in path.parents[:DEPTH] if (folder / FILE).is_file()), None)


def _grow(tree: Tree, sealed: Artifact, near: Neighbours) -> None:
    for role, entry in sealed.inputs.items():
        found, state = find(role, entry, near)
        branch = tree.add(Text.assemble(plain(f"{role}: "), _named(entry, found), state))
        if found is not None:
            _grow(branch, found, near)


def find(role: str, entry: Mapping[str, str], near: Neighbours) -> tuple[Artifact | None, Text]:
    """An input as an artifact that can be followed, where it is one; and what is to be said of the link."""
    place = near.place(entry)
    try:
        if artifact.is_artifact(place):
            same = file_sha256(place / artifact.MANIFEST) == entry["sha256"]
            return (artifact.load(place, verify=False), Text()) if same else (None, _broken("has changed since"))
    except InputError:
        return None, _broken("is damaged")
    return None, _foreign(role, entry)


def _foreign(role: str, entry: Mapping[str, str]) -> Text:
    """State of an input that no whisperq command made: a model, list or recording."""
    from whisperq.report.lineage import SAID, state_of  # it reads lists, which takes longer to load

    state = state_of(role, entry["path"], entry["sha256"])
    return _broken(SAID[state]) if state in ("changed", "gone") else Text(f" ({SAID[state]})", "dim")


def _broken(what: str) -> Text:
    return Text(f" broken: it {what}", "bold red")


def _named(entry: Mapping[str, str], found: Artifact | None) -> Text:
    return plain(entry["path"]) if found is None else _made(found)


def _made(sealed: Artifact) -> Text:
    path, command = plain(str(sealed.path), "dim"), sealed.manifest["command"]
    return Text.assemble(plain(f"{sealed.kind} "), path, plain(f" by whisperq {command}"))
