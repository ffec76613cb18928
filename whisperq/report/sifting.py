"""One odd manifest is named beside the unreadable ones, and costs the report nothing else.

What a manifest may hold is more than any check foresees. So the report is made of all; where that fails, each artifact
is tried with those alone that it was made from, ancestors first, and what fails then is left out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from whisperq.errors import WhisperqError
from whisperq.jobs.progress import silence
from whisperq.report.gathering import Entry, Gathered

T = TypeVar("T")


def made_of_the_sound(
    gathered: Gathered, make: Callable[[Gathered], T], trials: Sequence[Callable[[Gathered], object]]
) -> T:
    """Result of `make` for all entries or, where that fails, for those that a trial accepts; quick trials come first.

    Raises what `make` raises where no single entry is to blame.
    """
    try:
        return make(gathered)
    except Exception:
        for trial in trials:
            with silence():
                sound = sift(gathered, trial)
            if len(sound.entries) < len(gathered.entries):
                return made_of_the_sound(sound, make, trials)
        raise


def sift(gathered: Gathered, trial: Callable[[Gathered], object]) -> Gathered:
    """Entries that `trial` accepts, each tried with the good ones it was made from; the others become unreadable."""
    sound: set[str] = set()
    odd: dict[str, str] = {}
    for entry in ancestors_first(gathered):
        alone = tuple(e for e in line(entry, gathered) if e.sha256 in sound or e is entry)
        try:
            trial(replace(gathered, entries=alone, unreadable=()))
            sound.add(entry.sha256)
        except WhisperqError as error:
            odd[entry.name] = str(error)
        except Exception as error:
            odd[entry.name] = f"its manifest or files are not as whisperq writes them ({type(error).__name__}: {error})"
    entries = tuple(e for e in gathered.entries if e.sha256 in sound)
    return Gathered(entries, (*gathered.unreadable, *odd.items()))


def ancestors_first(gathered: Gathered) -> Iterator[Entry]:
    done: set[str] = set()
    for entry in gathered.entries:
        for one in line(entry, gathered):
            if one.sha256 not in done:
                done.add(one.sha256)
                yield one


def line(entry: Entry, gathered: Gathered, below: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """The entry's ancestors, oldest first, then itself; in a circle, which only a forger can make, each once."""
    inside = below | {entry.sha256}
    for named in entry.artifact.inputs.values():
        found = gathered.found(named)
        if found is not None and found[0].sha256 not in inside:
            yield from line(found[0], gathered, inside)
    yield entry
