"""Models with outliers through the commands: what the search chooses, and that every runtime runs what it chose."""

import json
from pathlib import Path

import pytest
from planted import planted_folder
from safetensors.torch import load_file
from support.cpu import needs_vnni
from support.exported import CPU, difference
from support.smoothed_models import spoken_logits

from whisperq import artifact
from whisperq.options import ExportConfig
from whisperq.ptq.checkpoint import QPARAMS
from whisperq.ptq.folding import SCALES
from whisperq.ptq.statistics import CHANNELS
from whisperq.steps.export import export

PLAIN = ("--smooth", "none", "--massive", "none")


def run(invoke, folder: Path, *arguments) -> artifact.Artifact:
    result = invoke(*arguments, "--run", folder)
    assert result.exit_code == 0, result.output
    return artifact.load(Path(arguments[arguments.index("--out") + 1]))


@pytest.fixture(scope="module")
def models(finished_run, tmp_path_factory, invoke) -> Path:
    """planted/ (a channel 256 times as large) and its calibration, auto/ and plain/ made of it; of distilled/ too."""
    folder = tmp_path_factory.mktemp("scaled")
    planted_folder(finished_run / "distilled", 256.0, folder / "planted")
    for name, model in (("", folder / "planted"), ("whole-", finished_run / "distilled")):
        calibration = folder / f"{name}calibration"
        run(invoke, finished_run, "calibrate", "--model", model, "--out", calibration)
        common = ("--model", model, "--calibration", calibration)
        run(invoke, finished_run, "quantize", *common, "--out", folder / f"{name}auto")
        run(invoke, finished_run, "quantize", *common, *PLAIN, "--out", folder / f"{name}plain")
    return folder


def test_planted_outliers_cost_nothing(models, digits):
    expected = spoken_logits(models / "planted", digits)
    errors = {name: difference(spoken_logits(models / name, digits), expected) for name in ("auto", "plain")}
    assert errors["auto"] < 0.1 * errors["plain"]


def test_outliers_beyond_half_precision_cost_no_more(models, finished_run, digits, tmp_path, invoke):
    planted_folder(finished_run / "distilled", 2.0**18, tmp_path / "planted")  # the norms' channel 7: up to 10^6
    model, calibration = ("--model", tmp_path / "planted"), tmp_path / "calibration"
    run(invoke, finished_run, "calibrate", *model, "--out", calibration)
    made = run(invoke, finished_run, "quantize", *model, "--calibration", calibration, "--out", tmp_path / "q")
    expected = spoken_logits(tmp_path / "planted", digits)
    found, usual = (difference(spoken_logits(folder, digits), expected) for folder in (made.path, models / "auto"))
    assert found < 2 * usual


def test_what_was_chosen_is_said(models, invoke):
    sealed = artifact.load(models / "auto")
    results, scales = sealed.results, load_file(models / "auto" / SCALES)
    assert results["smooth"] == "auto" and set(results["smoothed"]) == set(results["scaled"]) == set(scales)
    assert all(one["error"] < one["error_before"] for one in results["scaled"].values())
    planted = {a for a, s in scales.items() if a.endswith("_norm") and int(s.argmax()) == 7}
    assert {a for a in scales if a.endswith("_norm")} == planted  # channel 7 is the one
    assert results["massive"] and 0 < results["extra_products"] <= 0.05
    shown = " ".join(invoke("show", models / "auto").output.split())
    assert f"{len(scales)} sites scaled" in shown and "on 16 bits" in shown
    worst = max(results["massive"], key=lambda site: results["massive"][site]["error_saved"])
    assert "more integer products" in shown and worst in shown.split("Massive channels")[1]


def test_a_model_without_outliers_is_left_alone(models):
    auto, plain = (models / name for name in ("whole-auto", "whole-plain"))
    assert not (auto / SCALES).exists() and artifact.load(auto).results["massive"] == {}
    for file in (QPARAMS, "quantized.safetensors"):
        assert (auto / file).read_bytes() == (plain / file).read_bytes()


@pytest.mark.parametrize("portable", [False, True])
def test_integers_agree_with_emulation(portable, models, digits, request):
    if portable:
        needs_vnni()
        request.getfixturevalue("no_compiler")
    emulated = spoken_logits(models / "auto", digits)
    assert difference(spoken_logits(models / "auto", digits, "int8"), emulated) < 1e-2


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_graphs_agree_with_emulation(engine, models, finished_run, digits, tmp_path, invoke):
    """Of floats in the place of cross-attention's coded keys and values, which graphs do not keep."""
    flags = ("--model", models / "planted", "--calibration", models / "calibration", "--cross-cache", "float")
    folder = run(invoke, finished_run, "quantize", *flags, "--out", tmp_path / "model").path
    emulated = spoken_logits(folder, digits)
    sealed = export(folder, tmp_path / "graphs", ExportConfig(), CPU)
    found = spoken_logits(sealed.path, digits, engine)
    assert difference(found, emulated) < 2e-2
    assert "dec.0.fc2" in sealed.results["integer_products"]


