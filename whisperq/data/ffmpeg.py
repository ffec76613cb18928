"""Recordings that libsndfile does not read and an installed ffmpeg does: m4a, webm, wma and their like.

ffmpeg is told which containers it may open, so that no playlist in a recording's clothes leads it elsewhere.
"""

import errno
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from whisperq.errors import InputError

# By the bytes at a place.
SIGNATURES = (
    (4, b"ftyp", "MPEG-4 (m4a, mp4)"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska (webm, mka)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (wma)"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "True Audio"),
    (0, b"DSD ", "DSD"),
    (0, b"FLV\x01", "Flash video"),
    (8, b"AVI ", "AVI"),
)
CONTAINERS = "mov,matroska,asf,aac,amr,ac3,eac3,wv,ape,tta,dsf,flv,avi"
NO_FAULT_OF_THE_FILE = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.EIO)
TOLD_TO_STOP = 255  # ffmpeg's exit code after a signal


def kind_of(start: bytes) -> str | None:
    """Format of a file with these first bytes, if ffmpeg reads it; None for files left to libsndfile."""
    return next((name for place, magic, name in SIGNATURES if start[place:].startswith(magic)), None)


def converted(audio: str | bytes, kind: str, where: str) -> BinaryIO:
    """The first sound in it as 16 bits in an unnamed file. Raises InputError, OSError where the system failed it."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise InputError(
            f"{where} is {kind}, which is read through ffmpeg, and there is none on the PATH: install it, or convert "
            f"the file: ffmpeg -i {shlex.quote(os.path.abspath(audio)) if isinstance(audio, str) else 'IN'} OUT.wav"
        )
    spool = tempfile.TemporaryFile()
    try:
        with _named(audio) as name:
            _run(program, name, spool, where)
    except BaseException:
        spool.close()
        raise
    return spool


@contextmanager
def _named(audio: str | bytes) -> Iterator[str]:
    """Context that gives a path to the audio; bytes are written to a temporary file."""
    if isinstance(audio, str):
        yield audio
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(audio)
        file.flush()
        yield file.name


def _run(program: str, source: str, spool: BinaryIO, where: str) -> None:
    # `file:` and the whole path: neither a dash nor a colon in a name means anything then.
    path = f"file:{os.path.abspath(source)}"
    allowed = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]
    call = [program, "-nostdin", "-v", "error", "-xerror", *allowed, "-i", path]
    call += ["-map", "0:a:0", "-c:a", "pcm_s16be", "-f", "au", "pipe:1"]  # Sun's header can say: to the end
    done = subprocess.run(call, stdin=subprocess.DEVNULL, stdout=spool, stderr=subprocess.PIPE, start_new_session=True)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    number = 256 - done.returncode
    if done.returncode < 0 or done.returncode == TOLD_TO_STOP or number in NO_FAULT_OF_THE_FILE:
        number = number if number in NO_FAULT_OF_THE_FILE else errno.EINTR
        raise OSError(number, os.strerror(number))
    if done.returncode or said:  # errors alone are said, and of a file that ends too early ffmpeg makes what it can
        what = said[-1].rpartition("] ")[2].rstrip(".")[:200] if said else f"exit code {done.returncode}"
        raise InputError(f"{where} cannot be decoded (ffmpeg: {what})")
