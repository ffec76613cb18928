"""Several sources read as one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from whisperq.config import Source
from whisperq.data.lists import UtteranceList, read
from whisperq.data.utterance import Utterance


@dataclass(frozen=True)
class UtteranceGroup:
    """The lists of several sources, in the order given."""

    lists: tuple[UtteranceList, ...]

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        return tuple(u for one in self.lists for u in one.utterances)

    @property
    def bad(self) -> int:
        return sum(one.bad for one in self.lists)

    @property
    def reference(self) -> dict[str, str]:
        """How a manifest names this input: the sources and one hash over their hashes."""
        digest = hashlib.sha256("\n".join(one.sha256 for one in self.lists).encode())
        return {"path": ", ".join(one.source.title for one in self.lists), "sha256": digest.hexdigest()}


def read_all(sources: Sequence[Source], skip_bad: bool = False) -> UtteranceGroup:
    """Raises InputError as `read` does."""
    return UtteranceGroup(tuple(read(source, skip_bad) for source in sources))
