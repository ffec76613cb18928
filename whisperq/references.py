"""Inputs as manifests name them, and whether they still are what was named when all of them is read.

A shared lock would not do: network file systems know none, and a model of somebody else's takes no lock of ours.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from whisperq.errors import InputError, Interrupted

MANIFEST = "manifest.json"
Stamps = dict[str, tuple[int, ...]]


class Reference(dict[str, str]):
    """How a manifest names an input: its path and the sha256 of its manifest, or of its content."""

    def __init__(self, place: Path, files: Stamps, hashed: Callable[[Path], str]) -> None:
        """files: the stamps of all that `hashed` reads, taken before it does."""
        super().__init__(path=str(place.resolve()), sha256=hashed(place))
        self.place = place.absolute()  # as it was named: a link may come to name another
        self.files, self.hashed = files, hashed

    def holds(self) -> bool:
        """Whether what lies there still is what was named, and has been all the time."""
        now = stamps(self.place, self.files)
        if now == self.files:
            return True
        try:
            same = str(self.place.resolve()) == self["path"] and self.hashed(self.place) == self["sha256"]
        except (InputError, OSError):
            return False
        written = [files.get(MANIFEST, (0,))[0] for files in (now, self.files)]
        return same and written[0] == written[1]  # another in between, and then the first again, were both written anew


def stamps(path: Path, names: Iterable[str]) -> Stamps:
    """File name -> modification time (ns), size, and time of the last status change (ns); absent files are left out."""
    found: Stamps = {}
    for name in names:
        with suppress(OSError):
            stat = (path / name).stat()
            found[name] = (stat.st_mtime_ns, stat.st_size, stat.st_ctime_ns)
    return found


def all_read(inputs: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The inputs, of which nothing will be read any more. Raises Interrupted where one was replaced meanwhile."""
    for role, entry in inputs.items():
        if isinstance(entry, Reference) and not entry.holds():
            raise Interrupted(
                f"the {role} input {entry.place} was replaced while this command read it; run the same command again"
            )
    return {role: dict(entry) for role, entry in inputs.items()}


@contextmanager
def blaming(inputs: Mapping[str, Any]) -> Iterator[None]:
    """An error inside that comes of an input which was replaced says so."""
    try:
        yield
    except Interrupted:
        raise
    except Exception:
        all_read(inputs)
        raise
