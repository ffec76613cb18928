"""Cross-attention's keys and values in int8: the codes, what reads them, the artifact, and the emulated model."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.cpu import needs_vnni
from support.dynamic_inputs import random
from support.exported import CPU, difference
from support.kernel_inputs import gates, grid, native
from support.smoothed_models import run, spoken_logits

from whisperq import artifact
from whisperq.errors import UsageError
from whisperq.models.loading import load_model
from whisperq.models.sites import model_sites, watch
from whisperq.options import QuantizeConfig
from whisperq.ptq.checkpoint import WEIGHTS, load_quantized
from whisperq.ptq.cross_cache import cache_sites
from whisperq.ptq.statistics import CHANNELS
from whisperq.runtime.int8.kernels import Cache, Heads
from whisperq.runtime.int8.torch_kernels import TorchKernels
from whisperq.runtime.int8.whisper import Int8Runtime
from whisperq.runtime.open import open_model
from whisperq.steps.quantize import check_combination

HEADS = Heads(3, 16)
LENGTH = 70
SITES = [f"dec.{i}.cross.{name}_proj" for i in (0, 1) for name in "kv"]


def scales() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(random(48, seed=seed).abs() / 127 * 2 + 1e-3 for seed in (1, 2))


def filled(kernels, batch: int, keys: torch.Tensor, values: torch.Tensor) -> Cache:
    cache = Cache.empty(batch, HEADS, LENGTH + 3, torch.empty(0, dtype=torch.int8))
    cache.scales = scales()
    kernels.append(keys, values, cache)
    return cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "headwise", "elementwise"])
@pytest.mark.parametrize("make", [native, TorchKernels], ids=["native", "PyTorch"])
def test_attention_over_codes_is_that_over_what_they_stand_for(make, kind, dtype):
    """softmax(q k^T / sqrt(d)) v in float64, of keys and values rounded to their channels' grids."""
    kernels, batch, queries = make(), 2, 3
    keys, values = random(batch * LENGTH, 48, seed=3), random(batch * LENGTH, 48, seed=4) * 2
    cache = filled(kernels, batch, keys, values)
    assert cache.past == LENGTH and cache.keys.dtype == torch.int8 and int(cache.keys[..., :LENGTH].min()) == -127
    query, gate = random(batch * queries, 48, seed=5).to(dtype), gates(kind, batch * queries, HEADS, dtype)

    def by_head(x: torch.Tensor) -> torch.Tensor:
        return x.double().view(batch, -1, 3, 16).transpose(1, 2)

    k, v = (
        by_head(torch.fake_quantize_per_channel_affine(x, s, torch.zeros(48, dtype=torch.int32), 1, -127, 127))
        for x, s in zip((keys, values), scales(), strict=True)
    )
    probs = (by_head(query) @ k.transpose(2, 3) / 4).softmax(dim=-1)
    expected = (probs @ v).transpose(1, 2).reshape(-1, 48)
    if gate is not None:
        opening = torch.sigmoid(gate.logits.double()) * gate.factor
        expected = expected * (opening if kind == "elementwise" else opening.repeat_interleave(16, dim=1))
    found = kernels.attend(query, cache, 0, HEADS, gate, None)
    error = (found - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype == torch.float32 else 1e-2)
    codes = kernels.attend(query, cache, 0, HEADS, gate, grid("asymmetric"))
    assert torch.equal(codes, grid("asymmetric").codes(found))


def test_native_and_portable_codes_are_one_another():
    keys, values = random(2 * LENGTH, 48, seed=6) * 3, random(2 * LENGTH, 48, seed=7)
    keys[0] = scales()[0] * (torch.arange(48) - 23.5)  # ties
    first, second = (filled(kernels, 2, keys, values) for kernels in (native(), TorchKernels()))
    assert torch.equal(first.keys[..., :LENGTH], second.keys[..., :LENGTH])
    assert torch.equal(first.values[:, :, :LENGTH], second.values[:, :, :LENGTH])


def test_scales_are_what_calibration_saw_of_each_channel(copied_run, invoke):
    folder = run(invoke, copied_run, "quantize", "--smooth", "none", "--out", copied_run / "new").path
    tensors, seen = load_file(folder / WEIGHTS), load_file(copied_run / "calibration" / CHANNELS)
    stored = {name.removesuffix(".channel_scale") for name in tensors if name.endswith(".channel_scale")}
    assert stored == set(cache_sites(load_model(copied_run / "distilled", torch.float32, "cpu"))) == set(SITES)
    for site in SITES:
        largest = torch.cat([seen[f"{site}.minima"], seen[f"{site}.maxima"]]).abs().amax(dim=0)
        torch.testing.assert_close(tensors[f"{site}.channel_scale"], largest / 127)
    _, loaded = load_quantized(folder, torch.float32, "cpu")
    assert all(torch.equal(loaded.activations[site].scale, tensors[f"{site}.channel_scale"]) for site in SITES)
    assert artifact.load(folder).results["cross_cache"] == "int8"


