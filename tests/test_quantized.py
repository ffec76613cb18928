"""A quantized model on disk: the bits that were in memory, one byte a weight, and torch's own codes."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from support.quantizing import emulated, saved
from support.tiny import gated_model, logits_of
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver

from whisperq.errors import InputError
from whisperq.models.gated_whisper import GATES
from whisperq.models.sites import model_sites, watch
from whisperq.ptq.checkpoint import (
    QPARAMS,
    WEIGHTS,
    apply_weights,
    load_quantized,
    quantizers,
)
from whisperq.quant.grid import dequantize

TABLE, PROJECTION = "model.decoder.embed_tokens.weight", "proj_out.weight"


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("recipe", ["gemm", "paper"])
@pytest.mark.parametrize("gate", GATES)
def test_a_reloaded_model_computes_the_same_bits(gate, recipe, bits, tmp_path):
    model = gated_model(gate)
    original = logits_of(model)
    quantization = saved(model, tmp_path, recipe, bits)
    assert torch.equal(logits_of(model), original)  # saving leaves the model alone
    memory = copy.deepcopy(model)
    apply_weights(memory, quantization.weights)
    expected = emulated(memory, quantization)

    again, loaded = load_quantized(tmp_path, torch.float32, "cpu")
    assert torch.equal(emulated(again, loaded), expected)
    assert torch.equal(emulated(again, loaded, seed=5), emulated(memory, quantization, seed=5))
    error = (expected - original).abs().mean() / original.abs().mean()
    assert 0 < error < (0.2 if bits == 8 else 2.0)
    assert all(torch.equal(loaded.weights[n].codes, w.codes) for n, w in quantization.weights.items())
    assert loaded.activations.keys() == quantization.activations.keys()


@pytest.mark.parametrize("recipe, kept", [("gemm", PROJECTION), ("paper", TABLE)])
def test_weights_take_one_byte_and_the_table_is_stored_once(recipe, kept, tmp_path):
    model = gated_model()
    quantization = saved(model, tmp_path, recipe)
    kind = {"gemm": torch.int8, "paper": torch.uint8}[recipe]
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    quantized = {n for n, t in tensors.items() if t.dtype == kind}
    assert quantized == quantization.weights.keys()
    assert all(tensors[n].shape == model.get_parameter(n).shape for n in quantized)
    assert tensors.keys() & {TABLE, PROJECTION} == {kept}
    parameters = {n for n, _ in model.named_parameters()} - {TABLE} | {kept}
    extras = {f"{n}.scale" for n in quantized}
    extras |= {f"{n}.zero_point" for n in quantized if recipe == "paper"}
    assert tensors.keys() == parameters | extras


@pytest.mark.parametrize("recipe", ["gemm", "paper"])
def test_a_reloaded_table_is_still_tied(recipe, tmp_path):
    saved(gated_model(), tmp_path, recipe)
    model, _ = load_quantized(tmp_path, torch.float32, "cpu")
    assert model.get_parameter(PROJECTION) is model.get_parameter(TABLE)


def torch_values(weight: torch.Tensor, recipe: str, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What torch's observers and fake quantization make of a weight, and their scales."""
    if recipe == "gemm":
        limit = 2 ** (bits - 1) - 1
        symmetric = {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric}
        observer = PerChannelMinMaxObserver(0, quant_min=-limit, quant_max=limit, **symmetric)
        observer(weight)
        scale, zero_point = observer.calculate_qparams()
        zero_point = zero_point.to(torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, -limit, limit), scale
    observer = MinMaxObserver(dtype=torch.quint8, quant_min=0, quant_max=2**bits - 1)
    observer(weight)
    scale, zero_point = observer.calculate_qparams()
    return torch.fake_quantize_per_tensor_affine(weight, float(scale), int(zero_point), 0, 2**bits - 1), scale


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("recipe", ["gemm", "paper"])
def test_weights_are_torchs(recipe, bits, tmp_path):
    model = gated_model("per-head")
    saved(model, tmp_path, recipe, bits)
    again, loaded = load_quantized(tmp_path, torch.float32, "cpu")
    assert any(".gate." in n for n in loaded.weights)
    for name, quantized in loaded.weights.items():
        # a gate's weight (heads, d_out, d_in): every row of every head is a channel
        channels = 1 if ".gate." in name else 0
        weight, ours = (m.get_parameter(name).detach().flatten(0, channels) for m in (model, again))
        values, scale = torch_values(weight, recipe, bits)
        torch.testing.assert_close(quantized.qparams.scale.flatten(), scale.flatten(), atol=0, rtol=1e-6)
        torch.testing.assert_close(ours, values, atol=0, rtol=1e-6, msg=name)


@pytest.mark.parametrize("exclude", ["proj_out", "enc.0.*", "dec.*.cross"])
def test_what_is_excluded_stays_as_it_was(exclude, tmp_path):
    model = gated_model()
    quantization = saved(model, tmp_path, "gemm", exclude=[exclude])
    again, loaded = load_quantized(tmp_path, torch.float32, "cpu")
    assert loaded.weights.keys() == quantization.weights.keys()
    for name, parameter in again.named_parameters():
        stays = name not in loaded.weights and not (name == TABLE and PROJECTION in loaded.weights)
        assert torch.equal(parameter, model.get_parameter(name)) == stays, name


def test_dequantized_weights_stand_in_the_model(tmp_path):
    saved(gated_model(), tmp_path, "paper")
    model, loaded = load_quantized(tmp_path, torch.float32, "cpu")
    for name, weight in loaded.weights.items():
        assert torch.equal(model.get_parameter(name), dequantize(weight.codes, weight.qparams))
        assert not torch.is_floating_point(weight.codes)


def test_printed_grids_are_those_in_use(tmp_path):
    saved(gated_model(), tmp_path, "gemm")
    content = json.loads((tmp_path / QPARAMS).read_text())
    _, loaded = load_quantized(tmp_path, torch.float32, "cpu")
    for address, entry in content["activations"].items():
        qparams = loaded.activations[address]
        assert (entry["scale"], entry["zero_point"]) == (float(qparams.scale), int(qparams.zero_point))
        assert (entry["quant_min"], entry["quant_max"], entry["granularity"]) == (0, 255, "per-tensor")
    assert {entry["granularity"] for entry in content["weights"].values()} == {"per-channel"}


def test_half_precision_runs_too(tmp_path):
    saved(gated_model(), tmp_path, "gemm")
    model, loaded = load_quantized(tmp_path, torch.bfloat16, "cpu")
    with watch(model, model_sites(model), quantizers(loaded.activations)), torch.no_grad():
        out = model(input_features=torch.zeros(1, 80, 100).bfloat16(), decoder_input_ids=torch.tensor([[1, 2]]))
    assert out.logits.dtype == torch.bfloat16 and out.logits.isfinite().all()


@pytest.mark.parametrize("damage", ["no weights", "cut", "no grids", "other model"])
def test_damaged_folders_are_refused(damage, tmp_path):
    saved(gated_model(), tmp_path, "gemm")
    if damage == "no weights":
        (tmp_path / WEIGHTS).unlink()
    elif damage == "cut":
        (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:1000])
    elif damage == "no grids":
        (tmp_path / QPARAMS).write_text("{")
    else:
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_layers": 3}))
    with pytest.raises(InputError, match="do not fit" if damage == "other model" else "cannot be read"):
        load_quantized(tmp_path, torch.float32, "cpu")
