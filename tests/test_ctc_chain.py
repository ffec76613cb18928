"""The commands on wav2vec 2.0 and HuBERT as on Whisper."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.tiny_ctc import RATE, save_checkpoint

from whisperq import artifact
from whisperq.data.batches import epoch_order
from whisperq.models.loading import load_model
from whisperq.models.sites import model_sites, watch
from whisperq.ptq.smoothing import smooth
from whisperq.runtime.open import open_model
from whisperq.settings import Context

pytestmark = pytest.mark.slow

WORDS = ("one", "two", "three", "six", "seven")
SECONDS = (0.4, 1.1)


@pytest.fixture(scope="module")
def noises(tmp_path_factory) -> Path:
    """A list of noises of many lengths."""
    folder = tmp_path_factory.mktemp("noises")
    generator = np.random.default_rng(0)
    lines = []
    for i in range(10):
        samples = 0.1 * generator.standard_normal(int(RATE * generator.uniform(*SECONDS)))
        soundfile.write(folder / f"{i}.wav", samples, RATE)
        text = " ".join(generator.choice(WORDS, 3))
        lines.append(json.dumps({"audio_filepath": f"{i}.wav", "text": text, "duration": len(samples) / RATE}))
    (folder / "noises.jsonl").write_text("\n".join(lines))
    return folder / "noises.jsonl"


@pytest.fixture(params=["wav2vec2-base", "hubert-large"])
def calibrated(request, noises, tmp_path, monkeypatch, invoke) -> Path:
    """A run folder, in the present one, whose calibration is of a tiny model beside it."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "tiny", request.param)
    flags = ("--model", "tiny", "--data", noises, "--batches", 2, "--batch-size", 3, "--channel-maxima")
    done = invoke("calibrate", *flags)
    assert done.exit_code == 0, done.output
    return tmp_path / "run"


def results(path: str) -> dict:
    return artifact.load(Path(path)).results


def test_from_calibration_to_word_error_rates(calibrated, noises, invoke):
    found = results("run/calibration")
    assert found["utterances"] == 6 and found["sites"] == len(
        model_sites(load_model(Path("tiny"), torch.float32, "cpu"))
    )
    assert invoke("quantize").exit_code == 0
    quantized = results("run/quantized/gemm-w8a8")
    assert quantized["weights"] == 3 + 1 + 1 + 12 + 1 and quantized["float_weights"] == {}
    assert quantized["bytes"] < quantized["float_bytes"] / 2
    for model in ("tiny", "gemm-w8a8"):
        done = invoke("eval", "--model", model, "--test", f"n={noises}", "--normalizer", "basic")
        assert done.exit_code == 0, done.output
    hypotheses = [
        [json.loads(line)["pred_text"] for line in Path(f"run/eval/{name}/hypotheses/n.jsonl").read_text().splitlines()]
        for name in ("tiny-float", "gemm-w8a8-emulated")
    ]
    assert len(hypotheses[0]) == 10 and all(set(text) <= set("EFGHINORSTUVWXZ ") for text in hypotheses[0])
    letters = ["".join(h) for h in hypotheses]
    assert letters[0] and abs(len(letters[0]) - len(letters[1])) < 0.3 * len(letters[0])


def test_an_utterance_is_transcribed_alike_in_any_batch(calibrated, noises, invoke):
    texts = []
    for size in (1, 7):
        out = f"by{size}"
        done = invoke("eval", "--model", "tiny", "--test", f"n={noises}", "--batch-size", size, "--out", out)
        assert done.exit_code == 0, done.output
        texts.append(
            [json.loads(line)["pred_text"] for line in Path(out, "hypotheses/n.jsonl").read_text().splitlines()]
        )
    assert texts[0] == texts[1]


def test_calibrated_ranges_are_those_of_the_utterances_alone(calibrated, noises):
    """transformers' inputs one by one give the same least and greatest values: padding was in none."""
    ranges = json.loads(Path("run/calibration/ranges.json").read_text())["sites"]
    with open_model(Path("tiny"), Context()) as opened:
        sites = model_sites(opened.model)
        seen = {a: [np.inf, -np.inf] for a in sites}

        def see(x, address):
            x = x[..., :-1] if address == "pos_conv" and cut else x
            seen[address][0] = min(seen[address][0], float(x.min()))
            seen[address][1] = max(seen[address][1], float(x.max()))

        cut = opened.model.config.num_conv_pos_embeddings % 2 == 0
        used = json.loads(Path("run/calibration/manifest.json").read_text())["config"]["seed"]
        lines = [json.loads(line) for line in noises.read_text().splitlines()]
        with watch(opened.model, sites, {a: lambda x, a=a: see(x, a) for a in sites}), torch.inference_mode():
            for index in epoch_order(len(lines), used, 0)[:6]:
                audio, _ = soundfile.read(noises.parent / lines[index]["audio_filepath"], dtype="float32")
                values = opened.processor.feature_extractor(audio, sampling_rate=RATE, return_tensors="pt").input_values
                opened.model(values)
    for address, (low, high) in seen.items():
        if address.endswith(".probs"):  # known, so that nobody looks at them
            assert 0 <= low and high <= 1 and ranges[address]["known"] == [0, 1]
            continue
        assert min(ranges[address]["minima"]) == pytest.approx(low, rel=1e-3, abs=1e-4), address
        assert max(ranges[address]["maxima"]) == pytest.approx(high, rel=1e-3, abs=1e-4), address