@pytest.mark.slow
@pytest.mark.parametrize("portable", [False, True])
def test_integers_agree_with_emulation(portable, copied_run, digits, invoke, request):
    if portable:
        needs_vnni()
        request.getfixturevalue("no_compiler")
    found = {}
    for kind in ("int8", "float"):
        flags = ("quantize", "--cross-cache", kind, "--out", copied_run / kind)
        folder = run(invoke, copied_run, *flags).path
        found[kind] = spoken_logits(folder, digits)
        assert difference(spoken_logits(folder, digits, "int8"), found[kind]) < 1e-2
        state = Int8Runtime.load(folder, "cpu", "float32").encode(torch.zeros(1, 80, 400))
        assert state.cross[0].keys.dtype == {"int8": torch.int8, "float": torch.float32}[kind]
        assert state.own[0].keys.dtype == torch.float32
    assert 0 < difference(found["int8"], found["float"]) < 0.05


def test_emulation_rounds_keys_and_values(copied_run, digits, invoke):
    """The float cache's model with PyTorch's own fake quantization of its keys and values."""
    coded = run(invoke, copied_run, "quantize", "--out", copied_run / "coded").path
    plain = run(invoke, copied_run, "quantize", "--cross-cache", "float", "--out", copied_run / "plain").path
    scale = {name: tensor for name, tensor in load_file(coded / WEIGHTS).items() if name.endswith(".channel_scale")}

    def rounding(site: str):
        s = scale[f"{site}.channel_scale"]
        zeros = torch.zeros(len(s), dtype=torch.int32)
        return lambda x: torch.fake_quantize_per_channel_affine(x, s, zeros, x.dim() - 1, -127, 127)

    features, tokens = torch.randn(2, 80, 400, generator=torch.Generator().manual_seed(1)), torch.ones(2, 3).long()
    inputs = {"input_features": features, "decoder_input_ids": tokens}
    with open_model(coded, CPU) as opened, torch.inference_mode():
        found = opened.model(**inputs).logits
    with open_model(plain, CPU) as opened, torch.inference_mode():
        with watch(opened.model, model_sites(opened.model), {site: rounding(site) for site in SITES}):
            expected = opened.model(**inputs).logits
    assert difference(found, expected) < 1e-5


def test_a_layer_that_is_excluded_keeps_floats(copied_run, digits, invoke):
    flags = ("quantize", "--exclude", "dec.0.cross.v_proj", "--out", copied_run / "new")
    folder = run(invoke, copied_run, *flags).path
    state = Int8Runtime.load(folder, "cpu", "float32").encode(torch.zeros(1, 80, 400))
    assert [cache.keys.dtype for cache in state.cross] == [torch.float32, torch.int8]
    assert difference(spoken_logits(folder, digits, "int8"), spoken_logits(folder, digits)) < 1e-2


def test_without_maxima_it_is_float_or_refused(copied_run, invoke):
    run(invoke, copied_run, "calibrate", "--out", copied_run / "old")
    shutil.copytree(copied_run / "old", copied_run / "older")
    manifest = copied_run / "older" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["files"][CHANNELS]  # as calibrations were that kept none
    manifest.write_text(json.dumps(content))
    (copied_run / "older" / CHANNELS).unlink()
    flags = ("quantize", "--calibration", copied_run / "older", "--out", copied_run / "new")
    assert run(invoke, copied_run, *flags).results["cross_cache"] == "float"
    refused = invoke(*flags, "--cross-cache", "int8", "--force", "--run", copied_run)
    assert refused.exit_code == 3 and "no maxima of the channels of dec.0.cross.k_proj" in refused.stderr


@pytest.mark.parametrize("settings", [{"recipe": "paper"}, {"activations": "dynamic"}, {"encoder_only": True}], ids=str)
def test_other_schemes_have_no_codes_to_keep(settings):
    check_combination(QuantizeConfig(cross_cache="int8"))
    with pytest.raises(UsageError, match="--cross-cache int8"):
        check_combination(QuantizeConfig(cross_cache="int8", **settings))
