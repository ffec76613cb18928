"""The compiled kernels against PyTorch's operators, and the products against sums of integers."""

import pytest
import torch
import torch.nn.functional as F
from support.cpu import needs_bf16, needs_vnni
from support.kernel_inputs import GRIDS, PORTABLE, gates, grid, native, random

from whisperq.quant.grid import range_qparams
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.integer_products import VOCABULARY
from whisperq.runtime.int8.kernels import Cache, Heads, Norm
from whisperq.runtime.int8.layers import Layers
from whisperq.runtime.int8.matmuls import IntegerWeight, OneDnnMatmul, TorchMatmul, integer_matmul, row_blocks
from whisperq.runtime.int8.native_kernels import NativeKernels
from whisperq.runtime.int8.native_matmuls import NativeMatmul
from whisperq.runtime.int8.torch_kernels import TorchKernels


@pytest.fixture(params=[(), PORTABLE], ids=["this CPU", "without matrix tiles"])
def kernels(request) -> NativeKernels:
    return native(*request.param)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 33), (70, 128)])
def test_quantizing_gives_the_grids_own_codes(kernels, name, shape):
    x = random(*shape) * 3
    assert torch.equal(kernels.quantize(x, grid(name)), TorchKernels().quantize(x, grid(name)))


def test_ties_and_extremes_are_rounded_as_the_grid_rounds_them(kernels):
    g = Grid(range_qparams(-128.0, 127.0, 8))  # scale 1, zero_point 128
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, 126.5, -128.5])
    assert kernels.quantize(x, g).tolist() == [128, 130, 130, 128, 126, 255, 0, 254, 0]


@pytest.mark.parametrize("rows", [1, 40])
def test_layer_norm(kernels, rows):
    norm, x = Norm(random(48, seed=1), random(48, seed=2)), random(rows, 48) * 5 + 2
    expected = F.layer_norm(x, (48,), norm.weight, norm.bias, 1e-5)
    torch.testing.assert_close(kernels.layer_norm(x, norm, None), expected, atol=2e-5, rtol=1e-5)
    codes = kernels.layer_norm(x, norm, grid("asymmetric"))
    # A sum in another order may move a value across a tie: by one code, hardly ever.
    difference = (codes.int() - grid("asymmetric").codes(expected).int()).abs()
    assert codes.dtype == torch.uint8 and difference.max() <= 1 and difference.float().mean() < 0.01


@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0])
def test_gelu_of_a_layer_norm(kernels, scale):
    """Also of values so large that their exponential is none any more."""
    norm, x = Norm(random(48, seed=1) * scale, random(48, seed=2)), random(40, 48)
    expected = F.gelu(F.layer_norm(x.double(), (48,), norm.weight.double(), norm.bias.double(), 1e-5)).float()
    found = kernels.layer_norm(x, norm, None, gelu=True)
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=1e-5)
    codes, own = kernels.layer_norm(x, norm, grid("asymmetric"), gelu=True), grid("asymmetric").codes(found)
    assert torch.equal(codes, own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "headwise", "elementwise"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 16), (2, 50, 2, 16), (1, 77, 3, 24), (3, 300, 2, 64), (1, 33, 1, 7)])
def test_encoder_attention(kernels, shape, kind, dtype):
    needs_bf16(kernels, dtype)
    batch, length, count, dim = shape
    heads, rows = Heads(count, dim), batch * length
    qkv = random(rows, 3 * count * dim + 5, seed=3).to(dtype)  # rows wider than what is read
    gate = gates(kind, rows, heads, dtype)
    expected = TorchKernels().attention(qkv.float(), batch, heads, gate, None)
    found = kernels.attention(qkv, batch, heads, gate, None)
    error = (found - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype == torch.float32 else 4e-3)  # bf16 keeps eight binary digits
    codes = kernels.attention(qkv, batch, heads, gate, grid("asymmetric"))
    assert torch.equal(codes, grid("asymmetric").codes(found))


def test_bf16_attention_is_as_near_to_float32_as_pytorchs_own(kernels):
    needs_bf16(kernels)
    heads, qkv = Heads(2, 64), (random(300, 384, seed=4) * 3).to(torch.bfloat16)
    exact = TorchKernels().attention(qkv.double(), 1, heads, None, None)
    ours, theirs = (k.attention(qkv, 1, heads, None, None) for k in (kernels, TorchKernels()))
    assert (ours - exact).norm() < 1.5 * (theirs - exact).norm()


