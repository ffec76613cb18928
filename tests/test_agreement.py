"""The integer runtimes against the emulated one on thousands of real words; needs what WHISPERQ_SPEECH names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from whisperq.config import source
from whisperq.data.lists import read
from whisperq.options import Execution
from whisperq.runtime.open import open_runtime
from whisperq.settings import Context

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
SPEECH = os.environ.get("WHISPERQ_SPEECH")
CPU = Context(device="cpu")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not SPEECH or not Path(SPEECH, "digits.jsonl").is_file(),
        reason="WHISPERQ_SPEECH names no folder with digits.jsonl",
    ),
]


def whisperq(*arguments: str | Path, folder: Path) -> dict:
    """A command in a process of its own -> its results."""
    done = subprocess.run(
        [sys.executable, "-m", "whisperq", *arguments, "--run", folder / "run", "--json"],
        capture_output=True, text=True, timeout=900, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["results"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped teacher, INT8, calibrated on real strings; beside it the lists of real strings."""
    folder = tmp_path_factory.mktemp("agreement")
    subprocess.run(
        [sys.executable, DIGITS / "join_digits.py", "--speech", SPEECH, "--out", folder / "real"],
        check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    model = ("--model", DIGITS / "teacher")
    whisperq("calibrate", *model, "--data", folder / "real" / "validation.jsonl", "--batches", "8", folder=folder)
    whisperq("quantize", *model, folder=folder)
    return folder


def evaluate(folder: Path, runtime: str, *flags: str) -> tuple[dict, list[str]]:
    """Results on the held-out takes, and every transcript."""
    name = "-".join((runtime, *(f.strip("-") for f in flags)))
    out = folder / "run" / "eval" / name
    takes = f"takes={folder / 'real' / 'test_takes.jsonl'}"
    flags = (*flags, "--test", takes, "--normalizer", "basic", "--out", out)
    results = whisperq("eval", "--model", "gemm-w8a8", "--runtime", runtime, *flags, folder=folder)
    lines = (out / "hypotheses" / "takes.jsonl").read_text().splitlines()
    return results["sets"]["takes"], [json.loads(line)["pred_text"] for line in lines]


@pytest.fixture(scope="module")
def reference(folder: Path) -> tuple[dict, list[str]]:
    return evaluate(folder, "emulated")


@pytest.mark.parametrize(
    "runtime, flags, points",
    [
        ("int8", ("--attention-dtype", "float32"), 0.05),
        ("int8", (), 0.1),  # bfloat16 attention, where the CPU has it
        ("onnx", (), 0.1),
        ("openvino", (), 0.1),
    ],
)
def test_transcripts_and_error_rates_are_the_emulated_ones(folder, reference, runtime, flags, points) -> None:
    expected, texts = reference
    found, ours = evaluate(folder, runtime, *flags)
    assert found["reference_words"] == expected["reference_words"] >= 2000
    assert 100 * abs(found["wer"] - expected["wer"]) <= points
    equal = sum(a == b for a, b in zip(ours, texts, strict=True)) / len(texts)
    assert equal >= 0.995


def forced_logits(folder: Path, runtime: str) -> torch.Tensor:
    """Logits (utterances, vocabulary) after all but the last token of the references of sixteen real strings."""
    takes = read(source(str(folder / "real" / "test_takes.jsonl"), folder, "test"))
    execution = Execution(runtime=runtime, attention_dtype="float32" if runtime == "int8" else "auto")
    with open_runtime(folder / "run" / "quantized" / "gemm-w8a8", execution, CPU) as opened:
        rows = []
        for utterance in takes.utterances[:16]:
            batch = opened.loader.labelled([utterance])
            state = opened.runtime.encode(batch.features)
            rows.append(opened.runtime.decode_step(batch.tokens.inputs, state))
    return torch.cat(rows)


def test_logits_of_real_strings_are_within_a_hundredth(folder) -> None:
    found, expected = forced_logits(folder, "int8"), forced_logits(folder, "emulated")
    assert (found - expected).norm() / expected.norm() < 1e-2
