"""Utterance lists written for a test."""

import json
from pathlib import Path

import numpy as np
import soundfile


def tone(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * 8000)) / 8000)
    soundfile.write(path, samples, 8000)
    return path


def write_list(folder: Path, *lines: object, name: str = "dev.jsonl") -> str:
    """An utterance list beside a.wav and b.wav; a string is written as it is."""
    tone(folder / "a.wav")
    tone(folder / "b.wav")
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(folder / name)
