"""Joins clips of single spoken digits to strings of digits, with their alignment."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE = 16000  # Hz
WINDOW_S = 4.0  # the models' window: no string may be longer
LEVEL_HOP = 160  # samples, 10 ms: the frames in which levels are measured


@dataclass(frozen=True)
class Clip:
    """One spoken digit: float32 samples at RATE, and the word."""

    samples: np.ndarray
    word: str


@dataclass(frozen=True)
class Joined:
    """A string of digits: samples at RATE and (start, end) in samples of every word."""

    samples: np.ndarray
    spans: tuple[tuple[int, int], ...]
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / RATE


def frame_levels(samples: np.ndarray) -> np.ndarray:
    """Root mean square of every 10 ms: (samples,) -> (frames,)."""
    count = max(1, len(samples) // LEVEL_HOP)
    frames = np.resize(samples, count * LEVEL_HOP).reshape(count, LEVEL_HOP)
    return np.sqrt(np.mean(np.square(frames), axis=1))


def trim(samples: np.ndarray, below_peak_db: float = 35.0, margin_frames: int = 2) -> np.ndarray:
    """Cut leading and trailing frames quieter than the loudest by `below_peak_db`."""
    levels = frame_levels(samples)
    loud = np.flatnonzero(levels > levels.max() * 10 ** (-below_peak_db / 20))
    if len(loud) == 0:
        return samples
    first = max(0, loud[0] - margin_frames) * LEVEL_HOP
    return samples[first : (loud[-1] + 1 + margin_frames) * LEVEL_HOP]


def draw_gap(rng: np.random.Generator) -> float:
    """Seconds between two words: mostly up to 0.25, one in ten a hesitation."""
    return rng.uniform(0.25, 0.6) if rng.random() < 0.1 else rng.uniform(0.0, 0.25)


def join(clips: Sequence[Clip], rng: np.random.Generator, window_s: float = WINDOW_S) -> Joined:
    """Clips with silence before, between and behind; clips beyond the window are left out.

    The silence carries noise at the level of the quietest clip's quietest
    moment, so that no word stands between walls of digital zeros.
    """
    floor = min(float(frame_levels(clip.samples).min()) for clip in clips)
    limit = int(window_s * RATE)
    samples = np.zeros(limit, dtype=np.float32)
    position = int(rng.uniform(0.0, 0.3) * RATE)
    spans, words = [], []
    for clip in clips:
        end = position + len(clip.samples)
        if end > limit:
            break
        samples[position:end] = _faded(clip.samples)
        spans.append((position, end))
        words.append(clip.word)
        position = end + int(draw_gap(rng) * RATE)
    length = min(limit, spans[-1][1] + int(rng.uniform(0.0, 0.3) * RATE))
    noise = floor * rng.standard_normal(length, dtype=np.float32)
    return Joined(samples[:length] + noise, tuple(spans), tuple(words))


def _faded(samples: np.ndarray, fade: int = 48) -> np.ndarray:
    """3 ms ramps at both ends: a cut in mid-wave would click."""
    ramp = np.ones(len(samples), dtype=np.float32)
    ramp[:fade] = np.linspace(0, 1, fade)
    ramp[-fade:] = np.linspace(1, 0, fade)
    return samples * ramp


def list_entry(name: str, audio: str, joined: Joined, speaker: str) -> dict:
    """A line of an utterance list; `digits` holds [start s, end s, word]."""
    digits = [
        [round(start / RATE, 3), round(end / RATE, 3), word]
        for (start, end), word in zip(joined.spans, joined.words, strict=True)
    ]
    return {
        "id": name,
        "audio_filepath": audio,
        "duration": round(joined.duration, 4),
        "text": joined.text,
        "speaker": speaker,
        "digits": digits,
    }


def write_list(path: Path, entries: Iterable[dict]) -> None:
    """JSON lines, as NeMo's manifests are."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def read_list(path: Path) -> list[dict]:
    """The lines of an utterance list."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
