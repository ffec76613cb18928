"""The peer: faster-whisper (CTranslate2) with INT8 weights, of the same Whisper folder, offline.

python peer.py WHISPER FOLDER        # as ct2-transformers-converter --quantization int8
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BESIDE = ("tokenizer.json", "preprocessor_config.json")  # without them faster-whisper asks the Hub


def convert(whisper: Path, folder: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(whisper), copy_files=list(BESIDE)).convert(str(folder), quantization="int8", force=True)


def open_peer(folder: Path, threads: int) -> Callable[["np.ndarray"], str]:
    """Greedy, in English, without times, and nothing decoded twice: what whisperq does. Samples at 16 kHz -> text."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)
    thresholds = dict.fromkeys(("no_speech_threshold", "log_prob_threshold", "compression_ratio_threshold"))

    def transcribe(samples: "np.ndarray") -> str:
        segments, _ = model.transcribe(
            samples, language="en", beam_size=1, best_of=1, temperature=0.0, without_timestamps=True,
            condition_on_previous_text=False, vad_filter=False, **thresholds,
        )  # fmt: skip
        return " ".join(segment.text.strip() for segment in segments)

    return transcribe


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))
