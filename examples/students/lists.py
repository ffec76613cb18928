"""The utterance lists of run.sh: what is labelled and trained on, what chooses the best step, what is kept for tests.

    python lists.py SPEECH OUT [--kept-out 150] [--validation 48] [--seed 0] [--limit N]

OUT/librispeech_train.jsonl, librispeech_unlabelled.jsonl and ljspeech_train.jsonl are trained on, without what was
drawn for OUT/ljspeech_kept_out.jsonl and for OUT/validation.jsonl, utterances of librispeech_train. The same arguments
give the same bytes; a file that is right already is not touched.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from whisperq.disk import replace

Line = dict[str, object]


def read(path: Path) -> list[Line]:
    """Each line with its recording's absolute path."""
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    return [{**line, "audio_filepath": str((path.parent / line["audio_filepath"]).resolve())} for line in lines]


def divide(lines: Sequence[Line], count: int, seed: int) -> tuple[list[Line], list[Line]]:
    """The rest, and `count` lines that the seed draws; both in the order of the list."""
    drawn = set(random.Random(seed).sample(range(len(lines)), count))
    return [x for i, x in enumerate(lines) if i not in drawn], [lines[i] for i in sorted(drawn)]


def write(path: Path, lines: Sequence[Line]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        replace(path, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path, help="folder of librispeech_train.jsonl and others")
    parser.add_argument("out", type=Path)
    parser.add_argument("--kept-out", type=int, default=150, help="utterances of ljspeech_train")
    parser.add_argument("--validation", type=int, default=48, help="utterances of librispeech_train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="first N utterances of each list to train on")
    options = parser.parse_args()
    libri, chosen = divide(read(options.speech / "librispeech_train.jsonl"), options.validation, options.seed)
    lj, kept = divide(read(options.speech / "ljspeech_train.jsonl"), options.kept_out, options.seed)
    unlabelled = read(options.speech / "librispeech_unlabelled.jsonl")
    options.out.mkdir(parents=True, exist_ok=True)
    trained = {"librispeech_train": libri, "librispeech_unlabelled": unlabelled, "ljspeech_train": lj}
    for name, lines in trained.items():
        write(options.out / f"{name}.jsonl", lines[: options.limit])
    write(options.out / "validation.jsonl", chosen)
    write(options.out / "ljspeech_kept_out.jsonl", kept)


if __name__ == "__main__":
    main()
