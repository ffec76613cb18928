"""Recordings that break transcription of more than one utterance, made of real speech.

    python clips.py OUT --speech SPEECH

    paused      60: two utterances of one speaker with 1 to 20 s of noise at -80 dB between them
    continuous  the utterances of librispeech_dev, 20 minutes, one after the other: a recording for each speaker
    sounds      20 of silence, noise and music, in which nobody speaks

Each kind is a folder of FLAC files and an utterance list of the same name.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from whisperq.data.sounds import make_sounds

RATE = 16_000
PAUSES = np.linspace(1, 20, 30)  # seconds
GAP = 0.5  # seconds between utterances of continuous speech
NOISE = 10 ** (-80 / 20)  # root mean square

Entry = dict[str, Any]
Clip = tuple[str, np.ndarray, str]  # name, samples, reference


def entries(speech: Path, name: str) -> list[Entry]:
    lines = (speech / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry | {"audio_filepath": speech / entry["audio_filepath"]} for entry in map(json.loads, lines)]


def samples(entry: Entry) -> np.ndarray:
    audio, rate = soundfile.read(entry["audio_filepath"], dtype="float32")
    if rate != RATE:
        raise SystemExit(f"{entry['audio_filepath']} has {rate} Hz, not {RATE}")
    return audio


def noise(seconds: float, random: np.random.Generator) -> np.ndarray:
    return NOISE * random.standard_normal(round(seconds * RATE)).astype(np.float32)


def joined(parts: list[Entry], seconds: float, random: np.random.Generator) -> tuple[np.ndarray, str]:
    audio = [samples(parts[0])]
    for part in parts[1:]:
        audio += [noise(seconds, random), samples(part)]
    return np.concatenate(audio), " ".join(part["text"] for part in parts)


def paused(speech: Path, random: np.random.Generator) -> Iterator[Clip]:
    """Thirty pairs of each list; of LibriSpeech's only those of one speaker."""
    for name in ("librispeech_dev", "ljspeech_train"):
        listed = entries(speech, name)
        pairs = [
            pair for pair in zip(listed[::2], listed[1::2], strict=False) if pair[0]["speaker"] == pair[1]["speaker"]
        ]
        for i, (pair, pause) in enumerate(zip(pairs, PAUSES, strict=False)):
            yield f"{name}-{i:02d}-{pause:.0f}s", *joined(list(pair), pause, random)


def continuous(speech: Path, random: np.random.Generator) -> Iterator[Clip]:
    for speaker, parts in groupby(entries(speech, "librispeech_dev"), key=lambda entry: entry["speaker"]):
        yield speaker, *joined(list(parts), GAP, random)


def sounds(speech: Path, random: np.random.Generator) -> Iterator[Clip]:
    voices = [samples(entry) for entry in entries(speech, "librispeech_dev")[:20]]
    for sound in make_sounds(7, RATE, voices)[:20]:
        yield sound.name, sound.samples, ""


def write(kind: str, clips: Iterator[Clip], out: Path) -> None:
    (out / kind).mkdir(parents=True, exist_ok=True)
    with (out / f"{kind}.jsonl").open("w", encoding="utf-8") as lines:
        for name, audio, text in clips:
            place = f"{kind}/{name}.flac"
            soundfile.write(out / place, audio, RATE, subtype="PCM_24")
            seconds = round(len(audio) / RATE, 3)
            lines.write(json.dumps({"id": name, "audio_filepath": place, "duration": seconds, "text": text}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--speech", type=Path, required=True, help="folder of librispeech_dev.jsonl and others")
    options = parser.parse_args()
    for number, make in enumerate((paused, continuous, sounds)):
        write(make.__name__, make(options.speech, np.random.default_rng(number)), options.out)


if __name__ == "__main__":
    main()
