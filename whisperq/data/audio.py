"""Audio files as float32 mono samples, and long recordings cut where nobody speaks."""

import math

import numpy as np

from whisperq.data.decoder import STANDARD_INPUT, Resampler, Sound
from whisperq.data.mixing import survey
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError

__all__ = ["STANDARD_INPUT", "audio_seconds", "load_audio", "split_at_silence"]

ENERGY_HOP = 0.01  # seconds
SILENCE = 1e-10  # mean square, 100 dB below full scale
PAUSE = 0.2  # seconds of averaging: longer than the closure of a plosive, as long as a pause
HELD = 1 << 24  # samples of all channels; what has more is decoded twice rather than held


def load_audio(utterance: Utterance, sampling_rate: int) -> np.ndarray:
    """The utterance as float32 mono, (samples,), at `sampling_rate` Hz.

    `offset` and `duration` (seconds) select a segment of the file where they mean
    one. Raises InputError for audio that is missing, undecodable, truncated, empty,
    not finite or no sound, ReadError where reading it fails.
    """
    with Sound(utterance) as sound:
        blocks = list(sound) if sound.count * sound.channels <= HELD else sound
        mix, resampled = survey(blocks, sound.where), Resampler(sound.rate, sampling_rate)
        parts = [resampled(mix(block)) for block in blocks]
    audio = np.concatenate([*parts, resampled.rest()])
    if not len(audio):
        raise InputError(f"{sound.where} holds no sample")
    return audio


def audio_seconds(utterance: Utterance) -> float:
    """The utterance's length as its file's header gives it. Raises InputError and ReadError as `load_audio` does."""
    with Sound(utterance) as sound:
        return sound.count / sound.rate


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
