"""What quantizing does to OpenAI's own tiny.en: its massive values are found, and static INT8 is as near as dynamic."""

import json
from pathlib import Path

import pytest
from conftest import Invoke
from support.real import SPEECH, dev_utterances, whisper_folder

from whisperq import artifact
from whisperq.scoring.normalizers import get_normalizer
from whisperq.scoring.words import count_errors

pytestmark = pytest.mark.slow

SCHEMES = {
    "searched": (),
    "plain": ("--smooth", "none", "--massive", "none"),
    "dynamic": ("--activations", "dynamic"),
}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory, invoke: Invoke) -> Path:
    """A folder of the three, calibrated on 16 recordings of speakers who are not in the test's."""
    model, _ = whisper_folder("whisper-tiny.en"), dev_utterances(1)
    folder = tmp_path_factory.mktemp("outliers")
    common = ("--model", model, "--run", folder)
    data = ("--data", SPEECH / "librispeech_train.jsonl", "--batches", 4, "--batch-size", 4)
    for arguments in (("calibrate", *data), *(("quantize", *f, "--out", folder / n) for n, f in SCHEMES.items())):
        result = invoke(*arguments, *common)
        assert result.exit_code == 0, result.output
    return folder


def kl(quantized: Path, name: str, invoke: Invoke) -> float:
    """Nats per token of teacher-forced logits, on LJ Speech, which is written as Whisper writes."""
    data = ("--data", SPEECH / "ljspeech_train.jsonl", "--limit", 8, "--by", "model")
    result = invoke("sensitivity", "--model", quantized / name, "--run", quantized, *data, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["results"]["everything"]["kl"]


def test_the_search_leaves_a_third_of_the_divergence(quantized: Path, invoke: Invoke) -> None:
    found = {name: kl(quantized, name, invoke) for name in SCHEMES}
    assert found["searched"] < found["plain"] / 3
    assert found["searched"] < 1.5 * found["dynamic"]


def test_massive_neurons_are_set_apart(quantized: Path) -> None:
    """The encoder's last feed-forward block: neuron 1124 reaches hundreds, others tens."""
    grids = json.loads((quantized / "searched" / "qparams.json").read_text())["activations"]
    massive = grids["enc.3.fc2:input"]["a16"]
    assert 1124 in massive["channels"] and massive["range"][1] > 500 > 5 * grids["enc.3.fc2:input"]["range"][1]
    results = artifact.load(quantized / "searched").results
    assert 0 < results["extra_products"] <= 0.05 and len(results["smoothed"]) > 20
    assert results["bytes"] <= 0.27 * 4 * 37_760_640


def test_integers_are_as_near_as_emulation(quantized: Path, invoke: Invoke) -> None:
    """Words of eight recordings; attention in float32, so that grids alone decide.

    Not whole texts: even the emulation writes one in ten otherwise with another CPU's instructions.
    """
    texts = {}
    for runtime, flags in (("emulated", ()), ("int8", ("--attention-dtype", "float32"))):
        out = quantized / f"eval-{runtime}"
        test = ("--test", f"dev={SPEECH / 'librispeech_dev.jsonl'}", "--limit", 8, "--runtime", runtime, *flags)
        result = invoke("eval", "--model", quantized / "searched", *test, "--out", out, "--run", quantized)
        assert result.exit_code == 0, result.output
        lines = (out / "hypotheses" / "dev.jsonl").read_text().splitlines()
        texts[runtime] = [json.loads(line)["pred_text"] for line in lines]
    apart = count_errors(*texts.values(), get_normalizer("english"))
    assert apart.reference_words > 200 and apart.wer < 0.03


def test_the_atlas_finds_massive_values_where_hooks_found_them(tmp_path: Path, invoke: Invoke) -> None:
    """Neuron 1124 and residual channel 354 at a frame of the padding, decoder channel 192 at the first token."""
    model, _ = whisper_folder("whisper-tiny.en"), dev_utterances(1)
    flags = ("--massive", "--layer", "enc.3.fc2:input,enc.3.mlp_sum,dec.*.mlp_sum", "--limit", 2)
    test = ("--test", f"dev={SPEECH / 'librispeech_dev.jsonl'}")
    result = invoke("outliers", "--model", model, *test, *flags, "--out", tmp_path / "a", "--run", tmp_path)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "a" / "outliers.json").read_text())["model"]["statistics"]
    for site, channel, size in (("enc.3.fc2:input", 1124, 556), ("enc.3.mlp_sum", 354, 622)):
        peak = next(p for p in found[site]["massive"]["peaks"] if p["role"] == "padding")
        assert (peak["channel"], peak["largest_in"]) == (channel, 2) and abs(peak["position"] - 1478) < 5
        assert abs(peak["value"]) == pytest.approx(size, rel=0.05)
    assert found["enc.3.fc2:input"]["massive"]["massive_channels"]["padding"] == [1124, 1208, 1430]
    peak = found["dec.2.mlp_sum"]["massive"]["peaks"][0]
    assert (peak["channel"], peak["position"], peak["token"]) == (192, 0, "<|startoftranscript|>")
