"""The whole chain through its commands, in real processes, in a folder with only a whisperq.yaml and its data."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
import yaml
from safetensors import safe_open

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
CONFIG = {
    "teacher": "teacher",
    "normalizer": "basic",
    "train": ["data/train.jsonl"],
    "validation": ["data/validation.jsonl"],
    "test": {"digits": "data/test.jsonl"},
    "defaults": {"distill": {"max_steps": 4, "batch_size": 4, "eval_every": 2, "warmup_steps": 1, "eval_limit": 4}},
}


def whisperq(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "whisperq", *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )


def run_json(folder: Path, *arguments: str) -> dict:
    done = whisperq(folder, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def copy_list(name: str, count: int, folder: Path) -> None:
    """The first utterances of the embedded sample, with their audio, as a user would have them."""
    lines = (DIGITS / "sample" / f"{name}.jsonl").read_text().splitlines()[:count]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    for line in lines:
        file = json.loads(line)["audio_filepath"]
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copy(DIGITS / "sample" / file, folder / file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    (folder / "data").mkdir()
    for name, count in (("train", 12), ("validation", 16), ("test", 12)):
        copy_list(name, count, folder / "data")
    shutil.copytree(DIGITS / "teacher", folder / "teacher")
    (folder / "whisperq.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The commands as typed, defaults everywhere else."""
    run_json(folder, "init-student", "--layers", "3")
    run_json(folder, "distill")
    run_json(folder, "calibrate", "--batches", "16")
    run_json(folder, "quantize")
    run_json(folder, "quantize", "--recipe", "paper")
    return folder / "run"


def test_student_repeats_the_teachers_layers(run: Path) -> None:
    results = json.loads((run / "student" / "manifest.json").read_text())["results"]
    assert results["layer_map"] == {"encoder": [0, 2, 4], "decoder": [0, 2]}
    with safe_open(run / "student" / "model.safetensors", "pt") as student:
        copied = student.get_tensor("model.encoder.layers.2.fc1.weight")
    with safe_open(run.parent / "teacher" / "model.safetensors", "pt") as teacher:
        assert copied.equal(teacher.get_tensor("model.encoder.layers.4.fc1.weight").float())


def test_every_file_of_an_artifact_can_be_read_by_whom_its_manifest_can(run: Path) -> None:
    for folder in (run / "student", run / "quantized" / "gemm-w8a8"):
        assert len({file.stat().st_mode for file in folder.rglob("*") if file.is_file()}) == 1


def test_distill_logs_and_keeps_the_best_step(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "distilled" / "metrics.jsonl").read_text().splitlines()]
    validations = {line["step"]: line["validation_wer"] for line in lines if "validation_wer" in line}
    results = json.loads((run / "distilled" / "manifest.json").read_text())["results"]
    assert set(validations) == {2, 4}
    assert results["validation_wer"] == min(validations.values()) == validations[results["best_step"]]
    assert all(line["ce"] > 0 and line["kl"] > 0 for line in lines if "ce" in line)


def test_calibration_keeps_every_batch(run: Path) -> None:
    content = json.loads((run / "calibration" / "ranges.json").read_text())
    site = content["sites"]["dec.1.out_proj"]
    assert len(site["minima"]) == len(site["maxima"]) == 2  # 16 utterances in batches of 8
    low = 0.9 * site["minima"][0] + 0.1 * site["minima"][1]
    assert site["ranges"]["ema"][0] == pytest.approx(low, rel=1e-12)


def test_integer_weights_are_one_byte_each(run: Path) -> None:
    with safe_open(run / "quantized" / "gemm-w8a8" / "quantized.safetensors", "pt") as file:
        assert str(file.get_tensor("model.encoder.layers.0.fc1.weight").dtype) == "torch.int8"
        assert "proj_out.weight" in file.keys() and "model.decoder.embed_tokens.weight" not in file.keys()
    with safe_open(run / "quantized" / "paper-w8a8" / "quantized.safetensors", "pt") as file:
        assert str(file.get_tensor("model.encoder.layers.0.fc1.weight").dtype) == "torch.uint8"


