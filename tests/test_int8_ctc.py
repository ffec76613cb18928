"""wav2vec 2.0 and HuBERT in integers, against the emulated models and against PyTorch's own layers."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.cpu import needs_vnni
from support.quantizing_ctc import (
    difference,
    emulated_logits,
    float_folder,
    float_logits,
    quantized_folder,
    waveforms,
)
from support.tiny_ctc import VARIANTS

from whisperq.errors import InputError, UsageError
from whisperq.models.sites import model_sites, watch
from whisperq.native import build, processor
from whisperq.ptq.checkpoint import Fit, load_quantized, quantizers
from whisperq.quant.grid import range_qparams, weight_qparams
from whisperq.runtime.int8 import integer_products
from whisperq.runtime.int8.convolutions import Convolution, PositionalConvolution, TimeNorm
from whisperq.runtime.int8.ctc import Int8Ctc
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.matmuls import FloatMatmul, IntegerWeight, OneDnnMatmul, TorchMatmul
from whisperq.runtime.int8.torch_kernels import TorchKernels

NATIVE = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU multiplies no bf16")
GRID = Grid(range_qparams(-2.0, 3.0, 8))
ONE_DNN = OneDnnMatmul if torch.backends.mkldnn.is_available() and not processor.saturates() else TorchMatmul


def opened(folder: Path, attention_dtype: str = "float32", reduce_range: bool | None = None) -> Int8Ctc:
    return Int8Ctc.load(folder, "cpu", attention_dtype, reduce_range)


def quantized(folder: Path, variant: str = "wav2vec2-base", changes: dict | None = None, **options) -> Path:
    return quantized_folder(float_folder(folder / "model", variant, **(changes or {})), **options)


def check(folder: Path, **options) -> Int8Ctc:
    """The emulated logits to the last digits; but in so small a network one code on a tie moves an utterance's by
    percents, hence of most utterances."""
    runtime, recordings = opened(folder, **options), waveforms()
    found, expected = runtime.logits(recordings), emulated_logits(folder, recordings)
    apart = sorted(difference([a], [b]) for a, b in zip(found, expected, strict=True))
    assert [a.shape for a in found] == [b.shape for b in expected]
    assert apart[len(apart) // 2] < 1e-3 and apart[-1] < 6e-2
    return runtime


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_the_emulated_ones(variant, tmp_path):
    folder = quantized(tmp_path, variant)
    runtime = check(folder)
    recordings = waveforms()
    assert difference(float_logits(tmp_path / "model", recordings), emulated_logits(folder, recordings)) > 2e-2
    assert all(x.dtype == torch.float32 for x in runtime.logits(recordings))


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_bias": True},
        {"num_conv_pos_embeddings": 5, "num_conv_pos_embedding_groups": 1},
        {"num_conv_pos_embedding_groups": 32},
        {"layer_norm_eps": 1e-2, "num_attention_heads": 4, "intermediate_size": 50},
        {"feat_extract_norm": "layer"},
        {"do_stable_layer_norm": True, "conv_dim": (13,), "conv_kernel": (40,), "conv_stride": (80,),
         "num_feat_extract_layers": 1},
    ],
    ids=str,
)  # fmt: skip
def test_other_shapes(changes, tmp_path):
    check(quantized(tmp_path, changes=changes))


@pytest.mark.parametrize("bits", [4, 6])
def test_fewer_bits(bits, tmp_path):
    check(quantized(tmp_path, "hubert-other", bits=bits))


def test_every_layer_runs_in_integers_and_is_counted(tmp_path):
    products = opened(quantized(tmp_path)).products()
    layers = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    around = ("cnn.0", "cnn.1", "cnn.2", "feature_proj", "pos_conv", "ctc_head")
    assert set(products.integer) == {*around, *(f"enc.{i}.{name}" for i in (0, 1) for name in layers)}
    assert set(products.floating) == {f"enc.{i}.{name}" for i in (0, 1) for name in ("scores", "context")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "excluded, floating",
    [
        ("cnn.0", "float input and weight"),
        ("cnn.0:input", "float input"),
        ("cnn.1:weight", "float input and weight"),  # nothing else would read its codes
        ("cnn.2:input", "float input"),
        ("feature_proj", "float input and weight"),
        ("pos_conv", "float input and weight"),
        ("pos_conv:input", "float input"),
        ("enc.0.q_proj:weight", "float weight"),
        ("enc.1.fc2:input", "float input"),
        ("ctc_head", "float input and weight"),
    ],
)
@pytest.mark.parametrize("variant", ["wav2vec2-base", "wav2vec2-large"])
def test_what_was_excluded_runs_in_float_and_is_named(variant, excluded, floating, tmp_path):
    folder = quantized(tmp_path, variant, exclude=(excluded,))
    runtime = check(folder)
    address = excluded.partition(":")[0]
    found = {a: why for a, why in runtime.products().floating.items() if not a.endswith((".scores", ".context"))}
    assert found == {address: floating}


def test_weights_in_groups_are_floats_of_quantized_inputs(tmp_path):
    runtime = check(quantized(tmp_path, fit=Fit(group=16)))
    assert runtime.waveform_grid is not None
    assert runtime.products().integer == ()
    assert {runtime.products().floating[a] for a in ("cnn.1", "pos_conv", "enc.0.fc1")} == {"weights in groups"}


@pytest.mark.parametrize("variant", ["wav2vec2-base", "wav2vec2-large"])
@pytest.mark.parametrize("group", [None, 16])
def test_scaled_convolutions(group, variant, tmp_path):
    check(quantized(tmp_path, variant, fit=Fit(group=group), scaled=True))


def test_quantized_weights_alone(tmp_path):
    runtime = check(quantized(tmp_path, "hubert-other", activation_ranges="none"))
    assert runtime.products().integer == () and runtime.products().floating["pos_conv"] == "float input"


def test_seven_bits_are_those_of_emulation_with_seven_bits(tmp_path):
    folder, recordings = quantized(tmp_path), waveforms()
    model, _quantization = load_quantized(folder, torch.float32, "cpu")
    ranges = json.loads((folder / "qparams.json").read_text())["activations"]
    seven = {a: range_qparams(*entry["range"], bits=7) for a, entry in ranges.items()}
    with watch(model, model_sites(model), quantizers(seven)), torch.inference_mode():
        expected = [model(x[None]).logits[0] for x in recordings]
    reduced = opened(folder, reduce_range=True)
    assert difference(reduced.logits(recordings), expected) < 1e-2
    assert reduced.layers[0].feed_forward.fc1.grid.quant_max == 127
    assert difference(opened(folder, reduce_range=False).logits(recordings), expected) > 1e-2


@NATIVE
def test_bf16_attention_stays_near(tmp_path):
    folder, recordings = quantized(tmp_path), waveforms()
    assert difference(opened(folder, "bfloat16").logits(recordings), emulated_logits(folder, recordings)) < 8e-2


def test_without_a_compiler_it_runs_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    build.library.cache_clear()
    try:
        folder = quantized(tmp_path, "wav2vec2-large")
        assert "no C++ compiler is at hand" in opened(folder, reduce_range=None).notices[0]
        needs_vnni()
        check(folder)
    finally:
        build.library.cache_clear()


def test_pytorchs_own_integer_product_will_do(tmp_path, monkeypatch):
    """As on CUDA, and on processors without oneDNN."""
    for name in ("integer_matmul", "NativeMatmul"):
        monkeypatch.setattr(integer_products, name, lambda weight, grid, *_: TorchMatmul(weight, grid))
    check(quantized(tmp_path))


def test_each_utterance_is_alone(tmp_path):
    runtime, recordings = opened(quantized(tmp_path)), waveforms()
    together = runtime.logits(recordings)
    assert all(torch.equal(a, runtime.logits([x])[0]) for a, x in zip(together, recordings, strict=True))


def test_what_is_too_short_for_a_frame_has_none(tmp_path):
    runtime = opened(quantized(tmp_path))
    one, none = runtime.logits([torch.zeros(40), torch.zeros(39)])  # 10 + 5 * 6 for seven outputs, 3 + 4 for two
    assert one.shape == (1, 20) and none.shape == (0, 20)


@pytest.mark.parametrize("name", ["hidden_act", "feat_extract_activation"])
def test_another_activation_function_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="relu; --runtime int8 knows gelu alone"):
        opened(quantized(tmp_path, changes={name: "relu"}))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    folder = quantized(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match="do not fit its config.json: num_hidden_layers is 3"):
        opened(folder)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_product(weight: torch.Tensor, bias: torch.Tensor, kind: type) -> tuple[torch.Tensor, object]:
    """A convolution's weight as it is quantized, and its product over windows."""
    qparams = weight_qparams(weight, 8, symmetric=True, channel_dims=1)
    codes = (weight / qparams.scale).round().to(torch.int8)
    flat = codes.transpose(1, 2).flatten(1)
    if kind is FloatMatmul:
        return codes * qparams.scale, FloatMatmul(flat * qparams.scale[..., 0], bias, GRID)
    return codes * qparams.scale, kind(IntegerWeight(flat, qparams.scale.flatten(), bias), GRID)


