"""--padding short on the commands: transcribed as in full, told in the results, and refused where it cannot be had."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import DIGITS
from support.exported import CPU, exported, quantized_folder
from support.tiny import gated_model

from whisperq import artifact
from whisperq.options import Execution
from whisperq.runtime.open import open_runtime

TEACHER, SAMPLE = DIGITS / "teacher", DIGITS / "sample"
TEST = ("--test", f"digits={SAMPLE / 'test.jsonl'}", "--limit", "32", "--normalizer", "basic")


@pytest.fixture(scope="module")
def run(tmp_path_factory, invoke) -> Path:
    """The digits' teacher run both ways, with its padding computed and left out."""
    run = tmp_path_factory.mktemp("padding") / "run"
    for padding in ("full", "short"):
        done = invoke("eval", "--model", TEACHER, "--run", run, *TEST, "--padding", padding, "--out", run / padding)
        assert done.exit_code == 0, done.output
    return run


def hypotheses(folder: Path) -> list[str]:
    lines = (folder / "hypotheses" / "digits.jsonl").read_text().splitlines()
    return [json.loads(line)["pred_text"] for line in lines]


@pytest.mark.slow
def test_spoken_digits_are_transcribed_alike(run):
    full, short = hypotheses(run / "full"), hypotheses(run / "short")
    assert sum(a == b for a, b in zip(full, short, strict=True)) >= len(full) - 2


def test_results_say_how_much_was_computed(run):
    full, short = (artifact.load(run / name).results for name in ("full", "short"))
    assert short["tail_seconds"] == 0.5 and "tail_seconds" not in full
    assert full["sets"]["digits"]["decoded_again"] == 0 <= short["sets"]["digits"]["decoded_again"]


def test_transcribe_leaves_out_the_padding_of_recordings(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [json.loads(line) for line in (SAMPLE / "test.jsonl").read_text().splitlines()[:4]]
    files = [SAMPLE / line["audio_filepath"] for line in lines]
    how = ("--model", TEACHER, "--padding", "short", "--format", "json", "--out", "all.json")
    done = invoke("transcribe", *files, *how)
    assert done.exit_code == 0, done.output
    assert "padding is left out, but for a tail of 0.5 s" in done.output


@pytest.mark.slow
def test_labels_are_written_without_the_padding(invoke, tmp_path):
    data = ("--data", SAMPLE / "validation.jsonl", "--normalizer", "basic")
    done = invoke("pseudo-label", "--model", TEACHER, *data, "--padding", "short", "--out", tmp_path / "labels")
    assert done.exit_code == 0, done.output
    results = artifact.load(tmp_path / "labels").results
    assert results["tail_seconds"] == 0.5 and results["wer"] < 0.05


@pytest.mark.parametrize("samples", [0, 1, 16_000, 64_000])
def test_silence_alone_is_transcribed_as_in_full(samples):
    found = []
    for padding in ("full", "short"):
        with open_runtime(TEACHER, Execution(padding=padding), CPU) as opened:
            found.append(opened.rules.read(opened.runtime, opened.loader.features([np.zeros(samples, np.float32)])))
    assert found[0] == found[1]


def test_an_artifact_from_before_needs_nothing_more(tmp_path):
    """What is kept is made of the model when it is first needed, and nothing is written beside the weights."""
    folder = quantized_folder(gated_model(), tmp_path / "model")
    before = sorted(folder.rglob("*"))
    with open_runtime(folder, Execution(runtime="int8", padding="short"), CPU) as opened:
        runtime = opened.runtime
        assert "kept" not in vars(runtime)
        runtime.encode(opened.loader.features([np.ones(1000, np.float32)]))
        assert len(runtime.kept.encoder) == 2 and runtime.kept.encoder[0].shape == (50, 64)
    assert sorted(folder.rglob("*")) == before and artifact.load(folder).kind == "quantized"


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_graphs_refuse_it_with_a_sentence(invoke, runtime, tmp_path):
    pytest.importorskip("onnx")
    folder = exported(quantized_folder(gated_model(), tmp_path / "model"), tmp_path / "onnx")
    done = invoke("eval", "--model", folder, *TEST, "--runtime", runtime, "--padding", "short", "--dry-run")
    assert done.exit_code == 2
    assert f"the graphs of {runtime} take whole windows" in done.output


def test_ctc_models_refuse_it(invoke, tmp_path):
    done = invoke("eval", "--model", DIGITS / "wav2vec2", *TEST, "--padding", "short", "--out", tmp_path / "eval")
    assert done.exit_code == 2 and "--padding short is for Whisper" in done.output