@pytest.mark.parametrize("model", ["distilled", "gemm-w8a8", "paper-w8a8"])
def test_word_error_rate_is_jiwers_on_the_hypotheses(folder: Path, run: Path, model: str) -> None:
    shown = run_json(folder, "eval", "--model", model)
    result = shown["results"]["sets"]["digits"]
    file = Path(folder, shown["path"], "hypotheses", "digits.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 12
    assert all((file.parent / line["audio_filepath"]).is_file() for line in lines)
    references = [line["text"] for line in lines]
    expected = jiwer.process_words(references, [line["pred_text"].lower() for line in lines])
    assert result["wer"] == pytest.approx(expected.wer)
    assert result["substitutions"] == expected.substitutions
    assert result["reference_words"] == sum(len(text.split()) for text in references)
    assert json.loads((file.parents[1] / "results.json").read_text())["sets"]["digits"]["wer"] == result["wer"]


def test_outliers_as_typed(folder: Path, run: Path) -> None:
    shown = run_json(folder, "outliers", "--layer", "dec.1.out_proj")
    assert shown["results"]["model"]["sites"] == ["dec.1.out_proj"]
    statistics = json.loads(Path(folder, shown["path"], "outliers.json").read_text())
    site = statistics["model"]["statistics"]["dec.1.out_proj"]
    assert len(site["outliers_per_dimension"]) == 160 and site["utterances"] == 12
    assert sum(site["outliers_per_dimension"]) == site["outliers"]
    for figure in shown["results"]["figures"]:
        assert Path(folder, shown["path"], figure).stat().st_size > 5000


def test_outliers_of_two_models(folder: Path, run: Path) -> None:
    shown = run_json(folder, "outliers", "--model", "distilled", "--compare", "student", "--limit", "4")
    attention_outputs = 3 + 2 * 2
    assert len(shown["results"]["model"]["sites"]) == len(shown["results"]["compare"]["sites"]) == attention_outputs


@pytest.mark.parametrize("layer", ["dec.1", "dec.-1.cross", "enc.0"])
def test_attention_arrays_add_up(folder: Path, run: Path, layer: str) -> None:
    shown = run_json(folder, "plot-attention", "--layer", layer, "--head", "1")
    arrays = np.load(Path(folder, shown["path"], "attention.npz"))
    np.testing.assert_allclose(arrays["probs"].sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(arrays["product"], arrays["probs"] @ arrays["values"], rtol=1e-5, atol=1e-6)
    for figure in shown["results"]["figures"]:
        assert Path(folder, shown["path"], figure).stat().st_size > 5000


def test_a_requeued_job_finds_its_work_done(folder: Path, run: Path) -> None:
    before = os.stat(run / "calibration" / "manifest.json").st_mtime_ns
    again = whisperq(folder, "calibrate", "--batches", "16")
    assert again.returncode == 0 and "finished already" in again.stderr
    assert os.stat(run / "calibration" / "manifest.json").st_mtime_ns == before


def test_the_run_folder_is_enough_for_later_jobs(folder: Path, run: Path, tmp_path: Path) -> None:
    shown = run_json(tmp_path, "eval", "--run", str(run), "--model", "student", "--limit", "4")
    assert shown["results"]["sets"]["digits"]["utterances"] == 4


def test_a_recording_longer_than_the_window_is_cut_at_silence(folder: Path, run: Path, tmp_path: Path) -> None:
    """Four strings with half a second between them: cut where it is quiet, most words of the four come back."""
    import soundfile

    lines = [json.loads(line) for line in (folder / "data" / "test.jsonl").read_text().splitlines()]
    short = [line for line in lines if 1.9 < line["duration"] < 2.5][:4]
    pieces, texts = [], []
    for line in short:
        pieces += [soundfile.read(folder / "data" / line["audio_filepath"], dtype="float32")[0], np.zeros(8000, "f4")]
        texts.append(line["text"])
    soundfile.write(tmp_path / "long.flac", np.concatenate(pieces), 16000)
    entry = {"audio_filepath": "long.flac", "text": " ".join(texts)}
    (tmp_path / "long.jsonl").write_text(json.dumps(entry) + "\n")
    shown = run_json(
        folder, "eval", "--model", "teacher", "--test", f"long={tmp_path / 'long.jsonl'}", "--out", str(tmp_path / "e")
    )
    assert shown["results"]["sets"]["long"]["audio_seconds"] > 6
    assert shown["results"]["sets"]["long"]["wer"] < 0.25


def test_a_normaliser_that_joins_digits_is_caught(folder: Path, run: Path) -> None:
    """Whisper's English normaliser makes "one two three" the word "123": the change of word count is flagged."""
    done = whisperq(folder, "eval", "--model", "student", "--normalizer", "english", "--out", "english", "--json")
    result = json.loads(done.stdout)["results"]["sets"]["digits"]
    assert result["reference_words"] == 12 < result["raw_reference_words"]
    assert result["normalizer_changed_words"] is True
    assert "normaliser" in done.stderr and "reference words" in done.stderr
