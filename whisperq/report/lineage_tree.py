"""An artifact's inputs as a tree, down to what no command of ours made; what does not hold is said where it stands."""

from collections.abc import Mapping
from pathlib import Path

from rich.markup import escape
from rich.tree import Tree

from whisperq import artifact
from whisperq.artifact import Artifact
from whisperq.config import FILE
from whisperq.errors import InputError
from whisperq.hashing import file_sha256
from whisperq.report.gathering import artifacts_below

DEPTH = 4  # folders between an artifact and its run folder at most: outliers/<model>/<site>
Neighbours = Mapping[str, Path]  # sha256 of a manifest -> its artifact


def lineage_tree(sealed: Artifact) -> Tree:
    tree = Tree(_made(sealed))
    _grow(tree, sealed, neighbours(sealed.path.resolve()))
    return tree


def neighbours(path: Path) -> Neighbours:
    """The artifacts of the same run folder, which may have moved since the manifests named each other's paths."""
    above = [path.parent, *path.parents[1:DEPTH]]
    root = next((folder for folder in above if (folder / FILE).is_file()), None)
    return {file_sha256(p / artifact.MANIFEST): p for p in artifacts_below(root)} if root else {}


def _grow(tree: Tree, sealed: Artifact, near: Neighbours) -> None:
    for role, entry in sealed.inputs.items():
        found, state = find(role, entry, near)
        branch = tree.add(f"{escape(role)}: {_named(entry, found)}{state}")
        if found is not None:
            _grow(branch, found, near)


def find(role: str, entry: Mapping[str, str], near: Neighbours) -> tuple[Artifact | None, str]:
    """An input as an artifact that can be followed, where it is one; and what is to be said of the link."""
    place = near.get(entry["sha256"], Path(entry["path"]))
    try:
        if artifact.is_artifact(place):
            same = file_sha256(place / artifact.MANIFEST) == entry["sha256"]
            return (artifact.load(place, verify=False), "") if same else (None, _broken("has changed since"))
    except InputError:
        return None, _broken("is damaged")
    return None, _foreign(role, entry)


def _foreign(role: str, entry: Mapping[str, str]) -> str:
    """Of a model, list or recording that no command of ours made."""
    from whisperq.report.lineage import SAID, state_of  # it reads lists, which takes longer to load

    state = state_of(role, entry["path"], entry["sha256"])
    return _broken(SAID[state]) if state in ("changed", "gone") else f" [dim]({SAID[state]})[/dim]"


def _broken(what: str) -> str:
    return f" [bold red]broken: it {what}[/bold red]"


def _named(entry: Mapping[str, str], found: Artifact | None) -> str:
    return escape(entry["path"]) if found is None else _made(found)


def _made(sealed: Artifact) -> str:
    return f"{sealed.kind} [dim]{escape(str(sealed.path))}[/dim] by whisperq {escape(sealed.manifest['command'])}"
