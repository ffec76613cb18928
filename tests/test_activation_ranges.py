"""Dynamic ranges and weights alone: what is quantized, in which runtime, and that no calibration decides it."""

import json

import pytest
import torch
from support.exported import difference, exported, opened, pytorch_logits, step_logits
from support.low_bit_folders import folder_of
from support.tiny import PROMPT, decoder_ids, features, gated_model, logits_of

from whisperq import artifact
from whisperq.errors import UsageError
from whisperq.models.sites import model_sites, watch
from whisperq.ptq.checkpoint import QPARAMS, PerToken, apply_weights, load_quantized
from whisperq.ptq.plan import make_plan
from whisperq.runtime.int8.whisper import Int8Runtime
from whisperq.runtime.open import open_model
from whisperq.settings import Context

CPU = Context(device="cpu")
CONVOLVED = {"enc.conv1:input", "enc.conv2:input"}


def by_hand(x: torch.Tensor) -> torch.Tensor:
    """Each row through torch's own fake quantization, its scale and zero point from its own ends."""
    rows = []
    for row in x.flatten(0, -2):
        low, high = min(float(row.min()), 0.0), max(float(row.max()), 0.0)
        scale = (high - low) / 255
        rows.append(torch.fake_quantize_per_tensor_affine(row, scale, round(-low / scale), 0, 255))
    return torch.stack(rows).view_as(x)


def test_dynamic_activations_are_each_rows_own(tmp_path):
    model = gated_model()
    folder, quantization = folder_of(model, tmp_path / "model", activations="dynamic")
    with open_model(folder, CPU) as opened_model:
        found = logits_of(opened_model.model)
    sites = model_sites(model)
    assert quantization.activations.keys() == {*make_plan(model, "gemm").activations} - CONVOLVED
    apply_weights(model, quantization.weights)
    with watch(model, sites, dict.fromkeys(quantization.activations, by_hand)):
        expected = logits_of(model)
    assert difference(found, expected) < 0.02 < 20 * difference(found, logits_of(model))


def test_dynamic_decoding_forgets_nothing(tmp_path):
    """A token's grid is its own: with a cache or without, alone or in a batch, it is the same."""
    folder, _ = folder_of(gated_model(), tmp_path / "model", activations="dynamic")
    with open_model(folder, CPU) as model:
        prompt = torch.cat([torch.tensor([PROMPT] * 2), decoder_ids(2, 4)], dim=1)
        stepwise, whole = (model.runtime.encode(features(2)) for _ in range(2))
        with torch.inference_mode():
            for token in prompt.split(1, dim=1):
                last = model.runtime.decode_step(token, stepwise)
            at_once = model.runtime.decode_step(prompt, whole)
            alone = model.runtime.decode_step(prompt[:1], model.runtime.encode(features(2)[:1]))
    assert difference(last, at_once) < 1e-2 and difference(alone, at_once[:1]) < 1e-2


def test_dynamic_grids_have_no_range_on_disk(tmp_path):
    folder, _ = folder_of(gated_model(), tmp_path / "model", activations="dynamic")
    entries = json.loads((folder / QPARAMS).read_text())["activations"]
    assert {json.dumps(e) for e in entries.values()} == {
        json.dumps({"quant_min": 0, "quant_max": 255, "granularity": "per-token"})
    }
    _, loaded = load_quantized(folder, torch.float32, "cpu")
    assert loaded.activations == dict.fromkeys(entries, PerToken(8))


def test_half_precision_runs_too(tmp_path):
    folder, _ = folder_of(gated_model(), tmp_path / "model", activations="dynamic")
    with open_model(folder, Context(device="cpu", dtype="bfloat16")) as model, torch.inference_mode():
        logits = model.runtime.decode_step(decoder_ids(2, 4), model.runtime.encode(features(2)))
    assert logits.isfinite().all()


def test_graphs_do_not_express_dynamic_activations(tmp_path):
    folder, _ = folder_of(gated_model(), tmp_path / "model", activations="dynamic")
    with pytest.raises(UsageError, match=r"has dynamic activations.*--runtime int8.*--activations static"):
        exported(folder)
    assert not (tmp_path / "model-onnx").exists()


def test_weights_alone_leave_activations_float(tmp_path):
    model = gated_model()
    folder, quantization = folder_of(model, tmp_path / "model", 4, activations="none")
    assert quantization.activations == {} and len(quantization.weights) == 41
    apply_weights(model, quantization.weights)
    with open_model(folder, CPU) as opened_model:
        assert torch.equal(logits_of(opened_model.model), logits_of(model))


def test_weights_alone_run_in_float_everywhere_and_it_is_told(tmp_path):
    folder, _ = folder_of(gated_model(), tmp_path / "model", 4, activations="none")
    expected, runtime = pytorch_logits(folder, batch=9), Int8Runtime.load(folder, "cpu", "float32")
    assert runtime.products().integer == () and runtime.products().floating["enc.0.fc1"] == "float input"
    assert difference(step_logits(runtime, batch=9), expected) < 1e-3
    graphs = opened(exported(folder), "onnx")
    assert graphs.products().integer == () and graphs.products().floating["enc.0.fc1"] == "--activations none"
    assert difference(step_logits(graphs, batch=9), expected) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("ranges", ["dynamic", "none"])
def test_no_calibrated_range_is_needed(ranges, copied_run, invoke):
    """A calibration of one site alone, for other bits, will do: it names the model."""
    few = copied_run / "few"
    observing = ("--observer", "mse", "--sites", "enc.0.fc1", "--batches", 1, "--out", few)
    assert invoke("calibrate", "--run", copied_run, *observing).exit_code == 0
    out = copied_run / "quantized" / ranges
    bits = ("--activation-bits", 6) if ranges == "dynamic" else ()
    flags = ("--activations", ranges, "--calibration", few, "--out", out, *bits)
    result = invoke("quantize", "--run", copied_run, *flags)
    assert result.exit_code == 0, result.output
    name = {"dynamic": "gemm W8A6, dynamic activations", "none": "gemm W8, weights alone"}[ranges]
    assert f"Quantized: {name}" in result.output
    results = artifact.load(out, "quantized").results
    assert results["activation_ranges"] == ranges
    assert results["activation_bits"] == {"dynamic": 6, "none": None}[ranges]
    reasons = results["float_activations_by_reason"]
    assert (reasons.get("--activations none", 0) > 0) == (ranges == "none")
    assert invoke("eval", "--run", copied_run, "--model", ranges, "--limit", 1).exit_code == 0


@pytest.mark.parametrize("ranges", ["static", "dynamic", "none"])
@pytest.mark.parametrize("recipe", ["gemm", "paper"])
def test_every_site_has_a_grid_or_a_reason(recipe, ranges):
    model = gated_model("shared")
    plan, whole = make_plan(model, recipe, activation_ranges=ranges), make_plan(model, recipe)
    assert {*plan.activations} | {*plan.float_activations} == set(model_sites(model))
    without = {"static": set(), "dynamic": CONVOLVED, "none": {*whole.activations}}[ranges]
    assert {*plan.activations} == {*whole.activations} - without
    assert plan.weights == whole.weights
