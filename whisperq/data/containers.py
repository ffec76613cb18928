"""How much sound a file's header promises, and whether the file has it: libsndfile takes what is there, silently.

A recorder that was killed, or wrote into a pipe, has left 0 or the greatest number there is: nobody promised
anything, and the sound goes on to the end of the file.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from whisperq.data.retries import Readable
from whisperq.errors import InputError

SLACK = 64  # bytes: some writers count their header in
CHUNKS = 1000  # as many are passed on the way to the sound
LONGEST_HEAD = 1 << 20  # bytes
OGG_PAGE = 65307  # bytes, the greatest
START_OF_STREAM, END_OF_STREAM = 2, 4  # flags of an Ogg page
GREATEST = {4: 0xFFFFFFFF, 8: (1 << 64) - 1}  # by the length's own bytes
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


@dataclass(frozen=True)
class Promise:
    """What a header states: `count` bytes of sound from byte `start` on.

    The length field is at byte `place`, has the `struct` format `format`, and counts `extra` more bytes.
    """

    start: int
    count: int
    place: int
    format: str
    extra: int = 0

    @property
    def open(self) -> bool:
        """Whether the length is one of those that stand for none: 0, or just below what the field or its half holds."""
        greatest = GREATEST[struct.calcsize(self.format)]
        stated = self.count + self.extra
        near = 1 << 16
        return self.count <= 0 or any(-near <= stated - limit <= near for limit in (greatest, greatest // 2))

    def fulfilled(self, head: bytes, there: int) -> bytes:
        """The bytes before the sound, with the length that is there; a WAV's of over 4 GiB becomes an RF64's."""
        stated = there + self.extra
        if stated > GREATEST[struct.calcsize(self.format)]:
            return _wide(head, there) if head[:4] == b"RIFF" else head
        length = struct.pack(self.format, stated)
        return head[: self.place] + length + head[self.place + len(length) :]


def checked_head(file: Readable, where: str) -> tuple[bytes, int] | None:
    """What to read in place of the file's first bytes and how many these are; None: the file can be read as it is.

    Raises InputError for a file that ends too early. Leaves the file's position anywhere.
    """
    size = file.seek(0, os.SEEK_END)
    if _at(file, 0, 4) == b"OggS":
        _check_last_page(file, size, where)
        _check_single(file, size, where)
    promise = promised(file)
    if promise is None:
        return None
    there = max(size - promise.start, 0)
    if promise.open and there and promise.start <= LONGEST_HEAD:
        file.seek(0)
        return promise.fulfilled(file.read(promise.start), there), promise.start
    if promise.count - there > SLACK:
        raise InputError(
            f"{where} is truncated: its header promises {promise.count} bytes of sound, but only {there} are there"
        )
    return None


def promised(file: Readable) -> Promise | None:
    """What the header of a WAV and its like states; None of other files. Leaves the file's position anywhere."""
    size, finder = file.seek(0, os.SEEK_END), FINDERS.get(_at(file, 0, 4))
    return finder(file, size) if finder else None


def _riff(file: Readable, size: int) -> Promise | None:
    """WAV: RIFF, RIFX and, with 64-bit lengths in a chunk of their own, RF64 and BW64."""
    head = _at(file, 0, 48)
    order = ">" if head[:4] == b"RIFX" else "<"
    found = _chunk(file, size, 12, order, b"data")
    if found is None:
        return None
    place, count = found
    if head[:4] in (b"RF64", b"BW64") and head[12:16] == b"ds64" and count == GREATEST[4]:
        return Promise(place + 8, _number("<Q", head[28:36]), 28, "<Q")
    if count == 0 and _number(f"{order}I", head[4:8]) + 8 >= size:  # empty, and its writer knew
        return None
    return Promise(place + 8, count, place + 4, f"{order}I")


def _aiff(file: Readable, size: int) -> Promise | None:
    """AIFF and AIFC, whose sound has 8 bytes of its own before it."""
    found = _chunk(file, size, 12, ">", b"SSND") if _at(file, 8, 4)[:3] == b"AIF" else None
    return found and Promise(found[0] + 16, found[1] - 8, found[0] + 4, ">I", 8)


def _au(file: Readable, size: int) -> Promise | None:
    head = _at(file, 0, 12)
    order = ">" if head[:1] == b"." else "<"
    return Promise(_number(f"{order}I", head[4:8]), _number(f"{order}I", head[8:12]), 8, f"{order}I")


