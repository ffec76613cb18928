"""The synthesised sentences inside the package, and commands that listen to them because nobody named recordings."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.damage import change_configuration

import whisperq
from whisperq.data.lists import Source
from whisperq.data.sources import read_all

ROOT = Path(__file__).parents[1]
PLACE = Path(whisperq.__file__).parent / "data" / "calibration"
SCRIPT = ROOT / "examples" / "int8.sh"
COUNTS = {"calibration": 48, "check": 16}


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (PLACE / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", COUNTS)
def test_every_recording_is_there_and_as_long_as_its_list_says(name):
    assert len(lines(name)) == COUNTS[name]
    for line in lines(name):
        samples, rate = soundfile.read(PLACE / line["audio_filepath"])
        assert rate == 16000 and samples.ndim == 1
        assert len(samples) / rate == pytest.approx(line["duration"], abs=0.001)
        assert 0.005 < samples.std() < 0.3 and np.abs(samples).max() <= 1


def test_the_set_is_small_and_nothing_lies_beside_its_lists():
    files = [path for path in PLACE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2e6
    listed = {PLACE / line["audio_filepath"] for name in COUNTS for line in lines(name)}
    assert {path for path in files if path.suffix == ".opus"} == listed and len(listed) == sum(COUNTS.values())


def test_voices_levels_and_lengths_are_varied():
    found = lines("calibration")
    assert len({line["speaker"] for line in found}) >= 12
    assert not {line["speaker"] for line in found} & {line["speaker"] for line in lines("check")}
    seconds = [line["duration"] for line in found]
    assert min(seconds) < 2.5 and sum(s > 20 for s in seconds) >= 5 and max(seconds) < 30
    levels = [20 * np.log10(soundfile.read(PLACE / line["audio_filepath"])[0].std()) for line in found]
    assert max(levels) - min(levels) > 12  # dB


def test_texts_are_sentences_of_their_own_and_fit_the_speech():
    every = [line["text"] for name in COUNTS for line in lines(name)]
    assert len(set(every)) == len(every)
    assert all(text[0].isupper() and text[-1] in ".?" and "//" not in text and "|" not in text for text in every)
    assert any(re.search(r"\d", text) for text in every) and any(text.endswith("?") for text in every)
    for line in (line for name in COUNTS for line in lines(name)):
        assert 4 < len(line["text"]) / line["duration"] < 20  # letters a second


def test_the_texts_are_those_of_the_script_that_made_the_set():
    for name in COUNTS:
        written = (ROOT / "examples" / "calibration" / f"{name}.txt").read_text().splitlines()
        texts = [line.split(" | ")[0].replace(" //", "") for line in written if not line.startswith("#")]
        assert texts == [line["text"] for line in lines(name)]


@pytest.fixture
def without_data(workspace) -> Path:
    change_configuration(workspace, validation=[])
    return workspace


def test_calibrate_without_data_takes_what_fits_and_says_so(without_data, teacher, invoke):
    result = invoke("calibrate", "--model", teacher, "--batches", "6", "--batch-size", "8", "--json")
    assert result.exit_code == 0, result.stderr
    announced = [line for line in result.stderr.splitlines() if line.startswith("data: ")]
    assert len(announced) == 1 and "synthesised speech" in announced[0] and "--data" in announced[0]
    manifest = json.loads(result.stdout)
    whole = PLACE / "calibration.jsonl"
    assert manifest["inputs"]["data"] == read_all([Source(path=str(whole))]).reference
    results, fitting = manifest["results"], [line for line in lines("calibration") if line["duration"] <= 4]
    # The tiny model has a window of four seconds, and a decoder of 64 tokens, a byte each, five of which are no text.
    fitting = [line for line in fitting if len(line["text"].encode()) + 1 + 5 <= 64]
    assert results["utterances"] == len(fitting) >= 8
    assert results["utterances"] + results["skipped"] == COUNTS["calibration"]
    assert results["audio_seconds"] == pytest.approx(sum(line["duration"] for line in fitting), abs=0.01)
    again = invoke("calibrate", "--model", teacher, "--batches", "6", "--batch-size", "8")
    assert again.exit_code == 0 and "finished already" in again.stderr


def test_named_data_is_taken_instead(without_data, teacher, digits, invoke):
    result = invoke("calibrate", "--model", teacher, "--data", digits / "validation.jsonl", "--batches", "1", "--json")
    assert result.exit_code == 0 and "synthesised" not in result.stderr
    manifest = json.loads(result.stdout)
    assert manifest["inputs"]["data"]["path"] == str(digits / "validation.jsonl")
    assert not manifest["config"]["skip_bad"]


def test_a_dry_run_names_it_and_reads_nothing(without_data, teacher, invoke):
    result = invoke("calibrate", "--model", teacher, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    reads = {read["role"]: read for read in plan["reads"]}
    assert reads["data"]["what"] == str(PLACE / "calibration.jsonl") and reads["data"]["state"] == "file"
    assert plan["settings"]["skip_bad"] == {"value": True, "origin": "chosen"}


def test_another_language_is_warned_of(without_data, teacher, invoke):
    change_configuration(without_data, language="de")
    result = invoke("calibrate", "--model", teacher, "--dry-run")
    assert "in English though the language is de" in result.stderr


def test_sensitivity_listens_to_it_too(copied_run, invoke):
    for folder in (copied_run.parent, copied_run):
        change_configuration(folder, validation=[])
    result = invoke("sensitivity", "--model", "gemm-w8a8", "--by", "model", "--limit", "8", "--json")
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest["inputs"]["data"]["path"] == str(PLACE / "calibration.jsonl") and manifest["results"]["tokens"]


def test_the_streams_numbers_keep_what_they_hold():
    sys.path.insert(0, str(ROOT / "examples" / "calibration"))
    from ogg import with_serial

    stream = (PLACE / lines("check")[0]["audio_filepath"]).read_bytes()
    other = with_serial(stream, 77)
    assert other != stream and with_serial(other, 0) == stream  # the first of its list is number 0
    with pytest.raises(ValueError):
        with_serial(b"RIFF", 0)


def test_shellcheck_finds_nothing():
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    program = shutil.which("shellcheck", path=path)
    assert program, 'shellcheck is missing; pip install ".[test]"'
    found = subprocess.run([program, "--external-sources", SCRIPT], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.fixture
def environment(tmp_path) -> Iterator[dict[str, str]]:
    """Variables under which int8.sh finds a virtual environment made; in it one process has imported everything."""
    folder, preloaded = tmp_path / "venv", ROOT / "examples" / "preloaded.py"
    socket = folder / "socket"
    (folder / "bin").mkdir(parents=True)
    for name, call in {"whisperq": f"-S '{preloaded}' call '{socket}'", "python": ""}.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\nexec '{sys.executable}' {call} \"$@\"\n")
        (folder / "bin" / name).chmod(0o755)
    given = (ROOT / "pyproject.toml").read_bytes() + (ROOT / "examples" / "constraints.txt").read_bytes() + b"\n"
    checksum = subprocess.run(["cksum"], input=given, stdout=subprocess.PIPE, check=True).stdout.split()[0]
    (folder / f"installed-{checksum.decode()}").touch()
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WHISPERQ_VENV": str(folder)}
    command = [sys.executable, preloaded, "serve", socket]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"ready\n"
        yield {**variables, "RUN": str(tmp_path / "made")}
        server.kill()


@pytest.mark.slow
def test_one_command_leads_to_an_int8_model(without_data, teacher, environment):
    def called(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["bash", SCRIPT, teacher, *arguments], env=environment, capture_output=True, text=True)

    run, refused = Path(environment["RUN"]), called("nowhere.wav")
    assert refused.returncode and "nowhere.wav" in refused.stderr and not run.exists()  # at once
    first = called()
    assert first.returncode == 0, first.stderr
    transcripts, table = first.stdout.split("check-15.opus")
    assert "check-06.opus" in transcripts and "RTFx" in table and "smoke check" in table
    quantized = json.loads(next((run / "quantized").glob("*/manifest.json")).read_text())["results"]
    row = next(line for line in table.splitlines() if teacher.name in line)
    assert f"{quantized['float_bytes'] / 1e6:.1f} -> {quantized['bytes'] / 1e6:.1f}" in row
    words = sum(len(re.findall(r"\w+", line["text"])) for line in lines("check"))
    assert "of 16 " in row and f" {words} " in row
    assert called().stderr.count("is finished already, by this very command") == 4  # all but the transcripts
