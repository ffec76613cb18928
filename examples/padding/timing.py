"""How fast recordings are transcribed with their padding and without it, and by faster-whisper's INT8 beside.

    python timing.py WHISPER RUN --speech SPEECH

writes RUN/timing.json. In every round each engine works in turn, alone, in a new process; the round's first is another
one each time. The commands are the recordings nearest to three seconds.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / "benchmarks"), str(HERE.parent / "whisper")]
from machine import describe, thread_settings  # noqa: E402

PEER = "faster-whisper"
COMMAND = 3.0  # seconds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path, help="the float model's folder")
    parser.add_argument("run", type=Path, help="its run folder, with quantized/int8")
    parser.add_argument("--speech", type=Path, required=True, help="folder of the utterance lists")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ljspeech", type=int, default=24, help="24: its first recordings")
    parser.add_argument("--commands", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="2, on as many cores")
    return parser.parse_args()


def engines(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    folder = str(options.run / "quantized" / "int8")
    found = {f"int8 {p}": {"folder": folder, "runtime": "int8", "padding": p} for p in ("full", "short")}
    if find_spec("faster_whisper") is None:
        print("left out: faster-whisper is not installed", file=sys.stderr)
        return found
    peer = options.run / PEER
    if not (peer / "model.bin").is_file():
        subprocess.run([sys.executable, HERE.parent / "whisper" / "peer.py", options.whisper, peer], check=True)
    return {**found, PEER: {"folder": str(peer)}}


def work(task: dict[str, Any]) -> dict[str, Any]:
    """A worker's result. Raises RuntimeError with its last line of errors."""
    command = [sys.executable, HERE / "timing_worker.py", json.dumps(task)]
    environment = {**os.environ, **thread_settings(task["threads"])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{task['engine']}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def word_errors(lines: Sequence[dict[str, Any]], texts: list[str]) -> float:
    from whisperq.scoring.normalizers import get_normalizer, published_spelling
    from whisperq.scoring.words import count_errors

    return count_errors([x["text"] for x in lines], texts, get_normalizer("english", published_spelling())).wer


def main() -> None:
    options = arguments()
    lines = [json.loads(x) for x in (options.speech / "ljspeech_train.jsonl").read_text("utf-8").splitlines()]
    chosen, place = engines(options), options.run / "timing.json"
    commands = sorted(lines, key=lambda line: abs(line["duration"] - COMMAND))[: options.commands]
    lines = lines[: options.ljspeech]
    files, short = ([str(options.speech / x["audio_filepath"]) for x in some] for some in (lines, commands))
    results: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": describe(), "threads": options.threads,
        "recordings": len(files), "commands": len(short), "rounds": {name: [] for name in chosen}, "wer": {},
    }  # fmt: skip
    for number in range(options.rounds):
        names = list(chosen)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            task = {"engine": name, **chosen[name], "threads": options.threads, "files": files, "commands": short}
            found = work(task)
            results["wer"][name] = word_errors(lines, found.pop("texts"))
            results["rounds"][name].append(found)
            print(f"round {number + 1} of {options.rounds}: {name} {found['rtfx']:.1f}", file=sys.stderr, flush=True)
    place.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
