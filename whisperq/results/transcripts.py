"""Which files transcripts are made of and go to."""

import os
from collections.abc import Sequence
from pathlib import Path

from whisperq.errors import UsageError
from whisperq.results.subtitles import EXTENSIONS, ONE_RECORDING

STDIN = "-"


def output_files(files: Sequence[str], out: Path | None, format: str) -> list[Path]:
    """One file for all recordings, one for each, or none: standard output. Raises UsageError."""
    apart = format in ONE_RECORDING and len(files) > 1
    if out is None:
        if apart:
            raise UsageError(
                f"{len(files)} recordings make {len(files)} {format} files; name a folder for them with --out"
            )
        return []
    if not out.is_dir() and not apart:
        return [out]
    if out.exists() and not out.is_dir():
        raise UsageError(f"{len(files)} recordings make {len(files)} {format} files, but {out} is no folder")
    stems = ["stdin" if name == STDIN else Path(name).stem for name in files]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise UsageError(f"two recordings would both be written to {out / twice}.{EXTENSIONS[format]}; do them apart")
    return [out / f"{stem}.{EXTENSIONS[format]}" for stem in stems]


def is_stream(place: Path) -> bool:
    """Whether a pipe or a device is there, such as /dev/stdout: it takes what is written, and is never replaced."""
    return place.exists() and not place.is_file() and not place.is_dir()


def no_recording(name: str) -> str | None:
    """What a name is that can be no recording, and what to do; None of all others. It may be of any length."""
    if name != STDIN and os.path.isdir(name):
        return "a folder; name the recordings in it"
    if name != STDIN and os.path.isfile(name) and Path(name).suffix in (".jsonl", ".csv"):
        return "a list; name the recordings in it (whisperq eval and pseudo-label take lists)"
    return None


def named_once(files: Sequence[str]) -> Sequence[str]:
    if files.count(STDIN) > 1:
        raise UsageError("standard input can be read once; name - once")
    return files
