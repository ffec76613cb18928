"""Recordings made by a test: tones, encoded in any format."""

import io

import numpy as np
import soundfile

from whisperq.data.utterance import Utterance

RATE = 16000


def tone(frequency: float, seconds: float, rate: int = RATE, amplitude: float = 0.4) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def encoded(samples: np.ndarray, rate: int = RATE, format: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def utterance(audio: str | bytes, duration: float | None = None, offset: float = 0.0) -> Utterance:
    return Utterance("u", audio, None, duration, offset, origin="dev.jsonl line 3")


def rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
