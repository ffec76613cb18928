"""The benchmark's script as a process: what it leaves is whole, and its table says what its results say."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "examples" / "benchmarks" / "int8.py"
# Contender -> the module without which it is left out.
CHOSEN = {
    "transformers-float32": "transformers",
    "float": "whisperq",
    "emulated": "whisperq",
    "int8": "whisperq.runtime.int8.whisper",
    "ctranslate2": "ctranslate2",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The results' folder of one round of each family's smallest size."""
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, SCRIPT, "--sizes", "tiny,wav2vec2-tiny", "--rounds", "1", "--tokens", "4"]
    command += ["--batches", "1,2", "--only", ",".join(CHOSEN), "--work", folder / "work", "--out", folder / "out"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_every_contender_is_measured_and_the_table_says_so(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    markdown = (finished / "results.md").read_text()
    expected = [name for name, module in CHOSEN.items() if find_spec(module)]
    contenders = results["sizes"]["tiny"]["contenders"]
    assert list(contenders) == expected and not results["failed"]
    assert list(results["left_out"]) == [name for name in CHOSEN if name not in expected]
    for name in results["left_out"]:
        assert f"- {name}: {CHOSEN[name]} is not installed" in markdown
    assert {"cpu", "cores", "flags", "packages"} <= results["machine"].keys()
    assert results["threads"] == 2 and "torch" in results["machine"]["packages"]
    for contender in contenders.values():
        (only,) = contender["rounds"]
        assert only["load_s"] > 0 and only["peak_bytes"] > 0 and contender["disk_bytes"] > 3e6
        for batch, count in {"1": 3, "2": 1}.items():
            passes = only["passes"][batch]
            assert len(passes) == count and all(p["encode"] > 0 and p["total"] > 0 for p in passes)
            encode, token = (1e3 * median(p[key] for p in passes) for key in ("encode", "token"))
            assert f"| {encode:.1f} ({encode:.1f}-{encode:.1f}) | {token:.2f} ({token:.2f}-{token:.2f}) |" in markdown
        assert f"| {contender['disk_bytes'] / 1e6:.1f} | {only['peak_bytes'] / 1e6:.1f} |" in markdown


def test_a_ctc_model_is_measured_from_waveforms_to_logits(finished: Path) -> None:
    results, markdown = (json.loads((finished / "results.json").read_text()), (finished / "results.md").read_text())
    contenders = results["sizes"]["wav2vec2-tiny"]["contenders"]
    assert list(contenders) == ["transformers-float32", "int8"]
    for contender in contenders.values():
        seconds = median(p["total"] for p in contender["rounds"][0]["passes"]["1"])
        milliseconds, speed = f"{1e3 * seconds:.1f}", f"{10 / seconds:.1f}"
        assert f"| {milliseconds} ({milliseconds}-{milliseconds}) | {speed} ({speed}-{speed}) |" in markdown
    assert contenders["int8"]["disk_bytes"] < 0.3 * contenders["transformers-float32"]["disk_bytes"]
    assert "30 s of audio, 10 s of audio for wav2vec 2.0, random weights" in markdown


def test_the_integers_take_a_third_of_the_disk(finished: Path) -> None:
    contenders = json.loads((finished / "results.json").read_text())["sizes"]["tiny"]["contenders"]
    assert contenders["emulated"]["disk_bytes"] < 0.3 * contenders["transformers-float32"]["disk_bytes"]


def test_an_unknown_contender_is_named() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--only", "float,fast"], capture_output=True, text=True)
    assert done.returncode == 2 and "unknown: fast; known: transformers-float32" in done.stderr