@pytest.mark.parametrize("scale", [1e-4, 30.0])
def test_attention_survives_flat_and_sharp_scores(kernels, scale):
    needs_bf16(kernels)
    heads, qkv = Heads(1, 32), (random(130, 96, seed=6) * scale).to(torch.bfloat16)
    found = kernels.attention(qkv, 1, heads, None, None)
    expected = TorchKernels().attention(qkv.float(), 1, heads, None, None)
    assert torch.isfinite(found).all()
    assert (found - expected).norm() / expected.norm() < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "headwise", "elementwise"])
def test_decoding_against_a_cache(kernels, kind, dtype):
    heads, batch = Heads(3, 16), 2
    caches = [Cache.empty(batch, heads, 70, torch.empty(0, dtype=dtype)) for _ in range(2)]
    for step, length in enumerate((4, 1, 60, 1)):
        new = random(batch * length, 160, seed=step).to(dtype)
        gate = gates(kind, batch * length, heads, dtype)
        results = []
        for k, cache in zip((kernels, TorchKernels()), caches, strict=True):
            k.append(new[:, 48:96], new[:, 96:144], cache)
            results.append(k.attend(new[:, :48], cache, length, heads, gate, None))
        found, expected = results
        assert (found - expected).norm() / expected.norm() < (1e-5 if dtype == torch.float32 else 1e-2)
    assert caches[0].past == caches[1].past == 66
    everything = kernels.attend(new[:, :48], caches[0], 0, heads, None, grid("symmetric"))
    assert everything.shape == (batch, 48) and everything.dtype == torch.uint8


def few_rows(weight: IntegerWeight, g: Grid) -> NativeMatmul:
    kernels = native()
    if not kernels.most_rows:
        pytest.skip("this CPU has no instructions for few rows")
    return NativeMatmul(weight, g, kernels, None if kernels.multiplies_all else integer_matmul(weight, g, "cpu"))


def one_dnn(weight: IntegerWeight, g: Grid) -> OneDnnMatmul:
    needs_vnni(g.quant_max.bit_length())
    return OneDnnMatmul(weight, g)


