"""Weights of few bits and with groups: packed on disk, the same numbers in every runtime."""

import json
import shutil

import pytest
import torch
from conftest import DIGITS, run_command
from safetensors.torch import load_file, save_file
from support.exported import difference, exported, opened, pytorch_logits, step_logits
from support.low_bit_folders import folder_of
from support.tiny import gated_model, logits_of

from whisperq import artifact
from whisperq.errors import InputError, UsageError
from whisperq.models.gated_whisper import GATES
from whisperq.options import QuantizeConfig
from whisperq.ptq.checkpoint import (
    QPARAMS,
    WEIGHTS,
    Fit,
    apply_weights,
    load_quantized,
)
from whisperq.runtime.int8.whisper import Int8Runtime
from whisperq.steps.quantize import check_combination


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("recipe", ["gemm", "paper"])
def test_packed_weights_come_back_and_cost_their_bits(recipe, bits, tmp_path):
    model = gated_model("mlp", d_model=44, encoder_ffn_dim=37)  # sizes that fill no byte
    folder, quantization = folder_of(model, tmp_path / "model", bits, recipe=recipe)
    _, loaded = load_quantized(folder, torch.float32, "cpu")
    tensors = load_file(folder / WEIGHTS)
    for name, weight in quantization.weights.items():
        again = loaded.weights[name]
        assert torch.equal(again.codes, weight.codes) and again.codes.dtype == weight.codes.dtype
        assert tensors[name].nbytes == -(-weight.codes.numel() * bits // 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bits, group, method", [(4, 16, "minmax"), (3, 10, "mse"), (8, 64, "minmax"), (2, None, "mse")]
)
@pytest.mark.parametrize("gate", GATES)
def test_a_reloaded_model_computes_the_same_bits(gate, bits, group, method, tmp_path):
    model = gated_model(gate)
    folder, quantization = folder_of(model, tmp_path / "model", bits, Fit(method, group))
    apply_weights(model, quantization.weights)
    again, loaded = load_quantized(folder, torch.float32, "cpu")
    assert torch.equal(logits_of(again), logits_of(model))
    grids = json.loads((folder / QPARAMS).read_text())["weights"]
    assert {g.get("group") for g in grids.values()} == {group}
    assert {g["granularity"] for g in grids.values()} == {"per-group" if group else "per-channel"}
    assert all(weight.qparams.group == group for weight in loaded.weights.values())


def test_groups_and_clipping_each_lessen_the_error(tmp_path):
    model = gated_model()
    fits = {"minmax": Fit(), "mse": Fit("mse"), "groups": Fit("minmax", 8), "both": Fit("mse", 8)}
    errors = {}
    for name, fit in fits.items():
        again, _ = load_quantized(folder_of(model, tmp_path / name, 3, fit)[0], torch.float32, "cpu")
        pairs = zip(again.state_dict().values(), model.state_dict().values(), strict=True)
        errors[name] = sum(float((ours - theirs).square().sum()) for ours, theirs in pairs)
    assert errors["both"] < min(errors["mse"], errors["groups"]) and max(errors, key=errors.get) == "minmax"


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 3, 5, 7])
def test_fewer_bits_run_in_integers(bits, tmp_path):
    folder, _ = folder_of(gated_model(), tmp_path / "model", bits)
    expected, runtime = pytorch_logits(folder, batch=5), Int8Runtime.load(folder, "cpu", "float32")
    assert len(runtime.products().integer) == 41
    assert difference(step_logits(runtime, batch=5), expected) < 1e-2
    graphs = opened(exported(folder), "onnx")
    assert len(graphs.products().integer) == 41
    assert difference(step_logits(graphs, batch=5), expected) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES)
