"""Calibrating on recordings without speech: told, and refused where no word is in any."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import Invoke, sample_lines, write_lines

RATE = 16_000


def silent_lines(folder: Path, text: str | None) -> list[dict]:
    noise = np.random.default_rng(0).standard_normal(2 * RATE)
    for name, samples in (("zeros", np.zeros(2 * RATE)), ("room", 0.003 * noise)):
        soundfile.write(folder / f"{name}.wav", samples, RATE)
    texts = {} if text is None else {"text": text}
    return [{"id": n, "audio_filepath": str(folder / f"{n}.wav"), "duration": 2.0, **texts} for n in ("zeros", "room")]


@pytest.mark.parametrize("text", [None, "", " - "])
def test_no_word_in_any_is_refused(text, workspace: Path, teacher: Path, invoke: Invoke) -> None:
    write_lines(workspace / "silent.jsonl", silent_lines(workspace, text))
    done = invoke("calibrate", "--model", teacher, "--data", "silent.jsonl", "--out", "c")
    assert done.exit_code == 3 and "no word is in any of the 2 recordings" in done.stderr
    assert not (workspace / "c").exists()


def test_silence_with_words_in_its_list_is_told(workspace: Path, teacher: Path, invoke: Invoke) -> None:
    write_lines(workspace / "silent.jsonl", silent_lines(workspace, "one two"))
    done = invoke("calibrate", "--model", teacher, "--data", "silent.jsonl", "--out", "c")
    assert done.exit_code == 0 and "warning: all 2 recordings to calibrate on are silent" in done.stderr


def test_some_silence_among_speech_is_nothing_to_tell(workspace: Path, teacher: Path, invoke: Invoke) -> None:
    write_lines(workspace / "mixed.jsonl", [*silent_lines(workspace, ""), *sample_lines("validation", 2)])
    done = invoke("calibrate", "--model", teacher, "--data", "mixed.jsonl", "--out", "c")
    assert done.exit_code == 0 and "silent" not in done.stderr.replace("silent.jsonl", "")
