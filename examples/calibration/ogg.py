"""The number of an Ogg stream, which libsndfile draws by the clock: set, so that the same sound is the same bytes.

A page (RFC 3533): "OggS", 10 bytes, the stream's number in 4, the page's in 4, a CRC-32 in 4 over the page with
zeros in their place, the count of segments in 1, their lengths in 1 each, the segments.
"""

POLYNOMIAL = 0x04C11DB7  # highest bit first, nothing inverted: not zlib's CRC-32


def _entry(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        value = (value << 1 & 0xFFFFFFFF) ^ (POLYNOMIAL if value >> 31 else 0)
    return value


TABLE = [_entry(byte) for byte in range(256)]


def checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ TABLE[value >> 24 ^ byte]
    return value


def with_serial(stream: bytes, number: int) -> bytes:
    """The same stream under this number. Raises ValueError for bytes that are no Ogg."""
    pages, place = [], 0
    while place < len(stream):
        if stream[place : place + 4] != b"OggS":
            raise ValueError(f"no Ogg page at byte {place}")
        count = stream[place + 26]
        size = 27 + count + sum(stream[place + 27 : place + 27 + count])
        page = bytearray(stream[place : place + size])
        page[14:18], page[22:26] = number.to_bytes(4, "little"), bytes(4)
        page[22:26] = checksum(page).to_bytes(4, "little")
        pages.append(bytes(page))
        place += size
    return b"".join(pages)