def _caf(file: Readable, size: int) -> Promise | None:
    """Lengths of 64 bits; four bytes, the number of edits, stand before the sound."""
    place = 8
    for _ in range(CHUNKS):
        head = _at(file, place, 12)
        if len(head) < 12:
            return None
        count = _number(">Q", head[4:])
        if head[:4] == b"data":
            return Promise(place + 16, count - 4, place + 4, ">Q", 4)
        place += 12 + count
    return None


def _w64(file: Readable, size: int) -> Promise | None:
    """Sony's: 16 bytes of name, and lengths of 64 bits that count the chunk's head and are rounded up to 8."""
    place = 40
    for _ in range(CHUNKS):
        head = _at(file, place, 24)
        if len(head) < 24:
            return None
        count = _number("<Q", head[16:])
        if head[:16] == W64_DATA:
            return Promise(place + 24, count - 24, place + 16, "<Q", 24)
        place += max(count + 7 & ~7, 24)
    return None


def _nist(file: Readable, size: int) -> Promise | None:
    """SPHERE: lines of text, `name -type value`; a length for each channel, in samples."""
    fields = {f[0]: f[-1] for line in _at(file, 0, 1024).decode("latin-1").split("\n") if (f := line.split())}
    try:
        start = int(_at(file, 8, 8))
        factors = [int(fields[name]) for name in ("sample_count", "channel_count", "sample_n_bytes")]
    except (KeyError, ValueError):
        return None
    count = factors[0] * factors[1] * factors[2]
    return Promise(start, count, 0, "<Q") if count > 0 and "shorten" not in fields.get("sample_coding", "") else None


FINDERS: dict[bytes, Callable[[Readable, int], Promise | None]] = {
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64", b"BW64"), _riff),
    b"FORM": _aiff,
    **dict.fromkeys((b".snd", b"dns."), _au),
    b"caff": _caf,
    b"riff": _w64,
    b"NIST": _nist,
}


def _chunk(file: Readable, size: int, place: int, order: str, name: bytes) -> tuple[int, int] | None:
    """Byte where the chunk of that name begins, and the length that it states."""
    for _ in range(CHUNKS):
        head = _at(file, place, 8)
        if len(head) < 8:
            return None
        count = _number(f"{order}I", head[4:])
        if head[:4] == name:
            return place, count
        place += 8 + count + count % 2
    return None


def _check_last_page(file: Readable, size: int, where: str) -> None:
    """The last page of an Ogg file is whole and says that it is the last. Raises InputError."""
    start = max(0, size - OGG_PAGE)
    tail = _at(file, start, OGG_PAGE)
    place = tail.rfind(b"OggS\0")
    if place < 0:
        raise InputError(f"{where} is corrupt: there is no Ogg page at its end")
    lengths = tail[place + 27 : place + 27 + tail[place + 26]] if len(tail) > place + 26 else b""
    end = place + 27 + len(lengths) + sum(lengths)
    if not lengths or len(lengths) < tail[place + 26] or end > len(tail):
        raise InputError(f"{where} is truncated: it ends within an Ogg page")
    if not tail[place + 5] & END_OF_STREAM:
        raise InputError(f"{where} is truncated: its last Ogg page does not end the stream")


def _check_single(file: Readable, size: int, where: str) -> None:
    """No stream begins behind another one, as in what a radio sends: the first alone would be read. Raises InputError.

    Pages with which streams that lie beside each other begin come before all others.
    """
    place, begun = 0, False
    while place < size and (head := _at(file, place, 27 + 255))[:4] == b"OggS" and len(head) > 26:
        starts = bool(head[5] & START_OF_STREAM)
        if starts and begun:
            raise InputError(
                f"{where} holds several streams one behind the other, of which the first alone would be read; "
                "make one of them: ffmpeg -i IN OUT.wav"
            )
        begun = begun or not starts
        lengths = head[27 : 27 + head[26]]
        place += 27 + len(lengths) + sum(lengths)


def _wide(head: bytes, there: int) -> bytes:
    """A WAV's head with the 64-bit lengths of RF64: a chunk `ds64` comes first, all others say that it counts."""
    lengths = struct.pack("<QQQI", len(head) + 28 + there, there, 0, 0)
    return b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", 28) + lengths + head[12:-4] + b"\xff\xff\xff\xff"


def _at(file: Readable, place: int, count: int) -> bytes:
    if place >= 1 << 62:  # as lengths of 64 bits can claim
        return b""
    file.seek(place)
    return file.read(count)


def _number(format: str, content: bytes) -> int:
    return struct.unpack(format, content)[0] if len(content) == struct.calcsize(format) else 0
