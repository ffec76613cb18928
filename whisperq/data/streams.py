"""Data sets that are never downloaded whole: rows in their order, read as they are needed."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from whisperq.config import Source
from whisperq.data.hub import load, undecoded
from whisperq.data.lazy import Lazy
from whisperq.data.utterance import Utterance, reason
from whisperq.errors import InputError


class Streamed(Lazy):
    """A data set of unknown length; only training can use it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.title = source.dataset or source.path or ""
        self.data = undecoded(load(self.title, source, streaming=True), self.title, source)

    def rows(self, first: int) -> Iterator[dict[str, Any]]:
        """Rows from number `first` on; the rows before are read and skipped. Raises InputError where reading fails."""
        data = self.data if self.source.limit is None else self.data.take(self.source.limit)
        try:
            yield from data.skip(first) if first else data
        except Exception as error:  # whatever the Hub or a reader can raise
            raise InputError(f"The data set {self.title} cannot be read ({reason(error)})") from error

    @property
    def sha256(self) -> str:
        """Hash of the data set's name, columns and sizes of local files: a stream never has the content as a whole."""
        place = Path(self.title)
        files = [place] if place.is_file() else sorted(place.rglob("*.parquet"))
        sizes = [[file.name, file.stat().st_size] for file in files]
        known = ["streamed", place.name if files else self.title, self.data.column_names, sizes]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def first_without_text(self) -> None:
        """None: whether an utterance lacks its text is found out when the stream is read."""

    def __len__(self) -> int:
        self._refuse()

    def make(self, number: int) -> Utterance:
        self._refuse()

    def __iter__(self) -> Iterator[Utterance]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError(f"{self.title} is streamed, which is for training data alone; leave out `streaming`")
