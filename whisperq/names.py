"""Text from outside, such as names of sets and models, where it is shown and where it names a file.

What moves a cursor, changes the direction of writing or cannot be seen is shown as its escape, as Python writes it.
"""

import re
import unicodedata
from pathlib import Path

from whisperq.hashing import bytes_sha256

LONGEST = 80  # bytes of a file's name, which may get an extension, and a hidden sibling while it is written
JOINERS = "\u200c\u200d"  # of letters, in Persian and Sinhala, and of emoji
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format, half of a pair, separators of lines and paragraphs


def printable(text: str) -> str:
    """One line, however it is shown: 'a\\nb' for a newline in it, '\\x1b[31m' for what would turn it red."""
    return "".join(_seen(c) for c in text) if not (text.isascii() and text.isprintable()) else text


def _seen(character: str) -> str:
    hidden = unicodedata.category(character) in UNSEEN and character not in JOINERS
    return character.encode("unicode_escape").decode() if hidden else character


def file_name(text: str) -> str:
    """Letters, digits and ._+- of a name, at most so many bytes; with a hash of all of it where that is another."""
    name = "".join(c if c.isalnum() or c in "._+-" or _is_mark(c) else "-" for c in unicodedata.normalize("NFC", text))
    name = re.sub("-{2,}", "-", name).strip(".-") if name != text or name[:1] in (".", "-", "") else name
    if name and name == text and len(name.encode()) <= LONGEST:
        return name
    digest = bytes_sha256(text.encode("utf-8", "surrogatepass"))[:8]
    start = name.encode()[: LONGEST - 9].decode("utf-8", "ignore").rstrip(".-")
    return f"{start}-{digest}" if start else f"set-{digest}"


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def set_file(folder: Path, name: str, extension: str) -> Path:
    """A test set's file; earlier versions wrote it under the set's own name."""
    own = folder / f"{file_name(name)}{extension}"
    if own.exists() or Path(name).name != name:
        return own
    earlier = folder / f"{name}{extension}"
    return earlier if earlier.exists() else own
