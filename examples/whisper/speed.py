"""How fast each engine transcribes the same recordings, one after the other: ours, and faster-whisper in INT8.

    python speed.py WHISPER RUN --speech SPEECH

writes RUN/speed.json. In every round each engine works in turn, alone, in a new process; the round's first is another
one each time. RTFx is seconds of audio in a second of wall time.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "benchmarks"))
from machine import describe, thread_settings  # noqa: E402

from whisperq import artifact  # noqa: E402

OURS = ("before", "after", "dynamic")
PEER = "faster-whisper"
LISTS = {"ljspeech": "ljspeech_train.jsonl", "librispeech": "librispeech_dev.jsonl"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path, help="the float model's folder")
    parser.add_argument("run", type=Path, help="its run folder, with quantized/before and others")
    parser.add_argument("--speech", type=Path, required=True, help="folder of the utterance lists")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ljspeech", type=int, default=24, help="24: its first recordings")
    parser.add_argument("--librispeech", type=int, default=8, help="8: its first recordings")
    parser.add_argument("--threads", type=int, default=2, help="2, on as many cores")
    return parser.parse_args()


def recordings(options: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for name, file in LISTS.items():
        lines = (options.speech / file).read_text(encoding="utf-8").splitlines()[: getattr(options, name)]
        found += map(json.loads, lines)
    return found


def engines(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Folder and runtime of each engine that is there; the peer is converted first, once."""
    found = {"float": {"folder": str(options.whisper), "runtime": "float"}}
    for name in OURS:
        if artifact.is_artifact(place := options.run / "quantized" / name):
            found[name] = {"folder": str(place), "runtime": "int8"}
    if find_spec("faster_whisper") is None:
        print("left out: faster-whisper is not installed", file=sys.stderr)
        return found
    folder = options.run / PEER
    if not (folder / "model.bin").is_file():
        subprocess.run([sys.executable, HERE / "peer.py", options.whisper, folder], check=True)
    return {**found, PEER: {"folder": str(folder), "runtime": "int8"}}


def work(task: dict[str, Any]) -> dict[str, Any]:
    """A worker's result. Raises RuntimeError with its last line of errors."""
    command = [sys.executable, HERE / "speed_worker.py", json.dumps(task)]
    environment = {**os.environ, **thread_settings(task["threads"])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{task['engine']}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def word_errors(whisper: Path, references: list[str], texts: list[str]) -> float:
    """WER of the transcripts, since a fast engine that is wrong is no use."""
    from whisperq.results.evaluations import read_spelling
    from whisperq.scoring.normalizers import get_normalizer
    from whisperq.scoring.words import count_errors

    return count_errors(references, texts, get_normalizer("english", read_spelling(whisper))).wer


def main() -> None:
    options = arguments()
    lines, chosen = recordings(options), engines(options)
    files = [str(options.speech / line["audio_filepath"]) for line in lines]
    machine = describe()
    if PEER in chosen:
        machine["packages"][PEER] = version(PEER)
    results: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "threads": options.threads,
        "recordings": len(files), "rounds": {name: [] for name in chosen}, "wer": {},
    }  # fmt: skip
    for number in range(options.rounds):
        names = list(chosen)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            task = {"engine": name, **chosen[name], "threads": options.threads, "recordings": files}
            found = work(task)
            results["audio_seconds"] = found["audio_seconds"]
            results["wer"][name] = word_errors(options.whisper, [x["text"] for x in lines], found.pop("texts"))
            results["rounds"][name].append(found)
            print(f"round {number + 1} of {options.rounds}: {name} {found['rtfx']:.1f}", file=sys.stderr, flush=True)
    (options.run / "speed.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
