"""A table's lines as they stand in its file, each with the place to find it again; read once, never held."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple
from zlib import crc32

from whisperq.data.retries import patiently
from whisperq.data.utterance import reason
from whisperq.disk import is_pointer
from whisperq.errors import InputError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # its byte order marks


class Line(NamedTuple):
    """One line of JSON or one row of CSV."""

    place: int  # byte
    length: int  # bytes
    number: int  # of its last line in the file, the first is 1
    check: int  # CRC-32 of the bytes
    fields: dict[str, Any]
    problem: str | None = None  # what keeps it from having fields


class TableFile:
    """A JSON lines or CSV file. Raises InputError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path, self.is_csv = path, path.suffix == ".csv"
        self.header: list[str] = []
        self.size: int | None = None
        self._file: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def lines(self, digest: Any) -> Iterator[Line]:
        """All lines but the empty ones; `digest` is updated with every byte."""
        try:
            with open(self.path, "rb") as file:
                if is_pointer(file.peek(64)):
                    raise InputError(f"{self.path} is a pointer of Git LFS, not the list itself: run `git lfs pull`")
                tracked = _Tracked(file, digest)
                yield from self._csv(tracked) if self.is_csv else self._json(tracked)
                self.size = tracked.end
        except UnicodeDecodeError as error:
            known = "UTF-16" if error.object.startswith(UTF_16) else "ISO-8859-1"
            raise InputError(
                f"{self.path}, line {tracked.number}, is not UTF-8 ({reason(error)}); if it is {known}, convert it: "
                f"iconv -f {known} -t UTF-8 {quote(str(self.path))} > NEW"
            ) from error
        except (OSError, csv.Error) as error:
            raise InputError(f"The utterance list {self.path} cannot be read ({reason(error)})") from error

    def again(self, place: int, length: int, check: int) -> dict[str, Any]:
        """The fields of a line that was good before.

        Raises InputError for a file that is another by now or gone, ReadError where reading it fails.
        """
        raw = patiently(lambda: self._bytes(place, length), f"the utterance list {self.path}")
        if crc32(raw) != check:
            raise self._changed()
        text = raw.decode("utf-8")
        return self._fields(next(csv.reader([text]))) if self.is_csv else json.loads(text)

    def _bytes(self, place: int, length: int) -> bytes:
        if self._file is None:
            try:
                file = open(self.path, "rb", buffering=0)
            except FileNotFoundError as error:
                raise InputError(f"The utterance list {self.path} cannot be read ({reason(error)})") from error
            if os.fstat(file.fileno()).st_size != self.size:
                raise self._changed()
            self._file = file
        try:
            return os.pread(self._file.fileno(), length, place)  # no position that forked processes would share
        except OSError:
            self._file = None  # closed with its last reference; opened anew by the next try
            raise

    def _changed(self) -> InputError:
        return InputError(f"The utterance list {self.path} has changed since it was first read; run the command again")

    def _json(self, tracked: "_Tracked") -> Iterator[Line]:
        for text in tracked:
            if text.isspace() or not text:
                continue
            where = (tracked.start, tracked.end - tracked.start, tracked.number, tracked.check)
            try:
                fields = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield Line(*where, {}, f"is not JSON ({reason(error)})")
                continue
            if isinstance(fields, dict):
                yield Line(*where, fields)
            else:
                yield Line(*where, {}, "is not a JSON object")

    def _csv(self, tracked: "_Tracked") -> Iterator[Line]:
        reader = csv.reader(tracked)
        self.header = next(reader, [])
        start = tracked.end
        for row in reader:  # of several lines where a quoted field has some
            if row:
                length = tracked.end - start
                check = tracked.check if start == tracked.start else crc32(tracked.bytes_from(start))
                yield Line(start, length, tracked.number, check, self._fields(row))
            start = tracked.end

    def _fields(self, row: list[str]) -> dict[str, Any]:
        return {**dict.fromkeys(self.header), **dict(zip(self.header, row, strict=False))}


class _Tracked:
    """A binary file's lines as text, with the bytes of the present one: start, end, number and CRC-32."""

    def __init__(self, file: Any, digest: Any) -> None:
        self.file, self.digest = file, digest
        self.start = self.end = self.number = self.check = 0

    def __iter__(self) -> Iterator[str]:
        # By bytes, at \n alone: splitlines() also breaks at U+2028, which JSON allows inside a string.
        for raw in self.file:
            self.digest.update(raw)
            self.start, self.end = self.end, self.end + len(raw)
            self.number += 1
            if self.start == 0 and raw.startswith(BYTE_ORDER_MARK):
                self.start, raw = len(BYTE_ORDER_MARK), raw[len(BYTE_ORDER_MARK) :]
            self.check = crc32(raw)
            yield raw.decode("utf-8")

    def bytes_from(self, start: int) -> bytes:
        return os.pread(self.file.fileno(), self.end - start, start)
