"""Transcripts written as they come: a killed command leaves those that were done."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from whisperq.data.timed_words import Transcript
from whisperq.errors import InputError
from whisperq.jobs.progress import say
from whisperq.results.subtitles import as_text, write
from whisperq.results.transcripts import is_stream

PATIENCE = 20  # times as long as writing a joint file took, nobody writes it again


@dataclass
class Scribe:
    """Takes the recordings' transcripts in their order.

    Files of their own are written at once, lines on standard output too; a joint file is written anew as it grows, and
    other formats on standard output in the end.
    """

    places: Sequence[Path]  # none: standard output
    format: str
    several: bool
    heading: Mapping[str, Any] = field(default_factory=dict)
    output: TextIO | None = None  # in the place of standard output
    done: list[Transcript] = field(default_factory=list)
    next: float = 0.0  # when a joint file may be written again
    written: int = 0  # transcripts in it

    def take(self, number: int, transcript: Transcript) -> None:
        self.done.append(transcript)
        if not self.places:
            if self.format == "text":
                print(as_text([transcript], self.several), end="", flush=True, file=self.output)
        elif len(self.places) > 1:
            write_whole(self.places[number], write(self.format, [transcript], self.heading))
            say(f"transcript: {self.places[number]}")
        elif time.monotonic() >= self.next and not is_stream(self.places[0]):
            self._write_joint()

    def close(self) -> None:
        """Write the transcripts that are not written yet."""
        if not self.done:
            return
        if not self.places and self.format != "text":
            print(write(self.format, self.done, self.heading), end="", flush=True, file=self.output)
        elif len(self.places) == 1:
            if self.written < len(self.done):
                self._write_joint()
            say(f"transcript: {self.places[0]}")

    def _write_joint(self) -> None:
        began = time.monotonic()
        if self.format == "text":
            content = as_text(self.done, self.several)
        else:
            content = write(self.format, self.done, self.heading)
        write_whole(self.places[0], content)
        self.written, now = len(self.done), time.monotonic()
        self.next = now + PATIENCE * (now - began)


def check_writable(places: Sequence[Path]) -> None:
    """Raises InputError where a file cannot be put at any of these places; makes the folders that they lie in."""
    for place in {place.parent: place for place in places if not is_stream(place)}.values():
        with _partial(place) as temporary:
            temporary.write_bytes(b"")


def write_whole(place: Path, content: str) -> None:
    """UTF-8, written beside and renamed: a file is there whole or not at all. Raises InputError."""
    if is_stream(place):
        with _reported(place):
            place.write_text(content, encoding="utf-8", newline="\n")
        return
    with _partial(place) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="\n")
        temporary.replace(place)


@contextmanager
def _partial(place: Path) -> Iterator[Path]:
    """Context with a temporary file beside `place`, removed afterwards. Raises InputError for errors of writing."""
    temporary = place.with_name(f".{place.name}.partial-{os.getpid()}")
    try:
        with _reported(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def _reported(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{place} cannot be written ({error.strerror or error}); name another --out") from error
