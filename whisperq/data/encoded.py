"""A recording's bytes as libsndfile asks for them."""

import io
import os
from typing import Any

from whisperq.data.containers import checked_head
from whisperq.data.retries import Readable

MORE = 64  # times: of an MP3 the greatest bit rate is 40 times the least
TAG = 128  # bytes: ID3v1, at the end of an MP3


class Encoded(io.RawIOBase):
    """A file or memory, behind another head where its own is wrong. Raises InputError where its end is missing.

    libsndfile calls `readinto` from C, where no exception gets through: it waits in `fault`.
    """

    def __init__(self, file: Readable, where: str) -> None:
        super().__init__()
        self.file, self.place = file, 0
        self.head, self.skipped = checked_head(file, where) or (b"", 0)
        self.size = file.seek(0, os.SEEK_END) + len(self.head) - self.skipped
        self.blank = self.size  # from this place on there are zeros
        self.fault: BaseException | None = None

    def restart(self, beginning: tuple[bytes, int] | None) -> None:
        """Begin anew; with `beginning`, bytes in place of so many of the file's, nothing tells the end before it comes.

        Then a size is claimed that no guess falls short of. At its end are the bytes of a tag, and they say nothing.
        """
        self.place = 0
        if beginning:
            self.head, self.skipped = beginning
            self.blank = self.size * MORE
            self.size = self.blank + TAG

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any, /) -> int:
        try:
            content = self.head[self.place : self.place + len(buffer)] or self._behind_head(len(buffer))
        except BaseException as error:  # a KeyboardInterrupt too
            self.fault, content = error, b""
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)

    def _behind_head(self, count: int) -> bytes:
        if self.place >= self.blank:
            return bytes(max(0, min(count, self.size - self.place)))
        self.file.seek(self.place - len(self.head) + self.skipped)
        return self.file.read(count)

    def close(self) -> None:
        self.file.close()
        super().close()
