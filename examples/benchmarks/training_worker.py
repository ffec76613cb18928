"""One measurement of the distillation benchmark in a process of its own.

    python training_worker.py '{"measure": "step", "engine": "whisperq", "size": "small", ...}'

prints one JSON object, the last line of its stdout. `probe`: device and number format; `matrix`: the rate of a large
product; `feeding`: what decoding and log-mel take; `step`: optimiser steps of one engine.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from machine import OtherWork, clear_peak_memory, resident_bytes, timed, use_cores, wait
from training_shapes import MEL_BINS, PAIRS, Pair, padded, random_features, window_ids

SAMPLING_RATE = 16_000
FEEDING_WINDOWS = 16  # decoded and transformed; what a batch takes is scaled from them
MATRIX_REPEATS = 10
FORMATS = {"Opus": {"format": "OGG", "subtype": "OPUS"}, "FLAC": {"format": "FLAC", "subtype": "PCM_16"}}


class Clock:
    """Told of every step's end; times those after the warm-up, without waiting for a GPU in between."""

    def __init__(self, device: str, warmup: int) -> None:
        self.device, self.rest = device, warmup
        self.marks: list[Any] = []  # seconds, or CUDA events
        self.imports = clear_peak_memory()

    def step_ended(self) -> None:
        self.rest -= 1
        if self.rest == 0:
            self._begin()
        elif self.rest < 0:
            self._mark()

    def _begin(self) -> None:
        wait(self.device)
        clear_peak_memory()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.others, self.cpu, self.began = OtherWork(), time.process_time(), time.perf_counter()
        self._mark()

    def _mark(self) -> None:
        if self.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def read(self) -> dict[str, Any]:
        """Seconds of all steps and of each, core-seconds (also where others work), peak bytes of the timed steps."""
        wait(self.device)
        seconds = time.perf_counter() - self.began
        pairs = zip(self.marks, self.marks[1:], strict=False)
        found = {
            "seconds": seconds, "cpu_s": time.process_time() - self.cpu,
            "busy_cores_of_others": self.others.cores(), "imports_bytes": self.imports,
        }  # fmt: skip
        if self.device == "cuda":
            peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            steps = [a.elapsed_time(b) / 1e3 for a, b in pairs]
            return found | {"peak_bytes": peak, "reserved_bytes": reserved, "step_s": steps}
        peak = resident_bytes("VmHWM") - self.imports
        return found | {"peak_bytes": peak, "step_s": [b - a for a, b in pairs]}


def random_model(pair: Pair, layers: tuple[int, int], gate: str, device: str, seed: int):
    """A gated Whisper of random weights in float32, its attention as `whisperq distill` sets it."""
    from whisperq.models.gated_whisper import GatedWhisperConfig, GatedWhisperForConditionalGeneration
    from whisperq.training.student_teacher import attention_kernel

    torch.manual_seed(seed)
    config = GatedWhisperConfig(**pair.config(layers, gate))
    config._attn_implementation = attention_kernel(device, config.max_source_positions)
    with torch.device(device):
        return GatedWhisperForConditionalGeneration(config)


def own_batches(pair: Pair, task: dict, features: torch.Tensor, step: int) -> list:
    """The micro-batches of one step, as `data.batches.Loader` makes them: features on the device, tokens not."""
    from whisperq.data.batches import Batch
    from whisperq.data.tokens import IGNORED, Tokens
    from whisperq.data.utterance import Utterance

    batches = []
    for start in range(0, task["batch"], task["micro"]):
        rows = range(start, start + task["micro"])
        texts = [window_ids(pair, step * task["batch"] + row) for row in rows]
        tokens = Tokens(*padded(texts, pair.vocabulary - 1, IGNORED), tuple(len(t) - 1 for t in texts))
        utterances = tuple(Utterance(f"{step}-{row}", "", None, pair.window_s) for row in rows)
        batches.append(Batch(features[rows.start : rows.stop], tokens, utterances))
    return batches


def train_ours(student, teacher, pair: Pair, task: dict, config, ended: Callable[[], None]) -> dict[str, float]:
    """All steps, `ended` called after each; the first one's loss and gradient norm."""
    from whisperq.training.loop import Distiller

    distiller = Distiller(student, teacher, config, getattr(torch, task["dtype"]), seed=0)
    features = random_features(pair, task["batch"]).to(distiller.device)
    batches = [own_batches(pair, task, features, step) for step in range(config.max_steps)]
    done = []
    for number, micro_batches in enumerate(batches):
        done.append(distiller.step(number, micro_batches))
        ended()
    first = [step.read() for step in done][0]
    return {"loss": first.loss, "gradient_norm": first.gradient_norm}