def test_groups_run_in_float_and_it_is_told(gate, tmp_path):
    folder, _ = folder_of(gated_model(gate), tmp_path / "model", 4, Fit(group=12))
    expected, runtime = pytorch_logits(folder, batch=9), Int8Runtime.load(folder, "cpu", "float32")
    products = runtime.products()
    assert products.integer == () and products.floating["enc.0.fc1"] == "weights in groups"
    assert difference(step_logits(runtime, batch=9), expected) < 1e-2
    for name in ("onnx", "openvino"):
        graphs = opened(exported(folder, tmp_path / name), name, "float32")
        assert graphs.products().floating["enc.0.fc1"] == "weights in groups"
        assert graphs.products().integer == ()
        assert difference(step_logits(graphs, batch=9), expected) < 1e-2


@pytest.mark.parametrize("damage", ["cut", "other bits", "other shape"])
def test_packed_weights_that_do_not_fit_are_refused(damage, tmp_path):
    folder, _ = folder_of(gated_model(), tmp_path / "model", 3)
    name, grids = "model.encoder.layers.0.fc1.weight", json.loads((folder / QPARAMS).read_text())
    if damage == "cut":
        tensors = load_file(folder / WEIGHTS)
        save_file({**tensors, name: tensors[name][:-1].clone()}, folder / WEIGHTS)
    else:
        grids["weights"][name] |= {"other bits": {"bits": 5}, "other shape": {"shape": [7, 5]}}[damage]
        (folder / QPARAMS).write_text(json.dumps(grids))
    for load in (lambda: load_quantized(folder, torch.float32, "cpu"), lambda: Int8Runtime.load(folder)):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load()


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"recipe": "paper", "group": 64}, "--group .*paper"),
        ({"per_channel": False, "group": 64}, "--group .*--per-tensor"),
        ({"activations": "none", "activation_bits": 6}, "--activation-bits 6"),
        ({"sites": "linear"}, "--sites is for --recipe paper"),
        ({"exception": "mlp"}, "--exception is for --recipe paper"),
        ({"activations": "dynamic", "recipe": "paper"}, "--activations dynamic is for --recipe gemm"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, reason):
    check_combination(QuantizeConfig())
    with pytest.raises(UsageError, match=reason):
        check_combination(QuantizeConfig(**settings))


def test_the_command_says_what_it_did(copied_run, invoke):
    sizes = {}
    for bits, group in ((8, None), (4, None), (4, 16), (3, None)):
        flags = ("--weight-bits", bits, *(("--group", group) if group else ()), "--weights", "mse")
        out = copied_run / "quantized" / f"w{bits}g{group}"
        result = invoke("quantize", "--run", copied_run, *flags, "--out", out)
        assert result.exit_code == 0, result.output
        assert f"gemm W{bits}A8{', groups of 16' if group else ''}, mse weights" in result.output
        results = artifact.load(out, "quantized").results
        assert (results["weight_bits"], results["group"], results["weight_scales"]) == (bits, group, "mse")
        assert results["bytes"] == (out / WEIGHTS).stat().st_size
        sizes[bits, group] = results["bytes"]
    assert sizes[3, None] < sizes[4, None] < sizes[4, 16] < sizes[8, None]


def test_each_scheme_has_a_folder_of_its_own(workspace, finished_run):
    for command, name in {
        "quantize --weight-bits 4 --activations none --group 16 --weights mse": "gemm-w4-g16-mse",
        "quantize --activations dynamic": "gemm-w8a8-dynamic",
    }.items():
        shutil.copytree(finished_run, "run", dirs_exist_ok=True)
        result = run_command(*command.split())
        assert result.exit_code == 0, result.stderr
        assert (workspace / "run" / "quantized" / name / "manifest.json").is_file()
    audio = json.loads((DIGITS / "sample" / "test.jsonl").read_text().splitlines()[0])["audio_filepath"]
    result = run_command("transcribe", DIGITS / "sample" / audio, "--model", "gemm-w8a8-dynamic")
    assert result.exit_code == 0 and "runtime: int8" in result.stderr, result.stderr
