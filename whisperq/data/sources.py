"""Several sources read as one."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whisperq.config import Source
from whisperq.data.lazy import Joined
from whisperq.data.lists import UtteranceList, read
from whisperq.data.tables import METADATA_FILES
from whisperq.data.utterance import Utterance
from whisperq.hashing import file_sha256

# What of a source decides which utterances come out of it; its name and notes do not.
DECIDING = ("limit", "weight", "text_column", "audio_column", "id_column", "speaker_column", "config", "split")


@dataclass(frozen=True)
class UtteranceGroup:
    """The lists of several sources, in the order given."""

    lists: tuple[UtteranceList, ...]

    @property
    def utterances(self) -> Sequence[Utterance]:
        """Utterances of all lists, each made when it is asked for."""
        return Joined([one.utterances for one in self.lists])

    @property
    def skipped(self) -> list[str]:
        """The origins of lines that cannot be used."""
        return [origin for one in self.lists for origin in one.skipped]

    @property
    def bad(self) -> int:
        return len(self.skipped)

    @property
    def reference(self) -> dict[str, str]:
        """How a manifest names this input: the sources, and one hash over their contents and how they are read."""
        entries = [[one.sha256, *(getattr(one.source, name) for name in DECIDING)] for one in self.lists]
        digest = hashlib.sha256(json.dumps(entries).encode())
        return {"path": ", ".join(one.source.title for one in self.lists), "sha256": digest.hexdigest()}


def read_all(sources: Sequence[Source], skip_bad: bool = False) -> UtteranceGroup:
    """Read the utterances of all sources. Raises InputError as `read` does."""
    return UtteranceGroup(tuple(read(source, skip_bad) for source in sources))


def identity(source: Source) -> str:
    """What tells two sources apart: a list's content wherever it lies, else the data set with its split."""
    place = Path(source.path or source.dataset or "").resolve()
    files = [place, *(place / name for name in METADATA_FILES)]
    table = next((f for f in files if f.is_file() and f.suffix != ".parquet"), None)
    return file_sha256(table) if table else f"{place} {source.config} {source.split}"
