"""One engine in a process of its own, for one round: loads it, and transcribes every recording alone.

    python timing_worker.py '{"engine": ..., "folder": ..., "runtime": ..., "padding": ..., "threads": ...,
                              "files": [...], "commands": [...]}'

prints one JSON object, the last line of its stdout: seconds of all recordings, from samples to text and of the encoder
alone, and of each command from samples to the first token. Reading of audio files, loading, and a first recording to
warm up are no part of these; what is kept of silence is made then.
"""

import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / "benchmarks"), str(HERE.parent / "whisper")]
from machine import OtherWork, use_cores  # noqa: E402

RATE = 16_000


class Timed:
    """A runtime whose encoder is timed."""

    def __init__(self, runtime: Any) -> None:
        self.runtime, self.seconds = runtime, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)

    def encode(self, features: Any) -> Any:
        began = time.perf_counter()
        state = self.runtime.encode(features)
        self.seconds += time.perf_counter() - began
        return state


class Ours:
    def __init__(self, task: dict[str, Any], stack: ExitStack) -> None:
        from whisperq.options import Execution
        from whisperq.runtime.open import open_runtime
        from whisperq.settings import Context

        execution = Execution(runtime=task["runtime"], padding=task["padding"])
        self.opened = stack.enter_context(open_runtime(Path(task["folder"]), execution, Context(device="cpu")))
        self.runtime = Timed(self.opened.runtime)

    def transcribe(self, samples: Any) -> str:
        from whisperq.jobs.stopwatch import Stopwatch
        from whisperq.runtime.transcription import transcribe_batch

        pipeline = self.runtime, self.opened.loader, self.opened.rules
        return transcribe_batch(pipeline, [samples], 1, Stopwatch("cpu"))[0]

    def first(self, samples: Any) -> None:
        rules = replace(self.opened.rules, max_tokens=len(self.opened.rules.prompt) + 1)
        rules.read(self.runtime, self.opened.loader.features([samples]))

    def encoder(self) -> dict[str, float]:
        return {"encoder_seconds": self.runtime.seconds, "again": getattr(self.runtime.runtime, "again", 0)}


class Peer:
    def __init__(self, task: dict[str, Any], stack: ExitStack) -> None:
        from peer import open_peer

        self.transcribe = open_peer(Path(task["folder"]), task["threads"])
        self.first = None

    def encoder(self) -> dict[str, float]:
        return {}


def measure(task: dict[str, Any]) -> dict[str, Any]:
    import torch

    from whisperq.data.audio import load_audio
    from whisperq.data.utterance import Utterance

    torch.set_num_threads(task["threads"])
    audio, commands = ([load_audio(Utterance(n, n, None, None), RATE) for n in task[k]] for k in ("files", "commands"))
    with ExitStack() as stack:
        engine = Peer(task, stack) if task["engine"] == "faster-whisper" else Ours(task, stack)
        engine.transcribe(audio[0])
        before, others, texts, seconds = engine.encoder(), OtherWork(), [], []
        for samples in audio:
            texts.append(timed(seconds, engine.transcribe, samples))
        busy, spent = others.cores(), {k: v - before[k] for k, v in engine.encoder().items()}
        firsts: list[float] = []
        for samples in commands if engine.first else []:
            timed(firsts, engine.first, samples)
    seconds_of_audio = sum(map(len, audio)) / RATE
    return {
        "rtfx": seconds_of_audio / sum(seconds), "audio_seconds": seconds_of_audio, "seconds": sum(seconds), **spent,
        "first_token_seconds": firsts, "busy_cores_of_others": busy, "texts": texts,
    }  # fmt: skip


def timed(seconds: list[float], transcribe: Any, samples: Any) -> Any:
    began = time.perf_counter()
    found = transcribe(samples)
    seconds.append(time.perf_counter() - began)
    return found


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task["threads"])
    output = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no result
    os.write(output, (json.dumps(measure(task)) + "\n").encode())


if __name__ == "__main__":
    main()
