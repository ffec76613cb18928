"""What stands between a mouth and a microphone: silence around the words, a room, noise, a level.

y = gain * (speech * room + noise)
"""

import numpy as np
from numpy.random import Generator

RATE = 16000  # samples a second
AUDIBLE = 0.01  # of the peak: what is softer at the ends of a clip is no speech


def trim(samples: np.ndarray) -> np.ndarray:
    """Without the silence at both ends."""
    loud = np.flatnonzero(np.abs(samples) > AUDIBLE * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def reverberant(samples: np.ndarray, rng: Generator) -> np.ndarray:
    """With the decaying echoes of a small room, of the same length."""
    seconds = rng.uniform(0.15, 0.45)  # until the echoes are 60 dB down
    time = np.arange(round(seconds * RATE)) / RATE
    echoes = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    echoes *= rng.uniform(0.1, 0.4) / np.linalg.norm(echoes)
    echoes[0] = 1.0  # the direct sound
    return convolved(samples, echoes)


def convolved(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The first len(samples) of the convolution."""
    size = len(samples) + len(response)
    product = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
    return np.fft.irfft(product, size)[: len(samples)].astype(np.float32)


def band(samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """What lies between two frequencies in Hz, such as a telephone's."""
    spectrum = np.fft.rfft(samples)
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    spectrum[(frequency < low) | (frequency > high)] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def room_tone(count: int, rng: Generator) -> np.ndarray:
    """Noise whose power falls with the frequency, and in every third room the hum of the mains."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 40)
    tone = np.fft.irfft(spectrum * frequency ** -rng.uniform(0.2, 1.0), count)
    tone /= tone.std()
    if rng.random() < 1 / 3:
        mains = rng.choice([50, 60]) * np.arange(1, 6)[:, None]
        tone = tone + 0.3 * np.sin(2 * np.pi * mains * np.arange(count) / RATE + rng.uniform(0, 6, (5, 1))).sum(0)
    return tone.astype(np.float32)


def babble(count: int, others: list[np.ndarray], rng: Generator) -> np.ndarray:
    """Several people who talk elsewhere."""
    together = np.zeros(count, np.float32)
    for other in others:
        together += np.resize(np.roll(other, rng.integers(len(other))), count) / other.std()
    return together / together.std()


def at_level(samples: np.ndarray, decibels: float) -> np.ndarray:
    """With this root mean square, in dB of full scale, but no peak above -0.5 dB."""
    gain = 10 ** (decibels / 20) / samples.std()
    return (samples * min(gain, 10 ** (-0.5 / 20) / np.abs(samples).max())).astype(np.float32)
