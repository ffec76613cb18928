"""OpenAI's own weights on real speech with long pauses in it, and on none: the words that the command writes."""

import json
import re
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from conftest import Invoke
from support.real import dev_utterances, whisper_folder

from whisperq.data.audio import load_audio

RATE = 16_000
MODEL = "whisper-tiny.en"
JOINED = ((2, 5), (8, 10))  # which utterances, and the seconds between them
PAUSES = (5, 12)


@pytest.fixture(scope="module")
def joined(tmp_path_factory) -> list[tuple[Path, str]]:
    """Two utterances each, and noise at -80 dB between them."""
    utterances, rng, folder = dev_utterances(12), np.random.default_rng(0), tmp_path_factory.mktemp("joined")
    made = []
    for numbers, pause in zip(JOINED, PAUSES, strict=True):
        first, second = (utterances[n] for n in numbers)
        noise = 1e-4 * rng.standard_normal(pause * RATE)
        path = folder / f"{pause}.wav"
        samples = [load_audio(first, RATE), noise, load_audio(second, RATE)]
        soundfile.write(path, np.concatenate(samples), RATE, subtype="FLOAT")
        made.append((path, f"{first.text} {second.text}"))
    return made


def words(text: str) -> str:
    return re.sub(r"[^a-z' ]", " ", text.lower())


@pytest.mark.slow
def test_no_words_are_lost_behind_pauses(joined, invoke: Invoke, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths, references = zip(*joined, strict=True)
    command = ("transcribe", *paths, "--model", whisper_folder(MODEL))
    content = json.loads(invoke(*command, "--json").stdout)
    assert content["timestamps"] == "model"
    texts = [file["text"] for file in content["files"]]
    counts = jiwer.process_words(list(map(words, references)), list(map(words, texts)))
    assert counts.deletions <= 4 and counts.insertions <= 3 and counts.wer < 0.1  # baggage, handbagg
    for file, pause in zip(content["files"], PAUSES, strict=True):
        gaps = [b["start"] - a["end"] for a, b in zip(file["segments"], file["segments"][1:], strict=False)]
        assert max(gaps) == pytest.approx(pause, abs=1.5)  # the times lie where the words do
    plain = invoke(*command, "--no-timestamps").stdout.splitlines()
    counts = jiwer.process_words(list(map(words, references)), [words(line.split("\t")[1]) for line in plain])
    assert counts.deletions <= 4 and counts.wer < 0.1


def test_still_rooms_stay_empty(invoke: Invoke, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, rng = whisper_folder(MODEL), np.random.default_rng(0)
    pink = np.fft.irfft(np.fft.rfft(rng.standard_normal(5 * RATE)) / np.sqrt(1 + np.arange(5 * RATE // 2 + 1)))
    sounds = {"zeros": np.zeros(5 * RATE), "sample": np.full(1, 0.1), "room": 0.01 * pink / pink.std()}
    for name, samples in sounds.items():
        soundfile.write(f"{name}.wav", samples, RATE)
    done = invoke("transcribe", *(f"{name}.wav" for name in sounds), "--model", folder)
    assert done.stdout == "".join(f"{name}.wav\t\n" for name in sounds)
