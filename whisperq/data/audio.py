"""Audio files as float32 mono samples, and long recordings cut where nobody speaks."""

import io
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import soundfile
import soxr

from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError

DURATION_TOLERANCE = 0.05  # seconds by which a list's rounded duration may miss the file's end
TRUNCATION_TOLERANCE = 0.1  # seconds: an MP3 without an index only estimates its length
DURATION_WARNING = 0.5  # seconds missing at which a list and its file cannot both be right
ENERGY_HOP = 0.01  # seconds
SILENCE = 1e-10  # mean square, 100 dB below full scale
STANDARD_INPUT = "standard input"  # the origin of what was read there
PAUSE = 0.2  # seconds of averaging: longer than the closure of a plosive, as long as a pause


def load_audio(utterance: Utterance, sampling_rate: int) -> np.ndarray:
    """The utterance as float32 mono, (samples,), at `sampling_rate` Hz.

    `offset` and `duration` (seconds) select a segment of the file where they mean
    one. Raises InputError for audio that is missing, undecodable, truncated, empty
    or not finite.
    """
    samples, file_rate = _decode(utterance)
    audio = samples.mean(axis=1)
    if not np.isfinite(audio).all():
        raise InputError(f"{_where(utterance)} holds samples that are not finite")
    if file_rate != sampling_rate:
        audio = soxr.resample(audio, file_rate, sampling_rate, quality="HQ")
    if not len(audio):
        raise InputError(f"{_where(utterance)} holds no sample")
    return np.ascontiguousarray(audio, dtype=np.float32)


def audio_seconds(utterance: Utterance) -> float:
    """The utterance's length as its file's header gives it. Raises InputError as `load_audio` does."""
    with _opened(utterance) as file:
        return _segment(utterance, file.frames, file.samplerate)[1] / file.samplerate


def _where(utterance: Utterance) -> str:
    if isinstance(utterance.audio, bytes):  # the origin names what file name there is
        alone = utterance.origin in (STANDARD_INPUT, utterance.id)  # or a pipe: embedded in nothing
        return utterance.origin if alone else f"{utterance.origin}: the embedded audio"
    if utterance.origin in ("", utterance.audio):  # named alone, in no list
        return f"the audio file {utterance.audio}"
    return f"{utterance.origin}: the audio file {utterance.audio}"


def _decode(utterance: Utterance) -> tuple[np.ndarray, int]:
    """The segment's samples (frames, channels) and the file's own rate in Hz."""
    with _opened(utterance) as file:
        start, count = _segment(utterance, file.frames, file.samplerate)
        if start:
            file.seek(start)
        samples = file.read(count, dtype="float32", always_2d=True)
        rate = file.samplerate
    if count - len(samples) > TRUNCATION_TOLERANCE * rate:
        raise InputError(f"{_where(utterance)} is truncated: it holds {len(samples)} of {count} samples")
    return samples, rate


@contextmanager
def _opened(utterance: Utterance) -> Iterator[soundfile.SoundFile]:
    """The utterance's file for reading; raises InputError for what goes wrong with it in the meantime."""
    where, audio = _where(utterance), utterance.audio
    if isinstance(audio, str) and not os.path.isfile(audio):
        raise InputError(f"{where} does not exist")
    try:
        with soundfile.SoundFile(io.BytesIO(audio) if isinstance(audio, bytes) else audio) as file:
            yield file
    # ValueError, MemoryError: a header that claims an absurd length; TypeError: headerless .raw
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        detail = getattr(error, "error_string", "") or str(error)
        raise InputError(f"{where} cannot be decoded ({detail.strip().rstrip('.')})") from error


def _segment(utterance: Utterance, frames: int, rate: int) -> tuple[int, int]:
    """First frame and number of frames of the utterance in a file of `frames` at `rate` Hz."""
    if frames == 0:
        raise InputError(f"{_where(utterance)} holds no sample")
    start = round(utterance.offset * rate)
    rest = frames - start
    if rest <= 0:
        raise InputError(
            f"{_where(utterance)} ends at {frames / rate:.2f} s, before the offset {utterance.offset:.2f} s"
        )
    if utterance.duration is None:
        return start, rest
    wanted = round(utterance.duration * rate)
    if wanted - rest > DURATION_WARNING * rate:
        warnings.warn(
            f"{_where(utterance)} holds {rest / rate:.2f} s of the {utterance.duration:.2f} s listed",
            stacklevel=4,
        )
    whole_file = start == 0 and rest - wanted <= DURATION_TOLERANCE * rate
    return start, rest if whole_file else min(wanted, rest)


def split_at_silence(audio: np.ndarray, sampling_rate: int, max_seconds: float) -> list[tuple[int, int]]:
    """Sample ranges (start, end) that cover (samples,) in order, none over `max_seconds`.

    Each cut lies amid the least energy, averaged over 0.2 s, in the latter half
    of the longest piece allowed, so that words stay whole where there is a pause.
    Raises UsageError where `max_seconds` leaves no choice of a place.
    """
    longest = int(max_seconds * sampling_rate)
    hop = max(1, round(ENERGY_HOP * sampling_rate))
    if longest < 4 * hop:
        raise UsageError(f"Pieces of {max_seconds} s are too short to cut, take at least {4 * ENERGY_HOP} s")
    if len(audio) <= longest:
        return [(0, len(audio))] if len(audio) else []
    energy = _boundary_energy(audio, hop)
    cuts = [0]
    while len(audio) - cuts[-1] > longest:
        first = math.ceil((cuts[-1] + longest / 2) / hop)
        last = (cuts[-1] + longest) // hop
        cuts.append(hop * (first + _middle_of_quietest(energy[first : last + 1])))
    return list(zip(cuts, cuts[1:] + [len(audio)], strict=True))


def _middle_of_quietest(energy: np.ndarray) -> int:
    """The middle of the stretch around the least energy that is as still, within a tenth.

    The middle, because models take a long silence before the first word amiss.
    """
    least = int(np.argmin(energy))
    loud = np.flatnonzero(energy > max(1.1 * energy[least], SILENCE))
    left = loud[loud < least].max(initial=-1) + 1
    right = loud[loud > least].min(initial=len(energy)) - 1
    return int(left + right) // 2


def _boundary_energy(audio: np.ndarray, hop: int) -> np.ndarray:
    """Mean square around each multiple of `hop` samples, (samples // hop + 1,)."""
    blocks = audio[: len(audio) // hop * hop].astype(np.float64).reshape(-1, hop)
    energy = np.square(blocks).mean(axis=1)
    reach = round(PAUSE / ENERGY_HOP / 2)
    # Edge values repeated, not zeros: the ends of a recording are no pauses.
    padded = np.pad(energy, reach, mode="edge")
    return np.convolve(padded, np.ones(2 * reach) / (2 * reach), mode="valid")
