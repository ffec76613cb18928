"""Whether an MP3 says how long it is, and whether that is all of it: libsndfile takes what is said, or guesses.

Encoders leave an information frame at the beginning, with the number of frames and of bytes. Streams, and what was cut
out of a longer file, have none: a length is guessed from the first frame then, which of a varying bit rate is anything.
Files that were put behind one another have the first one's. In a WAV all is guessed. These are read to the end.
"""

import os
import struct

from whisperq.data.containers import promised
from whisperq.data.retries import Readable

NAMES = (b"Xing", b"Info")
PLACES = (13, 21, 36)  # bytes of a frame before the name, by version and channels
REACH = 4096  # bytes behind the tag of titles in which the first frame begins
FRAMES, BYTES = 1, 2  # flags: what the information holds


def open_beginning(file: Readable) -> tuple[bytes, int] | None:
    """What to read in place of how many of the file's first bytes, so that it is read to its end.

    None: its length is right. Leaves the file's position anywhere.
    """
    if promise := promised(file):
        return b"", promise.start
    start = _behind_titles(file)
    head = _at(file, start, REACH)
    place = min((at for name in NAMES if (at := head.find(name)) >= 0), default=None)
    if place is None:
        return None if b"VBRI" in head else (b"", 0)
    flags, frames, count = struct.unpack(">III", head[place + 4 : place + 16].ljust(12, b"\0"))
    if flags & FRAMES and frames:
        first = next((place - n for n in PLACES if n <= place and _begins(head[place - n :])), None)
        if first is None or not flags & BYTES or not _begins(_at(file, start + first + count, 4)):
            return None
    # Without its name it is a frame of silence.
    return head[:place] + bytes(4), start + place + 4


def _begins(content: bytes) -> bool:
    """Whether a frame of layer III begins there, or a tag of titles, behind which one does."""
    return content[:3] == b"ID3" or (content[:1] == b"\xff" and content[1:2] != b"" and content[1] & 0xE6 == 0xE2)


def _behind_titles(file: Readable) -> int:
    """Where the tag of titles and pictures, ID3v2, ends; its length is four times seven bits."""
    head = _at(file, 0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum(byte % 128 << 7 * i for i, byte in enumerate(reversed(head[6:])))


def _at(file: Readable, place: int, count: int) -> bytes:
    file.seek(place, os.SEEK_SET)
    return file.read(count)
