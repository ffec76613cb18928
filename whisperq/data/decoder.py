"""An encoded recording as blocks of samples: never more of it in memory, whatever its header claims."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import soundfile
import soxr

from whisperq.data.encoded import Encoded
from whisperq.data.ffmpeg import converted, kind_of
from whisperq.data.mp3 import open_beginning
from whisperq.data.retries import PatientFile, Readable, is_file, patiently
from whisperq.data.utterance import Utterance
from whisperq.disk import is_pointer
from whisperq.errors import InputError

STANDARD_INPUT = "standard input"  # the origin of what was read there
BLOCK = 1 << 17  # samples of all channels that are decoded at once
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz
DURATION_TOLERANCE = 0.05  # seconds by which a list's rounded duration may miss the file's end
DURATION_WARNING = 0.5  # seconds missing at which a list and its file cannot both be right
ESTIMATED = {"MP3": 0.1, "OGG": 0.1}  # seconds by which a length may miss that no header states
SYSTEM_ERROR = 2  # libsndfile's
UNKNOWN = (1 << 63) - 1  # libsndfile's number of frames where the header of a FLAC stream has none


class Piped(soundfile.SoundFile):
    """Read forwards alone, to the end: its length is unknown.

    In such a stream of FLAC libsndfile seeks until it comes to the end, and fails.
    """

    def seekable(self) -> bool:
        return False


class Sound:
    """Blocks (frames, channels), float32, of an utterance's part of its file, anew each time it is gone through.

    The part begins at frame `start` and has `count`, of `frames` at `rate` Hz that the header gives the file. Raises
    InputError for audio that is missing, undecodable, truncated, empty or of an absurd rate, ReadError where reading
    fails.
    """

    def __init__(self, utterance: Utterance) -> None:
        self.audio, self.where = utterance.audio, place_of(utterance)
        self._file: soundfile.SoundFile | None = None
        self._encoded: Encoded | None = None
        self._place = 0  # the frame that is read next
        file = patiently(self._open, self.where)
        self.rate, self.frames, self.channels, self.format = file.samplerate, file.frames, file.channels, file.format
        if isinstance(file, Piped):
            self.frames = self._counted()
        self.start, self.count = _part(utterance, self.frames, self.rate, self.where)

    def __iter__(self) -> Iterator[np.ndarray]:
        place, end = self.start, self.start + self.count
        while place < end:
            block = patiently(partial(self._read, place, min(end - place, max(1, BLOCK // self.channels))), self.where)
            if not len(block):
                break
            place += len(block)
            yield block
        if end - place > ESTIMATED.get(self.format, 0) * self.rate:
            there, wanted = place - self.start, self.count
            raise InputError(f"{self.where} is truncated: it holds {there} of {wanted} samples")

    def __enter__(self) -> "Sound":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._encoded is not None:
            self._encoded.close()
        self._file = self._encoded = None

    def _open(self) -> soundfile.SoundFile:
        with self._faults():
            encoded = self._encoded = _encoded(self.audio, self.where)
            file = self._file = soundfile.SoundFile(encoded)
            self._place = 0
            beginning = open_beginning(encoded.file) if file.subtype.startswith("MPEG") else None
            if file.frames == UNKNOWN or beginning:
                file.close()
                encoded.restart(beginning)
                file = self._file = Piped(encoded)
        if not LOWEST_RATE <= (rate := file.samplerate) <= HIGHEST_RATE:
            self.close()
            raise InputError(
                f"{self.where} has a sampling rate of {rate} Hz; from {LOWEST_RATE} to {HIGHEST_RATE} Hz are read"
            )
        return file

    def _read(self, place: int, count: int) -> np.ndarray:
        file = self._open() if self._file is None else self._file
        with self._faults():
            if self._place != place:
                file = self._gone_to(file, place)
            return self._next(file, count)

    def _counted(self) -> int:
        """The frames that there are, by decoding them all."""
        place = 0
        while passed := len(patiently(partial(self._read, place, max(1, BLOCK // self.channels)), self.where)):
            place += passed
        return place

    def _next(self, file: soundfile.SoundFile, count: int) -> np.ndarray:
        block = file.read(count, dtype="float32", always_2d=True)
        self._place += len(block)
        return block

    def _gone_to(self, file: soundfile.SoundFile, place: int) -> soundfile.SoundFile:
        """The file at frame `place`; a format that cannot seek, such as GSM 6.10, is decoded up to there."""
        if file.seekable():
            self._place = file.seek(place)
            return file
        if place < self._place:
            self.close()
            file = self._open()
        while self._place < place and len(self._next(file, min(place - self._place, max(1, BLOCK // self.channels)))):
            pass
        return file

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Errors as what they are: the file's, an InputError; the system's, as raised. All is closed after each."""
        try:
            yield
            if self._encoded is not None and self._encoded.fault:
                raise self._encoded.fault
        except BaseException as error:
            fault = self._encoded and self._encoded.fault
            self.close()
            if fault or getattr(error, "code", None) == SYSTEM_ERROR:
                raise (fault or OSError(str(error))) from error
            # ValueError: a header that claims an absurd length; TypeError: headerless .raw
            if isinstance(error, (soundfile.SoundFileError, ValueError, TypeError)):
                detail = getattr(error, "error_string", "") or str(error)
                raise InputError(f"{self.where} cannot be decoded ({detail.strip().rstrip('.')})") from error
            raise


