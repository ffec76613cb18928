"""What lines without an id are called, and that no id is there twice; of a million lines only hashes are held.

A line's default id is its file's stem, and no more than it takes to tell lines apart: files of one stem in different
folders keep their whole path, lines of one file get their offset in seconds behind it.
"""

import os
from array import array
from functools import lru_cache
from typing import Any

import numpy as np

from whisperq.data.lazy import Indexed
from whisperq.data.utterance import second_use
from whisperq.errors import InputError

WHOLE_PATH, WITH_OFFSET = 1, 2  # of a naming, which is their sum


def default_id(file: str, offset: Any, naming: int) -> str:
    name = file if naming & WHOLE_PATH else _stem(file)
    return f"{name}-{offset or 0}" if naming & WITH_OFFSET else name


@lru_cache(maxsize=1024)
def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file.replace("\\", "/")))[0]


class Names:
    """Which default ids the lines need, known only when all are seen: until then a hash of each that may be."""

    def __init__(self) -> None:
        self.files, self.stems = array("q"), array("q")  # of all lines, unusable ones too
        self.rows = array("q")  # of the usable ones among them
        self.candidates = [array("q") for _ in range(4)]  # by naming, as `default_id` makes them
        self.file = self.stem = ""

    def see(self, file: str) -> None:
        self.file, self.stem = file, _stem(file)
        self.files.append(hash(self.file))
        self.stems.append(hash(self.stem))

    def use(self, name: str, offset: Any) -> None:
        """The line seen last is usable; an empty name is to be the default."""
        self.rows.append(len(self.files) - 1)
        file, stem, offset = self.file, self.stem, offset or 0
        names = [name] * 4 if name else [stem, file, f"{stem}-{offset}", f"{file}-{offset}"]
        for candidates, candidate in zip(self.candidates, names, strict=True):
            candidates.append(hash(candidate))

    def resolve(self) -> tuple[np.ndarray, np.ndarray]:
        """For each usable line, how its default id is formed (naming), and the hash of its id."""
        _, first, file, lines_of_file = np.unique(
            np.asarray(self.files), return_index=True, return_inverse=True, return_counts=True
        )
        _, stem, files_of_stem = np.unique(np.asarray(self.stems)[first], return_inverse=True, return_counts=True)
        rows = np.asarray(self.rows)
        naming_of_file = WHOLE_PATH * (files_of_stem[stem] > 1) + WITH_OFFSET * (lines_of_file > 1)
        naming = naming_of_file[file][rows].astype(np.uint8)
        return naming, np.choose(naming, [np.asarray(c) for c in self.candidates])


def without_second_uses(utterances: Indexed, hashes: np.ndarray, skip_bad: bool) -> np.ndarray:
    """The rows, in order, whose id no earlier row has; raises InputError for another, unless it may be skipped."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    rows = np.arange(len(hashes))
    second = []
    for row in np.flatnonzero(first[inverse] != rows).tolist():
        one, other = utterances[int(first[inverse[row]])], utterances[row]
        if one.id != other.id:  # their hashes alone are equal
            continue
        if not skip_bad:
            raise InputError(second_use(other, one))
        second.append(row)
    return np.delete(rows, second)


def left_out(count: int, kept: np.ndarray) -> list[int]:
    """The rows of `count` that were not kept."""
    return np.delete(np.arange(count), kept).tolist()