@pytest.mark.parametrize("kind", [ONE_DNN, TorchMatmul, FloatMatmul])
@pytest.mark.parametrize("width, stride", [(10, 5), (3, 2), (2, 2), (1, 1), (3, 4)])
def test_a_convolution_is_pytorchs(kind, width, stride):
    weight, product = as_product(random(24, 7, width), bias := random(24, seed=1), kind)
    codes = GRID.codes(random(101, 7, seed=2))
    found = Convolution(product, width, stride)(codes, None, TorchKernels())
    expected = F.gelu(F.conv1d(GRID.values(codes).T, weight, bias, stride)).T
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [ONE_DNN, TorchMatmul, FloatMatmul])
@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_a_norm_over_time_is_pytorchs(kind, offset):
    """Also of filters that pass next to nothing of so smooth an input, and of one that only passes its offset."""
    wave = (torch.linspace(0, 40, 4001).sin() + offset)[:, None]
    weight, gamma, beta = random(16, 1, 10), random(16, seed=1), random(16, seed=2)
    weight[:8] -= weight[:8].mean(dim=2, keepdim=True)
    weight, product = as_product(weight, torch.zeros(16), kind)
    flat = weight.transpose(1, 2).flatten(1)
    norm = TimeNorm(GRID, flat.double(), gamma, beta)
    found = Convolution(product, 10, 5, norm)(codes := GRID.codes(wave), None, TorchKernels())
    convolved = F.conv1d(GRID.values(codes).T.double(), weight.double(), stride=5)[None]
    expected = F.gelu(F.group_norm(convolved, 16, gamma.double(), beta.double()))[0].T
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [1, 4, 7])
def test_positions_are_those_of_a_grouped_convolution(width):
    bias, x = random(12, seed=1), random(40, 12, seed=2)
    parts = [as_product(random(3, 3, width, seed=seed), bias[:3], ONE_DNN) for seed in range(4)]
    weights, products = zip(*parts, strict=True)
    rounded = GRID.values(GRID.codes(x))
    expected = F.conv1d(rounded.T, torch.cat(weights), bias[:3].repeat(4), padding=width // 2, groups=4).T[:40]
    found = PositionalConvolution(products, width).add(x.clone(), TorchKernels())
    torch.testing.assert_close(found, x + F.gelu(expected), atol=1e-4, rtol=1e-4)