def _encoded(audio: str | bytes, where: str) -> Encoded:
    if not isinstance(audio, bytes) and not is_file(audio):
        raise InputError(f"{where} does not exist")
    file: Readable = io.BytesIO(audio) if isinstance(audio, bytes) else PatientFile(audio, where)
    try:
        start = file.read(64)
        if is_pointer(start):
            raise InputError(f"{where} is a pointer of Git LFS, not the file itself: run `git lfs pull`")
        if kind := kind_of(start):
            file.close()
            file = converted(audio, kind, where)
        return Encoded(file, where)
    except BaseException:
        file.close()
        raise


def _part(utterance: Utterance, frames: int, rate: int, where: str) -> tuple[int, int]:
    """First frame and number of frames of the utterance in a file of `frames` at `rate` Hz."""
    if frames == 0:
        raise InputError(f"{where} holds no sample")
    start = round(utterance.offset * rate)
    rest = frames - start
    if rest <= 0:
        raise InputError(f"{where} ends at {frames / rate:.2f} s, before the offset {utterance.offset:.2f} s")
    if utterance.duration is None:
        return start, rest
    wanted = round(utterance.duration * rate)
    if wanted - rest > DURATION_WARNING * rate:
        warnings.warn(
            f"{where} holds {rest / rate:.2f} s of the {utterance.duration:.2f} s listed",
            stacklevel=4,
        )
    whole_file = start == 0 and rest - wanted <= DURATION_TOLERANCE * rate
    return start, rest if whole_file else min(wanted, rest)


def place_of(utterance: Utterance) -> str:
    """Where the utterance's audio is, as text for error messages."""
    if isinstance(utterance.audio, bytes):  # the origin names what file name there is
        alone = utterance.origin in (STANDARD_INPUT, utterance.id)  # or a pipe: embedded in nothing
        return utterance.origin if alone else f"{utterance.origin}: the embedded audio"
    if utterance.origin in ("", utterance.audio):  # named alone, in no list
        return f"the audio file {utterance.audio}"
    return f"{utterance.origin}: the audio file {utterance.audio}"


class Resampler:
    """Blocks (samples,) from one rate to another, as one long array would be."""

    def __init__(self, before: int, after: int) -> None:
        self._stream = soxr.ResampleStream(before, after, 1, dtype="float32", quality="HQ") if before != after else None

    def __call__(self, block: np.ndarray) -> np.ndarray:
        block = np.ascontiguousarray(block, dtype=np.float32)
        return block if self._stream is None else self._stream.resample_chunk(block)

    def rest(self) -> np.ndarray:
        """The last output samples, to be asked for after the last block."""
        nothing = np.zeros(0, np.float32)
        return nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True)
