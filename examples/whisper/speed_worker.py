"""One engine in a process of its own, for one round: loads it, and transcribes every recording alone.

    python speed_worker.py '{"engine": ..., "folder": ..., "runtime": ..., "threads": ..., "recordings": [...]}'

prints one JSON object, the last line of its stdout: seconds of each recording, features and text included, and texts.
Reading and decoding of audio files, loading, and a first recording to warm up are no part of these.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from machine import OtherWork, use_cores

RATE = 16_000


def open_ours(folder: Path, runtime: str, stack: ExitStack) -> Callable[[Any], str]:
    from whisperq.jobs.stopwatch import Stopwatch
    from whisperq.options import Execution
    from whisperq.runtime.open import open_runtime
    from whisperq.runtime.transcription import transcribe_batch
    from whisperq.settings import Context

    opened = stack.enter_context(open_runtime(folder, Execution(runtime=runtime), Context(device="cpu")))
    pipeline = opened.runtime, opened.loader, opened.rules
    return lambda samples: transcribe_batch(pipeline, [samples], 1, Stopwatch("cpu"))[0]


def measure(task: dict[str, Any]) -> dict[str, Any]:
    import torch

    from whisperq.data.audio import load_audio
    from whisperq.data.utterance import Utterance

    torch.set_num_threads(task["threads"])
    audio = [load_audio(Utterance(name, name, None, None), RATE) for name in task["recordings"]]
    folder = Path(task["folder"])
    with ExitStack() as stack:
        if task["engine"] == "faster-whisper":
            from peer import open_peer

            transcribe = open_peer(folder, task["threads"])
        else:
            transcribe = open_ours(folder, task["runtime"], stack)
        transcribe(audio[0])
        others, seconds, texts = OtherWork(), [], []
        for samples in audio:
            began = time.perf_counter()
            texts.append(transcribe(samples))
            seconds.append(time.perf_counter() - began)
    seconds_of_audio = sum(map(len, audio)) / RATE
    return {
        "rtfx": seconds_of_audio / sum(seconds), "audio_seconds": seconds_of_audio, "seconds": seconds,
        "busy_cores_of_others": others.cores(), "texts": texts,
    }  # fmt: skip


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task["threads"])
    output = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no result
    os.write(output, (json.dumps(measure(task)) + "\n").encode())


if __name__ == "__main__":
    main()