@pytest.mark.parametrize("bits, outputs, alone", [(7, 40, False), (8, 40, True), (7, VOCABULARY + 1, True)], ids=str)
def test_without_vnni_eight_bits_and_a_vocabulary_are_left_to_no_other_kernel(bits, outputs, alone):
    """oneDNN's would saturate, and a vocabulary is too large to be kept twice."""
    kernels = native()
    if not kernels.multiplies_all:
        pytest.skip("this CPU's sums of eight bits do not saturate, or it has no kernels of its own for them")
    g = Grid(range_qparams(-1.0, 1.0, bits))
    codes = torch.randint(-127, 128, (outputs, 16), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    weight = IntegerWeight(codes, torch.ones(outputs), torch.zeros(outputs))
    made = Layers(None, "cpu", kernels, torch.float32)._integer(weight, g)  # type: ignore[arg-type]
    assert isinstance(made, NativeMatmul) == alone
    x = torch.randint(0, 2**bits, (70, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    exact = g.scale * (x.double() - g.zero_point) @ codes.double().T
    torch.testing.assert_close(made(x).double(), exact, rtol=1e-6, atol=1e-6)


def product_case(rows: int, inputs: int, outputs: int, name: str, extreme: bool = False):
    g = grid(name)
    generator = torch.Generator().manual_seed(rows)
    low, high = (0, g.quant_max + 1)
    codes = torch.randint(low, high, (rows, inputs), generator=generator, dtype=torch.uint8)
    weights = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
    if extreme:
        codes.fill_(g.quant_max)
        weights.fill_(127)
        weights[::2] = -127
    weight = IntegerWeight(weights, torch.rand(outputs, generator=generator) + 0.1, random(outputs))
    sums = (codes.double() - g.zero_point) @ weights.double().T  # exact
    return g, codes, weight, sums


@pytest.mark.parametrize("kind", [one_dnn, TorchMatmul, few_rows])
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("name", ["asymmetric", "symmetric", "six bits", "all zero"])
@pytest.mark.parametrize("rows, inputs, outputs", [(1, 32, 48), (5, 7, 3), (8, 200, 33), (17, 1280, 33), (430, 64, 33)])
def test_integer_products_are_exact(kind, rows, inputs, outputs, name, extreme):
    g, codes, weight, sums = product_case(rows, inputs, outputs, name, extreme)
    bare = IntegerWeight(weight.codes, torch.full_like(weight.scale, 1 / g.scale), torch.zeros_like(weight.bias))
    # With scales that cancel, the float32 result is the integer sum itself, as far as float32 holds it.
    torch.testing.assert_close(kind(bare, g)(codes).double(), sums, rtol=2e-7, atol=1e-6 * sums.abs().max().item())
    expected = sums * g.scale * weight.scale.double() + weight.bias
    torch.testing.assert_close(kind(weight, g)(codes).double(), expected, rtol=1e-5, atol=1e-4)
    residual = random(rows, outputs, seed=9)
    added = kind(weight, g).add(codes, residual.clone())
    torch.testing.assert_close(added.double(), expected + residual, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", [one_dnn, TorchMatmul, few_rows])
@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize("rows", [9, 280])
def test_gelu_and_requantization_are_fused(kind, rows, bits):
    g, codes, weight, sums = product_case(rows, 64, 40, "asymmetric")
    weight = IntegerWeight(weight.codes, weight.scale * 1e-3, weight.bias)
    exact = F.gelu(sums * g.scale * weight.scale.double() + weight.bias)
    torch.testing.assert_close(kind(weight, g).gelu(codes, None).double(), exact, rtol=1e-5, atol=1e-5)
    out = Grid(range_qparams(-0.2, float(exact.max()) / 2, bits))  # saturates
    found, expected = kind(weight, g).gelu(codes, out), out.codes(exact.float())
    difference = (found.int() - expected.int()).abs()
    assert found.dtype == torch.uint8 and int(found.max()) == out.quant_max
    assert difference.max() <= 1 and difference.float().mean() < 0.01  # one code where a value lies on a tie


def test_packed_weights_serve_any_number_of_rows():
    g, codes, weight, _sums = product_case(64, 96, 64, "asymmetric")
    product = OneDnnMatmul(weight, g)
    whole = product(codes)
    for rows in (1, 3, 50):
        torch.testing.assert_close(product(codes[:rows].contiguous()), whole[:rows], rtol=1e-6, atol=1e-3)


def test_rows_are_multiplied_in_blocks_of_few_sizes():
    found = {rows: list(row_blocks(rows)) for rows in (*range(25, 1000, 25), 1000, 1500)}
    for rows, blocks in found.items():
        assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(rows))
    sizes = {block.stop - block.start for rows in range(25, 1000, 25) for block in found[rows]}
    assert sizes == {25, 50, 75, 100, 125, 250, 500}
    assert len(found[1000]) == len(found[1500]) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 129])
def test_attention_to_what_is_kept_beyond_is_that_of_the_longer_window(kernels, length, dtype):
    """Two utterances; the window has 130 rows, and the rows from `length` on are those of silence."""
    needs_bf16(kernels, dtype)
    heads, window = Heads(2, 32), 130
    silence, own = random(window, 128, seed=8).to(dtype), random(2, length, 192, seed=9).to(dtype)
    behind = torch.cat([torch.zeros(window - length, 64, dtype=dtype), silence[length:]], dim=1)
    whole = torch.cat([own, behind.expand(2, -1, -1)], dim=1)  # its other queries are of no account
    expected = TorchKernels().attention(whole.flatten(0, 1).float(), 2, heads, None, None).unflatten(0, (2, window))
    found = kernels.attention(own.flatten(0, 1).contiguous(), 2, heads, None, None, silence).unflatten(0, (2, length))
    plain = TorchKernels().attention(own.flatten(0, 1), 2, heads, None, None, silence).unflatten(0, (2, length))
    for result in (found, plain):
        assert (result - expected[:, :length]).norm() / expected[:, :length].norm() < (
            1e-5 if dtype == torch.float32 else 2e-2
        )