def measure_step(task: dict[str, Any]) -> dict[str, Any]:
    from whisperq.training_options import DistillConfig

    if task["engine"] == "trainer":
        from trainer_peer import train
    else:
        import whisperq.training.loop  # noqa: F401  its memory is that of the imports

        train = train_ours
    pair, device = PAIRS[task["size"]], task["device"]
    config = DistillConfig(
        max_steps=task["warmup"] + task["steps"], batch_size=task["batch"], micro_batch=task["micro"],
        freeze_encoder=task["freeze_encoder"], recompute=task["gradient_checkpointing"],
        compile=task["compile"],
    )  # fmt: skip
    clock = Clock(device, task["warmup"])
    student = random_model(pair, pair.student, "headwise", device, seed=0)
    teacher = random_model(pair, pair.teacher, "none", device, seed=1)
    first = train(student, teacher, pair, task, config, clock.step_ended)
    return {"first": first, **clock.read()}


def probe(task: dict[str, Any]) -> dict[str, Any]:
    """What auto stands for. Raises UsageError for a device or a number format that is not to be had."""
    from whisperq.models.loading import compute_device
    from whisperq.training.loop import autocast_dtype

    device = compute_device(task["device"])
    dtype = str(autocast_dtype(task["dtype"], device)).removeprefix("torch.")
    return {"device": device, "dtype": dtype, "accelerator": torch.cuda.get_device_name() if device == "cuda" else None}


def measure_matrix(task: dict[str, Any]) -> dict[str, float]:
    """Operations a second of the product of two square matrices: the median of several."""
    size, device = task["matrix"], task["device"]
    a, b = (torch.randn(size, size, device=device).to(getattr(torch, task["dtype"])) for _ in range(2))
    found = [timed(lambda: a @ b, device) for _ in range(MATRIX_REPEATS + 2)][2:]
    return {"flops_per_s": 2 * size**3 / sorted(found)[len(found) // 2]}


def measure_feeding(task: dict[str, Any]) -> dict[str, Any]:
    """Core-seconds to decode a window in each format, and seconds of log-mel on the device for one."""
    from transformers import WhisperFeatureExtractor

    from whisperq.data.features import log_mel

    pair, device = PAIRS[task["size"]], task["device"]
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, sampling_rate=SAMPLING_RATE, chunk_length=pair.window_s)
    count = min(task["batch"], FEEDING_WINDOWS)
    with tempfile.TemporaryDirectory() as folder:
        decoded = {name: decode(Path(folder), name, count, pair.window_s) for name in FORMATS}
    waveforms = next(iter(decoded.values()))[1]
    runs = [timed(lambda: log_mel(waveforms, extractor, device), device) for _ in range(4)][1:]
    seconds = {name: core_seconds / count for name, (core_seconds, _) in decoded.items()}
    return {"decode_core_s": seconds, "log_mel_s": sorted(runs)[1] / count}


def decode(folder: Path, name: str, count: int, window_s: int) -> tuple[float, Sequence]:
    """Recordings in one format, read as training does: core-seconds of the reading, and the samples."""
    from whisperq.data.audio import load_audio
    from whisperq.data.utterance import Utterance

    files = write_recordings(folder, name, count, window_s)
    utterances = [Utterance(file.name, str(file), None, None) for file in files]
    load_audio(utterances[0], SAMPLING_RATE)
    began = time.process_time()
    samples = [load_audio(utterance, SAMPLING_RATE) for utterance in utterances]
    return time.process_time() - began, samples


def write_recordings(folder: Path, name: str, count: int, seconds: int) -> list[Path]:
    """Noise and a tone, each file its own, in a format of FORMATS."""
    import numpy
    import soundfile

    time_s = numpy.arange(seconds * SAMPLING_RATE) / SAMPLING_RATE
    files = [folder / f"{name}-{i}.audio" for i in range(count)]

    def write(i: int) -> None:
        noise = numpy.random.default_rng(i).standard_normal(len(time_s))
        samples = 0.05 * noise + 0.1 * numpy.sin(2 * numpy.pi * (200 + 20 * i) * time_s)
        soundfile.write(files[i], samples, SAMPLING_RATE, **FORMATS[name])

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(write, range(count)))
    return files


MEASURES = {"probe": probe, "matrix": measure_matrix, "feeding": measure_feeding, "step": measure_step}


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task["threads"])
    torch.set_num_threads(task["threads"])
    output = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no result
    os.write(output, (json.dumps(MEASURES[task["measure"]](task)) + "\n").encode())


if __name__ == "__main__":
    main()
