"""What the teacher makes of each training window, kept on disk, so that it runs once for every window and never again.

hidden: the last states of its decoder at the labelled tokens, (tokens, d_model), in the teacher's number format. Its
logits are one product of these with its vocabulary, a hundredth of a step's work, so that the loss is the whole KL, not
that of the likeliest tokens: 1,024 out of 51,864 hold 99.5 % of whisper-tiny.en's probability, in seven times the
room.

key = SHA-256 of what decides an entry: the teacher's hash, its number format, and the window's own digest
(`training.collate`: samples, tokens, log-mel settings). So other teachers have other entries in the same folder.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from whisperq.bounded_folder import BoundedFolder
from whisperq.hashing import bytes_sha256

SUFFIX = ".taught"
FORMAT = 1


class TeacherCache:
    """Entries of one teacher, at most `limit` bytes of the folder in all; several processes may share a folder."""

    def __init__(self, folder: Path, limit: float, **decides: Any) -> None:
        """decides: what an entry hangs on beside its window. Raises UsageError for a folder that takes no file."""
        self.entries = BoundedFolder(folder, limit, SUFFIX, "--teacher-cache")
        self.identity = json.dumps({"format": FORMAT, **decides}, sort_keys=True)

    @property
    def full(self) -> bool:
        """Whether an entry found no room."""
        return self.entries.full

    def get(self, window: str) -> Tensor | None:
        """The hidden states kept for a window; None where it has no entry or a damaged one."""
        body = self.entries.get(self._key(window))
        try:
            return None if body is None else load(body)["hidden"]
        except (KeyError, SafetensorError):
            return None

    def put(self, window: str, hidden: Tensor) -> None:
        """Keep a window's hidden states; does nothing where the cache or the disk is full."""
        self.entries.put(self._key(window), save({"hidden": hidden.contiguous()}))

    def _key(self, window: str) -> str:
        return bytes_sha256(f"{self.identity}\n{window}".encode())
