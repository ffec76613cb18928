"""OpenAI's own weights and real speech, where the environment names them.

WHISPERQ_WHISPER: a folder that holds whisper-base and whisper-tiny.en as transformers saves them.
WHISPERQ_SPEECH: a folder that holds librispeech_dev.jsonl and its recordings.
"""

import json
import os
from pathlib import Path

import pytest

from whisperq.data.utterance import Utterance

WHISPER = Path(os.environ.get("WHISPERQ_WHISPER", ""))
SPEECH = Path(os.environ.get("WHISPERQ_SPEECH", ""))


def whisper_folder(name: str) -> Path:
    """The folder of whisper-base or whisper-tiny.en; skips the test where it is not there."""
    if not os.environ.get("WHISPERQ_WHISPER") or not (WHISPER / name / "model.safetensors").is_file():
        pytest.skip(f"WHISPERQ_WHISPER names no folder with {name}")
    return WHISPER / name


def dev_utterances(count: int) -> list[Utterance]:
    """The first of librispeech_dev, read speech of 4 to 17 seconds; skips the test where they are not there."""
    path = SPEECH / "librispeech_dev.jsonl"
    if not os.environ.get("WHISPERQ_SPEECH") or not path.is_file():
        pytest.skip("WHISPERQ_SPEECH names no folder with librispeech_dev.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
    return [
        Utterance(line["id"], str(SPEECH / line["audio_filepath"]), line["text"], line["duration"]) for line in lines
    ]
