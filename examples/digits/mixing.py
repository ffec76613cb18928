"""Strings of digits joined afresh for every training example, with their frame labels.

Real clips come from the corpus's training takes, synthetic ones from the
sample's training strings, cut along their alignment. Everything is decoded and
resampled once; a draw costs a millisecond.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from join_digits import PARTS, Bank, draw_clips, load_bank
from joining import RATE, WINDOW_S, WORDS, Clip, Joined, join, read_list

FRAME = 320  # samples for one encoder output, 20 ms
FRAME_CLASSES = 1 + 2 * len(WORDS)  # silence, and the two halves of every digit
NOISE_SECONDS = 20


@dataclass(frozen=True)
class Sources:
    """What examples are drawn from: clips by speaker, whole synthetic strings, noises."""

    real: Bank
    synthetic: Bank
    strings: list[Joined]
    noises: list[np.ndarray]


def load_sources(speech: Path, sample: Path, rng: np.random.Generator) -> Sources:
    """All training audio in memory."""
    synthetic: Bank = {}
    strings = []
    for entry in read_list(sample / "train.jsonl"):
        samples, _ = soundfile.read(sample / entry["audio_filepath"], dtype="float32")
        # Recorded digits end at 4 kHz: half of the synthetic ones shall too.
        for version in (samples, soxr.resample(soxr.resample(samples, RATE, 8000), 8000, RATE)):
            joined = _aligned(version, entry)
            strings.append(joined)
            words = synthetic.setdefault(entry["speaker"], {word: [] for word in WORDS})
            for (start, end), word in zip(joined.spans, joined.words, strict=True):
                words[word].append(Clip(version[start:end], word))
    noises = [coloured_noise(exponent, rng) for exponent in np.linspace(0, 2, 9)]
    # A voice that never says some digit cannot be drawn from word by word.
    whole = {voice: words for voice, words in synthetic.items() if all(words.values())}
    return Sources(load_bank(speech, PARTS[0]), whole, strings, noises)


def _aligned(samples: np.ndarray, entry: dict) -> Joined:
    """A list's line and its audio as a `Joined`."""
    spans = tuple((round(s * RATE), round(e * RATE)) for s, e, _ in entry["digits"])
    return Joined(samples, spans, tuple(word for _, _, word in entry["digits"]))


def coloured_noise(exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls as 1/f^exponent, of unit deviation: (NOISE_SECONDS * RATE,)."""
    spectrum = np.fft.rfft(rng.standard_normal(NOISE_SECONDS * RATE))
    spectrum[0] = 0.0
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-exponent / 2)
    noise = np.fft.irfft(spectrum).astype(np.float32)
    return noise / noise.std()


def faster(samples: np.ndarray, factor: float) -> np.ndarray:
    """Played `factor` times as fast: tempo, pitch and formants move together."""
    positions = np.arange(0, len(samples) - 1, factor, dtype=np.float32)
    return np.interp(positions, np.arange(len(samples)), samples).astype(np.float32)


def draw(sources: Sources, rng: np.random.Generator, most_digits: int, real_share: float) -> Joined:
    """One augmented training string of up to `most_digits` digits."""
    bank = sources.real if rng.random() < real_share else sources.synthetic
    if bank is sources.synthetic and most_digits >= 7 and rng.random() < 0.5:
        joined = _whole_string(sources, rng)
    else:
        joined = _fresh_string(bank, rng, most_digits)
    samples = _in_noise(joined.samples, sources.noises, rng)
    gain = 10 ** (rng.uniform(-35, 0) / 20) / max(1e-6, float(np.abs(samples).max()))
    return Joined(samples * np.float32(gain), joined.spans, joined.words)


def _fresh_string(bank: Bank, rng: np.random.Generator, most_digits: int) -> Joined:
    """One speaker's clips at one tempo, each varied a little in tempo and level."""
    words = bank[str(rng.choice(list(bank)))]
    speed = np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
    clips = [
        Clip(
            faster(clip.samples, speed * rng.uniform(0.93, 1.07)) * 10 ** (rng.uniform(-4, 4) / 20),
            clip.word,
        )
        for clip in draw_clips(words, int(rng.integers(1, most_digits + 1)), rng)
    ]
    return join(clips, rng)


def _whole_string(sources: Sources, rng: np.random.Generator) -> Joined:
    """A synthetic string as it is, only faster or slower, within the window."""
    joined = sources.strings[rng.integers(len(sources.strings))]
    slowest = max(0.8, joined.duration / WINDOW_S)
    speed = np.exp(rng.uniform(np.log(slowest), np.log(1.25)))
    spans = tuple((int(start / speed), int(end / speed)) for start, end in joined.spans)
    samples = faster(joined.samples, speed)[: int(WINDOW_S * RATE)]
    return Joined(samples, spans, joined.words)


def _in_noise(samples: np.ndarray, noises: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Noise of a random colour at 5 to 40 dB on 70 % of the strings."""
    if rng.random() > 0.7:
        return samples
    noise = noises[rng.integers(len(noises))]
    start = rng.integers(len(noise) - len(samples))
    level = samples.std() * 10 ** (-rng.uniform(5, 40) / 20)
    return samples + np.float32(level) * noise[start : start + len(samples)]


def frame_labels(joined: Joined, frames: int) -> np.ndarray:
    """Class of every encoder frame: 0 silence, 1 + 2 * digit + half. int64 (frames,)."""
    labels = np.zeros(frames, dtype=np.int64)
    for (start, end), word in zip(joined.spans, joined.words, strict=True):
        first = 1 + 2 * WORDS.index(word)
        bounds = np.rint(np.array([start, (start + end) / 2, end]) / FRAME).astype(int)
        labels[bounds[0] : bounds[1]] = first
        labels[bounds[1] : bounds[2]] = first + 1
    return labels
