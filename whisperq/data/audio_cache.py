"""Decoded recordings, kept on disk, so that training waits for a decoder in its first epoch alone.

An entry holds what `load_audio` gives, bit by bit: as 16-bit integers where these say the same, as they do for what was
recorded in 16 bits and needs no resampling, else as float32.

key = SHA-256 of the encoded recording's content, of which part of it is meant, of the rate, and of the decoder's
version: a recording that was changed has another key, one that was moved has the same.
"""

import json
import os
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from whisperq.bounded_folder import BoundedFolder
from whisperq.data.audio import load_audio
from whisperq.data.retries import is_file
from whisperq.data.utterance import Utterance
from whisperq.hashing import bytes_sha256, file_sha256

SUFFIX = ".pcm"
FORMAT = 2
FULL_SCALE = 2**15
FILES = 1 << 16  # whose hashes a process remembers, for lists of segments


class AudioCache:
    """At most `limit` bytes of decoded audio; several processes may share a folder."""

    def __init__(self, folder: Path, limit: float) -> None:
        """Raises UsageError for a folder that takes no file."""
        self.entries = BoundedFolder(folder, limit, SUFFIX, "--audio-cache")
        self.told = False

    def load(self, utterance: Utterance, sampling_rate: int) -> np.ndarray:
        """What `load_audio` gives, float32 (samples,); raises what it raises, and keeps nothing then."""
        key = key_of(utterance, sampling_rate)
        if key is not None and (body := self.entries.get(key)) is not None and (found := unpacked(body)) is not None:
            return found
        audio = load_audio(utterance, sampling_rate)
        # A file that was replaced while it was decoded belongs to neither content.
        if key is not None and key == key_of(utterance, sampling_rate):
            self.entries.put(key, packed(audio))
        if self.entries.full and not self.told:
            self.told = True
            warnings.warn(
                f"--audio-cache {self.entries.folder} found no room for all recordings: the others are decoded in "
                "every epoch (--audio-cache-gib)",
                stacklevel=2,
            )
        return audio


def key_of(utterance: Utterance, sampling_rate: int) -> str | None:
    """None of what cannot be read; decoding says why."""
    if isinstance(utterance.audio, bytes):
        content = bytes_sha256(utterance.audio)
    elif is_file(utterance.audio):
        try:
            content = _content(utterance.audio, *_stamp(utterance.audio))
        except OSError:
            return None
    else:
        return None
    decides = [FORMAT, content, utterance.offset, utterance.duration, sampling_rate, soundfile.__libsndfile_version__]
    return bytes_sha256(json.dumps(decides).encode())


def _stamp(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(FILES)
def _content(path: str, *stamp: int) -> str:
    """The file's hash; stamp: what changes where the file does."""
    return file_sha256(Path(path))


def packed(audio: np.ndarray) -> bytes:
    """float32 (samples,) -> a letter for the number format, then the samples."""
    scaled = audio * FULL_SCALE
    integers = np.clip(np.rint(scaled), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")
    if np.array_equal(integers.astype(np.float32), scaled):
        return b"i" + integers.tobytes()
    return b"f" + audio.astype("<f4").tobytes()


def unpacked(body: bytes) -> np.ndarray | None:
    """None of what is in no form that this version writes."""
    size = {b"i": 2, b"f": 4}.get(body[:1])
    if size is None or (len(body) - 1) % size:
        return None
    if size == 2:
        return np.frombuffer(body, "<i2", offset=1).astype(np.float32) / FULL_SCALE
    return np.frombuffer(body, "<f4", offset=1).astype(np.float32)
