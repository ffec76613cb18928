"""Recordings at other levels than usual: quiet, overdriven, clipped, with an offset of the direct current.

    python levels.py OUT --speech SPEECH [--librispeech N] [--ljspeech N]

OUT/NAME.jsonl and a folder of FLAC files (24 bits, so that what is quiet is not coarse, too) for each condition.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from clips import RATE, entries, samples

OFFSET = 0.2  # of full scale


def gain(decibels: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda audio: audio * 10 ** (decibels / 20)


# What passes full scale is clipped, as a recorder does.
CONDITIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "minus60": gain(-60),
    "minus50": gain(-50),
    "minus40": gain(-40),
    "minus20": gain(-20),
    "usual": gain(0),
    "clipped10": gain(10),
    "clipped20": gain(20),
    "offset": lambda audio: audio + OFFSET,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--speech", type=Path, required=True, help="folder of librispeech_dev.jsonl and others")
    parser.add_argument("--librispeech", type=int, default=60, help="60: its first utterances")
    parser.add_argument("--ljspeech", type=int, default=60, help="60: its first utterances")
    options = parser.parse_args()
    spoken = entries(options.speech, "librispeech_dev")[: options.librispeech]
    spoken += entries(options.speech, "ljspeech_train")[: options.ljspeech]
    for condition, change in CONDITIONS.items():
        (options.out / condition).mkdir(parents=True, exist_ok=True)
        with (options.out / f"{condition}.jsonl").open("w", encoding="utf-8") as lines:
            for entry in spoken:
                place = f"{condition}/{entry['id']}.flac"
                audio = np.clip(change(samples(entry)), -1, 1)
                soundfile.write(options.out / place, audio, RATE, subtype="PCM_24")
                lines.write(json.dumps(entry | {"audio_filepath": place}) + "\n")


if __name__ == "__main__":
    main()
