"""examples/robustness/table.py over transcripts whose errors are known."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import run_command
from support.reported import Transcribed, create, write_evaluation

SCRIPT = Path(__file__).parents[1] / "examples" / "robustness" / "table.py"
TEXTS = {"one": "the first words after that a pause and more", "two": "nothing is lost"}
SRT = "1\n00:00:00,000 --> 00:00:02,000\nthe first words\n\n2\n00:00:09,100 --> 00:00:11,000\nand more 12\n"


def write(place: Path, content: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)


def test_words_are_counted_in_every_format_and_levels_are_compared(tmp_path):
    run = tmp_path / "toy"
    spoken = "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in TEXTS.items())
    write(run / "clips" / "paused.jsonl", spoken)
    write(run / "clips" / "continuous.jsonl", spoken)
    write(run / "clips" / "sounds.jsonl", '{"id": "hum", "text": ""}\n{"id": "drums", "text": ""}\n')
    for name, text in TEXTS.items():
        write(run / "heard/faster-whisper/paused" / f"{name}.txt", text + "\n")
    write(run / "heard/ours, srt/paused/one.srt", SRT)
    write(run / "heard/ours, srt/paused/two.srt", "1\n00:00:00,000 --> 00:00:01,000\nnothing was lost\n")
    segments = [{"start": 0.0, "end": 1.0, "text": "You"}, {"start": 1.0, "end": 2.0, "text": "you."}]
    write(run / "heard/ours, json/sounds/hum.json", json.dumps({"files": [{"segments": segments}]}))
    write(run / "heard/ours, json/sounds/drums.json", json.dumps({"files": [{"segments": []}]}))
    with create(run / "distilled", "distilled", "distill", {}) as draft:
        (draft.folder / "model.safetensors").write_bytes(b"1")
    for name, wrong in (("float", 1), ("int8", 3)):
        write_evaluation(run, run / "distilled", name, [Transcribed("minus60", wrong, utterances=40)], name)
    pair = (run / "eval/float", run / "eval/int8", "--common", "--margin", "0.5")
    assert run_command("compare", *pair, "--out", run / "levels-int8-vs-float").exit_code == 0

    done = subprocess.run([sys.executable, SCRIPT, run, "--out", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/robustness.json").read_text())["toy"]
    paused = found["words"]["paused"]
    assert paused["faster-whisper"]["wer"] == 0 and paused["faster-whisper"]["reference_words"] == 12
    srt = paused["ours, srt"]  # "after that a pause" is gone, "12" is no number of a cue, "was" stands for "is"
    assert [srt[n] for n in ("deletions", "insertions", "substitutions")] == [4, 1, 1]
    lines = (tmp_path / "out/robustness.md").read_text().splitlines()
    assert "| toy | 2 sounds | ours, json | 0 | - | 2 (in 1 recordings) | - | - |" in lines
    level = next(line for line in lines if "minus60" in line)
    assert level.startswith("| toy | minus60 | 120 | 0.83 | 2.50 | +1.67 (")
