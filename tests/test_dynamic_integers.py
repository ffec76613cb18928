"""Dynamic activations in integers: codes, products and logits against the grid, integer arithmetic and emulation."""

import pytest
import torch
import torch.nn.functional as F
from support.cpu import needs_vnni
from support.dynamic_inputs import random
from support.exported import pytorch_logits, quantized_folder, step_logits
from support.int8_folders import NATIVE, distance, opened
from support.kernel_inputs import PORTABLE
from support.quantizing_ctc import difference, emulated_logits, float_folder, waveforms
from support.quantizing_ctc import quantized_folder as quantized_ctc
from support.tiny import PROMPT, features, gated_model
from support.tiny_ctc import VARIANTS

from whisperq.models.gated_whisper import GATES
from whisperq.native import processor
from whisperq.native.build import NoKernels, library
from whisperq.quant.grid import fake_quantize, quantize, token_qparams
from whisperq.runtime.decoding import Rules, greedy
from whisperq.runtime.int8 import dynamic
from whisperq.runtime.int8.ctc import Int8Ctc
from whisperq.runtime.int8.dynamic import DynamicMatmul, MatmulSums, OneDnnSums, TokenGrid, integer_sums
from whisperq.runtime.int8.kernels import Norm
from whisperq.runtime.int8.matmuls import IntegerWeight, has_onednn
from whisperq.runtime.int8.native_tokens import NativeDynamicMatmul, TokenKernels
from whisperq.runtime.int8.torch_kernels import TorchKernels


def native(*flags: str) -> TokenKernels:
    try:
        return TokenKernels(library(flags))
    except NoKernels as reason:
        pytest.skip(str(reason))


@pytest.fixture(
    params=[TorchKernels, native, lambda: native(*PORTABLE)], ids=["PyTorch", "this CPU", "without matrix tiles"]
)
def kernels(request):
    return request.param()


def odd_rows(width: int) -> torch.Tensor:
    """Noise; constant rows above and below zero; zeros; what lies on ties, and what hardly differs from zero."""
    ties = torch.arange(width).fmod(511) / 2 - 100
    flat = [torch.full((width,), value) for value in (3.7, -2.5, 0.0, 1e-37, -1e-42)]
    return torch.stack([*random(40, width) * 3, random(width).abs(), *flat, ties, random(width) * 1e30])


def check_codes(found: dynamic.TokenCodes, x: torch.Tensor, bits: int) -> None:
    qparams = token_qparams(x, bits)
    assert torch.equal(found.scale, qparams.scale.squeeze(1)) and found.codes.dtype == torch.uint8
    assert torch.equal(found.zero_point, qparams.zero_point.squeeze(1))
    assert torch.equal(found.codes.int(), quantize(x, qparams))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize("width", [1, 33, 512])
def test_rows_get_the_grids_own_codes(kernels, width, bits):
    x = odd_rows(width)
    check_codes(kernels.quantize(x, TokenGrid(bits)), x, bits)
    check_codes(kernels.quantize(x[:1], TokenGrid(bits)), x[:1], bits)
    values = TokenGrid(bits).values(kernels.quantize(x, TokenGrid(bits)))
    assert torch.equal(values, fake_quantize(x, token_qparams(x, bits)))


@pytest.mark.parametrize("gelu", [False, True])
def test_a_norm_leaves_codes_of_its_rows(kernels, gelu):
    norm, x = Norm(random(48, seed=1), random(48, seed=2)), random(70, 48) * 5 + 2
    check_codes(kernels.layer_norm(x, norm, TokenGrid(8), gelu), kernels.layer_norm(x, norm, None, gelu), 8)


def weight_of(outputs: int, inputs: int, extreme: bool = False) -> IntegerWeight:
    generator = torch.Generator().manual_seed(outputs)
    codes = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
    if extreme:
        codes.fill_(127)
        codes[::2] = -127
    return IntegerWeight(codes, torch.rand(outputs, generator=generator) * 1e-3 + 1e-4, random(outputs))


