"""Recordings in which nobody speaks: silence, noise and music, made anew from a seed, the same ones every time.

    silence   zeros; dither; room tone (noise whose power falls with f^2); hum of 50 or 60 Hz with its harmonics
    noise     white; pink (power falls with f); one voice played backwards; babble of several such voices
    music     chords; arpeggios; a melody with vibrato; drums

Levels are dB of the root mean square, 0 being the greatest sample. A voice played backwards has all that speech has but
words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SECONDS = (3, 5, 8, 12, 16)
QUIET_DB = (-70, -60, -50, -45, -40)
LOUD_DB = (-40, -32, -26, -22, -18)
ROOTS = (110.0, 130.8, 146.8, 196.0, 220.0)  # Hz: A2, C3, D3, G3, A3
MAJOR = (1.0, 1.2599, 1.4983, 2.0)  # of the root's frequency: equal temperament


@dataclass(frozen=True)
class Sound:
    name: str
    kind: str  # silence, noise or music
    samples: np.ndarray  # float32 (samples,), within -1 and 1


@dataclass(frozen=True)
class Studio:
    """Input of the functions that make sounds: sample count, rate in Hz, random generator, variant and voices."""

    count: int
    rate: int
    random: np.random.Generator
    variant: int
    voices: Sequence[np.ndarray]  # speech, (samples,) each

    @property
    def time(self) -> np.ndarray:
        return np.arange(self.count) / self.rate

    def coloured(self, exponent: float) -> np.ndarray:
        """Noise whose power falls with frequency to the exponent."""
        spectrum = np.fft.rfft(self.random.standard_normal(self.count))
        spectrum /= np.maximum(np.arange(len(spectrum)), 1) ** (exponent / 2)
        return np.fft.irfft(spectrum, self.count)

    def tone(self, hertz: float, start: float, seconds: float) -> np.ndarray:
        """A plucked string: six harmonics that die away, silent before `start`."""
        t = np.maximum(self.time - start, 0.0)
        wave = sum(np.sin(2 * np.pi * k * hertz * t) / k for k in range(1, 7) if k * hertz < self.rate / 2)
        return wave * np.exp(-3 * t / seconds) * (self.time >= start)

    @property
    def beats(self) -> np.ndarray:
        """Seconds, two beats and a little a second."""
        return np.arange(0, self.count / self.rate, 0.5 - 0.03 * self.variant)


def zeros(s: Studio) -> np.ndarray:
    return np.zeros(s.count)


def dither(s: Studio) -> np.ndarray:
    return 10 ** (-90 / 20) * s.random.standard_normal(s.count)


def room(s: Studio) -> np.ndarray:
    return levelled(s.coloured(2), QUIET_DB[s.variant])


def hum(s: Studio) -> np.ndarray:
    base = 50 if s.variant % 2 else 60
    wave = sum((np.sin(2 * np.pi * base * k * s.time) / k for k in (1, 2, 3, 5)), start=zeros(s))
    return levelled(wave + 0.02 * s.random.standard_normal(s.count), QUIET_DB[s.variant])


def white(s: Studio) -> np.ndarray:
    return levelled(s.random.standard_normal(s.count), LOUD_DB[s.variant])


def pink(s: Studio) -> np.ndarray:
    return levelled(s.coloured(1), LOUD_DB[s.variant])


def backwards(s: Studio) -> np.ndarray:
    return levelled(_voice(s, s.variant), LOUD_DB[s.variant])


def babble(s: Studio) -> np.ndarray:
    together = [levelled(_voice(s, 7 * s.variant + k), -20) for k in range(2 + 2 * s.variant)]
    return levelled(np.sum(together, axis=0), LOUD_DB[s.variant])


def _voice(s: Studio, number: int) -> np.ndarray:
    samples = s.voices[number % len(s.voices)][::-1]
    return np.resize(samples, s.count)


def chords(s: Studio) -> np.ndarray:
    roots = [ROOTS[(s.variant + 2 * i) % len(ROOTS)] for i in range(len(s.beats[::4]))]
    pairs = zip(roots, s.beats[::4], strict=True)
    return levelled(sum((s.tone(root * r, at, 2.0) for root, at in pairs for r in MAJOR), start=zeros(s)), -20)


def arpeggio(s: Studio) -> np.ndarray:
    notes = (s.tone(2 * ROOTS[s.variant] * MAJOR[i % 4], at, 0.7) for i, at in enumerate(s.beats))
    return levelled(sum(notes, start=zeros(s)), -20)


def melody(s: Studio) -> np.ndarray:
    """Like a voice that hums: one note after the other, its pitch swaying."""
    steps = s.random.integers(0, 8, size=len(s.beats))
    hertz = ROOTS[s.variant] * 2 ** (steps[np.searchsorted(s.beats, s.time, side="right") - 1] / 12)
    phase = 2 * np.pi * np.cumsum(hertz * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * s.time))) / s.rate
    return levelled(np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.25 * np.sin(3 * phase), -22)


def drums(s: Studio) -> np.ndarray:
    mixed = np.zeros(s.count)
    for i, at in enumerate(s.beats):
        t = np.maximum(s.time - at, 0.0)
        kick = np.sin(2 * np.pi * 60 * t) * np.exp(-12 * t)
        snare = s.random.standard_normal(s.count) * np.exp(-25 * t)
        mixed += (kick if i % 2 == 0 else 0.6 * snare) * (s.time >= at)
    return levelled(mixed, -20)


def levelled(samples: np.ndarray, decibels: float) -> np.ndarray:
    return samples * 10 ** (decibels / 20) / max(float(np.sqrt(np.mean(np.square(samples)))), 1e-12)


MAKERS: dict[str, tuple[Callable[[Studio], np.ndarray], ...]] = {
    "silence": (zeros, dither, room, hum),
    "noise": (white, pink, backwards, babble),
    "music": (chords, arpeggio, melody, drums),
}


def make_sounds(count: int, rate: int, voices: Sequence[np.ndarray], seed: int = 0) -> list[Sound]:
    """`count` of each kind, each maker in turn, quiet ones first; `voices`: speech, (samples,) each, one or more."""
    found = []
    for kind_number, (kind, makers) in enumerate(MAKERS.items()):
        for i in range(count):
            maker, variant = makers[i % len(makers)], i // len(makers) % len(SECONDS)
            samples = SECONDS[i % len(SECONDS)] * rate
            studio = Studio(samples, rate, np.random.default_rng([seed, kind_number, i]), variant, voices)
            wave = np.clip(maker(studio), -1.0, 1.0).astype(np.float32)
            found.append(Sound(f"{kind}-{i:02d}-{maker.__name__}", kind, wave))
    return found