def test_the_budget_is_kept_and_none_is_none(models, finished_run, invoke):
    common = ("quantize", "--model", models / "planted", "--calibration", models / "calibration")
    little = run(invoke, finished_run, *common, "--budget", "0.1", "--out", models / "little").results
    assert 0 < little["extra_products"] <= 0.001
    nothing = run(invoke, finished_run, *common, "--massive", "none", "--out", models / "nothing").results
    assert nothing.get("massive", {}) == {} and nothing["smoothed"]


def test_one_alpha_for_all_norms_has_the_decoders_margin_too(models, finished_run, invoke):
    common = ("quantize", "--model", models / "planted", "--calibration", models / "calibration", "--smooth", 0.5)
    made = run(invoke, finished_run, *common, "--budget", 0, "--out", models / "alpha")
    scales, seen = load_file(made.path / SCALES), load_file(models / "calibration" / CHANNELS)
    grids = json.loads((made.path / QPARAMS).read_text())["activations"]
    assert {site.split(".")[0] for site in made.results["smoothed"]} == {"enc", "dec"}
    for site in made.results["smoothed"]:
        ends = (seen[f"{site}.minima"] / scales[site]).min(), (seen[f"{site}.maxima"] / scales[site]).max()
        factor = 1.25 if site.startswith("dec.") else 1.0
        assert grids[site]["range"] == pytest.approx([factor * float(end) for end in ends], rel=1e-6), site


@pytest.mark.parametrize("observer", ["minmax", "percentile"])
def test_what_an_observer_cuts_off_no_margin_brings_back(observer, models, finished_run, tmp_path, invoke):
    """The decoder's quarter is for ends that were seen; a percentile's range is what ranges.json says."""
    model, calibration = ("--model", models / "planted"), tmp_path / "calibration"
    flags = ("--observer", "minmax,percentile", "--percentile", 99)
    run(invoke, finished_run, "calibrate", *model, *flags, "--out", calibration)
    common = ("quantize", *model, "--calibration", calibration, "--observer", observer, "--budget", 0)
    made = run(invoke, finished_run, *common, "--out", tmp_path / "q")
    sites = json.loads((calibration / "ranges.json").read_text())["sites"]
    grids = json.loads((made.path / QPARAMS).read_text())["activations"]
    left = [a for a in grids if a.startswith("dec.") and a not in made.results["smoothed"]]
    assert made.results["smoothed"] and len(left) >= 2
    for site in left:
        wanted = [end * (1.25 if observer == "minmax" else 1) for end in sites[site]["ranges"][observer]]
        assert grids[site]["range"] == pytest.approx(wanted), site


def test_sites_are_put_on_16_bits_by_name(models, finished_run, digits, invoke):
    common = ("quantize", "--model", models / "planted", "--calibration", models / "calibration", "--smooth", "none")
    out = models / "named"
    run(invoke, finished_run, *common, "--massive", "*.*.mlp_norm,dec.*.attn_norm,enc.*.attn_norm", "--out", out)
    grids = json.loads((out / QPARAMS).read_text())["activations"]
    assert {a for a, grid in grids.items() if grid["quant_max"] == 65535} == {
        a for a in grids if a.endswith((".mlp_norm", ".attn_norm")) and ".cross." not in a
    }
    assert difference(spoken_logits(out, digits, "int8"), spoken_logits(out, digits)) < 1e-2
    for pattern, reason in (("enc.conv2:input", "convolution"), ("enc.0.scores", "leaves in float")):
        refused = invoke(*common, "--massive", pattern, "--out", models / "refused", "--run", finished_run)
        assert refused.exit_code == 2 and reason in refused.stderr


def test_sensitivity_scales_the_float_model_alike(models, finished_run, digits, invoke):
    common = ("--model", models / "auto", "--data", digits / "test.jsonl", "--by", "model")
    found = run(invoke, finished_run, "sensitivity", *common, "--out", models / "sensitivity").results["everything"]
    assert found["snr_db"] > 25  # grids of a scaled model on an unscaled one would leave nothing of its logits


def test_a_calibration_without_rows_scales_nothing_and_says_so(models, finished_run, invoke):
    out = models / "rowless"
    run(invoke, finished_run, "calibrate", "--no-channel-maxima", "--model", models / "planted", "--out", out)
    flags = ("--model", models / "planted", "--calibration", out, "--out", models / "unscaled")
    result = invoke("quantize", *flags, "--run", finished_run)
    assert result.exit_code == 0 and "kept no rows to search with" in " ".join(result.stderr.split())
    assert not (models / "unscaled" / SCALES).exists()


@pytest.mark.parametrize("flag", [("--smooth", "much"), ("--smooth", "1.5"), ("--budget", "-1")])
def test_values_that_mean_nothing_are_refused(flag, finished_run, invoke):
    assert invoke("quantize", "--run", finished_run, *flag, "--out", "nowhere").exit_code == 2
