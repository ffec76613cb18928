"""Joins a corpus of single recorded digits to utterance lists of real connected digits.

    python join_digits.py --speech DIR --out real

DIR holds digits.jsonl (Free Spoken Digit Dataset: id fsdd-DIGIT_SPEAKER_TAKE).
Takes from 10 on train, 5 to 9 validate, 0 to 4 (the corpus's test split) test;
one speaker is kept out of training and validation altogether.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from joining import RATE, WORDS, Clip, join, list_entry, read_list, trim, write_list

UNSEEN = "fsdd-theo"
# speaker -> word -> clips
Bank = dict[str, dict[str, list[Clip]]]


@dataclass(frozen=True)
class Part:
    """One list: which speakers and takes it joins, and how many strings it has."""

    name: str
    takes: range
    unseen: bool
    strings: int


PARTS = (
    Part("train", range(10, 1000), False, 4000),
    Part("validation", range(5, 10), False, 200),
    Part("test_takes", range(5), False, 500),
    Part("test_speaker", range(1000), True, 500),
)


def read_clip(path: Path) -> np.ndarray:
    """A recording of any rate -> trimmed float32 samples at RATE."""
    samples, rate = soundfile.read(path, dtype="float32")
    return trim(soxr.resample(samples, rate, RATE))


def load_bank(speech: Path, part: Part) -> Bank:
    """The clips that `part` may use."""
    bank: Bank = {}
    for entry in read_list(speech / "digits.jsonl"):
        take = int(entry["id"].rsplit("_", 1)[1])
        if take in part.takes and (entry["speaker"] == UNSEEN) == part.unseen:
            words = bank.setdefault(entry["speaker"], {word: [] for word in WORDS})
            samples = read_clip(speech / entry["audio_filepath"])
            words[entry["text"]].append(Clip(samples, entry["text"]))
    return bank


def draw_clips(words: dict[str, list[Clip]], count: int, rng: np.random.Generator) -> list[Clip]:
    """`count` digits of one speaker, any take of each."""
    drawn = rng.choice(WORDS, size=count)
    return [words[word][rng.integers(len(words[word]))] for word in drawn]


def make_part(speech: Path, out: Path, part: Part, rng: np.random.Generator) -> int:
    """Write one list and its audio; returns its reference words."""
    bank = load_bank(speech, part)
    speakers = sorted(bank)
    entries = []
    for index in range(part.strings):
        speaker = speakers[index % len(speakers)]
        joined = join(draw_clips(bank[speaker], int(rng.integers(2, 8)), rng), rng)
        audio = Path("audio") / part.name / f"{index:04d}.flac"
        soundfile.write(out / audio, joined.samples, RATE)
        entries.append(list_entry(f"{part.name}-{index:04d}", str(audio), joined, speaker))
    write_list(out / f"{part.name}.jsonl", entries)
    return sum(len(entry["digits"]) for entry in entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speech", type=Path, default=os.environ.get("WHISPERQ_SPEECH"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "real")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.speech is None:
        parser.error("name the folder of digits.jsonl: --speech DIR, or WHISPERQ_SPEECH")
    for number, part in enumerate(PARTS):
        (args.out / "audio" / part.name).mkdir(parents=True, exist_ok=True)
        words = make_part(args.speech, args.out, part, np.random.default_rng([args.seed, number]))
        print(f"{part.name}: {part.strings} strings, {words} words")


if __name__ == "__main__":
    main()