def one_dnn(weight, bits, align=False):
    if not has_onednn("cpu"):
        pytest.skip("this PyTorch has no oneDNN")
    needs_vnni(bits)
    return OneDnnSums(weight.codes, bits, align)


def sums_of(w, g, align=False):
    """As `Layers` has them: none where the compiled kernels multiply what saturates."""
    return None if native().multiplies_all and g.bits > 7 else integer_sums(w.codes, g.bits, "cpu", align)


MAKERS = {
    "oneDNN": lambda w, g: DynamicMatmul(w, g, one_dnn(w, g.bits)),
    "matmul": lambda w, g: DynamicMatmul(w, g, MatmulSums(w.codes, "cpu")),
    "native": lambda w, g: NativeDynamicMatmul(w, g, sums_of(w, g, True), native(), False),
    "native matmul": lambda w, g: NativeDynamicMatmul(w, g, MatmulSums(w.codes, "cpu"), native(*PORTABLE), False),
    "few rows": lambda w, g: NativeDynamicMatmul(w, g, sums_of(w, g), native(), True),
}
SHAPES = [(1, 32, 48), (1, 200, 2100), (5, 7, 3), (8, 200, 33), (17, 1280, 33), (300, 64, 40)]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
@pytest.mark.parametrize("bits", [8, 6])
def test_products_are_sums_of_integers(maker, rows, inputs, outputs, bits):
    """y = s_x s_w (q_x - z_x) q_w + b, in int64 and float64."""
    weight, grid = weight_of(outputs, inputs), TokenGrid(bits)
    x = grid.codes(torch.cat([odd_rows(inputs)[40:46], random(rows, inputs)])[-rows:])
    sums = (x.codes.long() - x.zero_point[:, None]) @ weight.codes.long().T
    exact = sums.double() * weight.scale.double() * x.scale[:, None].double() + weight.bias
    product = MAKERS[maker](weight, grid)
    torch.testing.assert_close(product(x).double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(product(x, torch.bfloat16).double(), exact, rtol=5e-3, atol=1e-5)
    residual = random(rows, outputs, seed=9)
    torch.testing.assert_close(product.add(x, residual.clone()).double(), exact + residual, rtol=1e-5, atol=1e-5)
    gelu = F.gelu(exact).float()
    torch.testing.assert_close(product.gelu(x, None), gelu, rtol=1e-5, atol=1e-5)
    codes, expected = product.gelu(x, grid), grid.codes(gelu)
    torch.testing.assert_close(codes.scale, expected.scale, rtol=1e-4, atol=1e-12)
    apart = (codes.codes.int() - expected.codes.int()).abs()
    assert apart.max() <= 1 and apart.float().mean() < 0.01  # one code where a value lies on a tie


@pytest.mark.parametrize("make", [one_dnn, lambda w, bits: MatmulSums(w.codes, "cpu")], ids=["oneDNN", "matmul"])
def test_sums_are_exact_at_their_extremes(make):
    weight = weight_of(48, 1024, extreme=True)
    for codes in (torch.zeros(20, 1024), torch.full((20, 1024), 255.0)):
        sums = make(weight, 8)(codes.to(torch.uint8))
        assert torch.equal(sums.double(), (codes.double() - 128) @ weight.codes.double().T)


def check_logits(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Logits (steps, batch, vocabulary) to the last digits, in the quarter of the batch that is nearest.

    In so small a network one code that lies on a tie moves an utterance's logits by percents, and every third has one.
    """
    apart = ((found - expected).abs().mean(dim=(0, 2)) / expected.abs().mean(dim=(0, 2))).sort().values
    assert apart[len(apart) // 4] < 1e-5 and apart[-1] < 0.1, apart


def dynamic_folder(folder, gate: str = "headwise", seed: int = 0, **options):
    return quantized_folder(gated_model(gate, seed), folder / "model", activation_ranges="dynamic", **options)


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("batch", [8, 12])  # a few rows, and more of them than few
def test_logits_are_the_emulated_ones(gate, batch, tmp_path):
    folder = dynamic_folder(tmp_path, gate)
    check_logits(step_logits(opened(folder), batch=batch), pytorch_logits(folder, batch=batch))


def test_a_single_row_at_a_time(tmp_path):
    folder, seeds = dynamic_folder(tmp_path), range(8)
    runtime = opened(folder)
    found = torch.cat([step_logits(runtime, batch=1, seed=seed) for seed in seeds], dim=1)
    expected = torch.cat([pytorch_logits(folder, batch=1, seed=seed) for seed in seeds], dim=1)
    check_logits(found, expected)


@pytest.mark.parametrize("gate", GATES)
def test_without_kernels_of_the_cpu(gate, tmp_path, no_compiler, monkeypatch):
    monkeypatch.setattr(dynamic, "has_onednn", lambda device: False)
    folder = dynamic_folder(tmp_path, gate)
    runtime = opened(folder, reduce_range=False)
    product = runtime.encoder[0].feed_forward.fc1
    assert type(product) is DynamicMatmul and isinstance(product._sums, MatmulSums)
    check_logits(step_logits(runtime, batch=8), pytorch_logits(folder, batch=8))


@NATIVE
def test_bf16_attention_stays_near(tmp_path):
    folder = dynamic_folder(tmp_path)
    assert distance(step_logits(opened(folder, "bfloat16")), pytorch_logits(folder)) < 8e-2


def test_seven_bits_where_sums_would_saturate(tmp_path, monkeypatch, no_compiler):
    monkeypatch.setattr(processor, "has_vnni", lambda: False)
    runtime = opened(dynamic_folder(tmp_path), reduce_range=None)
    assert runtime.encoder[0].feed_forward.fc1.grid == TokenGrid(7) and "lacks VNNI" in runtime.notices[1]


@pytest.mark.parametrize(
    "excluded", [("enc.1.q_proj:weight", "*.0.gate:weight"), ("dec.0.cross.k_proj",), ("enc.*.fc2:input", "proj_out")]
)
def test_what_was_excluded_runs_in_float(excluded, tmp_path):
    folder = dynamic_folder(tmp_path, exclude=excluded)
    runtime = opened(folder)
    check_logits(step_logits(runtime, batch=8), pytorch_logits(folder, batch=8))
    assert len([why for why in runtime.products().floating.values() if "attention" not in why]) > 2


def test_convolutions_alone_are_float(tmp_path):
    products = opened(dynamic_folder(tmp_path)).products()
    layers = 6 * 5 + 2 * 4 + 1  # q, k, v, gate, out_proj of six attention blocks; fc1 and fc2; proj_out
    assert len(products.integer) == layers
    found = {a: why for a, why in products.floating.items() if "attention" not in why}
    assert found == {"enc.conv1": "float input", "enc.conv2": "float input"}


def test_a_batch_is_decoded_as_each_of_its_rows_alone(tmp_path):
    runtime, rules = opened(dynamic_folder(tmp_path)), Rules(PROMPT, end=-1, max_tokens=20)
    together = greedy(runtime, features(5), rules)
    assert together == [greedy(runtime, one[None], rules)[0] for one in features(5)]


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_speech_encoders_with_a_ctc_head(variant, portable, tmp_path, monkeypatch, request):
    if portable:
        monkeypatch.setattr(dynamic, "has_onednn", lambda device: False)
        request.getfixturevalue("no_compiler")
    folder = quantized_ctc(float_folder(tmp_path / "model", variant), activation_ranges="dynamic")
    recordings = waveforms()
    runtime = Int8Ctc.load(folder, "cpu", "float32", reduce_range=False)
    found, expected = runtime.logits(recordings), emulated_logits(folder, recordings)
    apart = sorted(difference([a], [b]) for a, b in zip(found, expected, strict=True))
    assert apart[len(apart) // 2] < 1e-3 and apart[-1] < 6e-2  # one code on a tie moves an utterance by percents