@pytest.mark.parametrize(
    "flags",
    ["--activations dynamic", "--activations none --weight-bits 3 --group 8", "--weight-bits 4 --activation-bits 4"],
)
def test_other_schemes_reload_and_run(calibrated, noises, invoke, flags):
    done = invoke("quantize", *flags.split(), "--out", "other")
    assert done.exit_code == 0, done.output
    assert invoke("eval", "--model", "other", "--test", f"n={noises}", "--limit", 2).exit_code == 0


def test_outliers_of_a_convolution_are_counted_by_channel(calibrated, noises, invoke):
    done = invoke("outliers", "--model", "tiny", "--test", f"n={noises}", "--massive", "--layer", "cnn.1")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(next(Path("run/outliers").rglob("outliers.json")).read_text())["model"]["statistics"].values()
    assert len(found["outliers_per_dimension"]) == 16
    figures = {k: v for k, v in found.items() if k not in ("roles", "outliers_per_dimension", "massive")}
    assert found["roles"] == {"speech": figures}  # padding is masked
    assert found["massive"]["peaks"][0]["role"] == "speech"
    assert abs(found["massive"]["peaks"][0]["value"]) == pytest.approx(found["peak"])


def test_outliers_sensitivity_and_transcripts(calibrated, noises, invoke):
    assert invoke("quantize").exit_code == 0
    done = invoke("outliers", "--model", "tiny", "--test", f"n={noises}", "--layer", "cnn.1,enc.*.out_proj")
    assert done.exit_code == 0, done.output
    assert results("run/outliers/tiny/cnn.1+enc.all.out_proj")["padding"] == "padding masked"
    done = invoke("sensitivity", "--data", noises, "--wer", "--limit", 4)
    assert done.exit_code == 0, done.output
    found = json.loads(Path("run/sensitivity/gemm-w8a8/sensitivity.json").read_text())
    assert {"cnn.0", "feature_proj", "pos_conv", "enc.0", "enc.1.mlp", "ctc_head"} <= found["parts"].keys()
    assert found["everything"]["wer"] is not None
    alone = [part["alone"]["snr_db"] for part in found["parts"].values() if part["alone"]["snr_db"] is not None]
    assert min(alone) > found["everything"]["snr_db"] > 5
    done = invoke("transcribe", noises.parent / "0.wav", "--model", "tiny", "--format", "srt")
    assert done.exit_code == 0 and "-->" in done.stdout


def test_references_are_needed_for_word_errors_alone(calibrated, noises, invoke, tmp_path):
    lines = [json.loads(line) for line in noises.read_text().splitlines()][:4]
    silent = tmp_path / "silent.jsonl"
    silent.write_text(
        "\n".join(json.dumps({"audio_filepath": str(noises.parent / e["audio_filepath"])}) for e in lines)
    )
    assert invoke("quantize").exit_code == 0
    for command in (("calibrate", "--model", "tiny", "--out", "c"), ("sensitivity", "--out", "s")):
        done = invoke(*command, "--data", silent)
        assert done.exit_code == 0, done.output
    refused = invoke("sensitivity", "--out", "w", "--wer", "--data", silent)
    assert refused.exit_code == 3 and "has no text" in refused.stderr


@pytest.mark.parametrize(
    "command, code, words",
    [
        ("quantize --recipe paper", 2, "takes --recipe gemm"),
        ("quantize --encoder-only", 2, "all of it encoder"),
        ("init-student --teacher tiny", 3, "this command takes Whisper models"),
        ("distill --model tiny --teacher tiny --train {noises} --validation {noises}", 3, "takes Whisper models"),
        ("plot-attention --model tiny --test n={noises}", 3, "takes Whisper models"),
        ("pseudo-label --model tiny --data {noises}", 3, "takes Whisper models"),
    ],
)
def test_what_is_whispers_alone_is_refused(calibrated, noises, invoke, command, code, words):
    done = invoke(*command.format(noises=noises).split())
    assert done.exit_code == code and words in done.stderr, done.output


def test_smoothing(calibrated, invoke):
    """Of pre-norm models alone, whose float output it leaves as it was."""
    done = invoke("quantize", "--smooth", 0.5)
    model = load_model(Path("tiny"), torch.float32, "cpu")
    if not model.config.do_stable_layer_norm:
        assert done.exit_code == 2 and "residual sums read the norms' outputs too" in done.stderr
        return
    assert done.exit_code == 0, done.output
    x = torch.randn(1, 6000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = model(x).logits
        smooth(model, {"enc.0.attn_norm": torch.linspace(0.1, 30, 32), "enc.1.mlp_norm": torch.linspace(9, 1, 32)}, 0.5)
        torch.testing.assert_close(model(x).logits, before, atol=2e-4, rtol=1e-4)
