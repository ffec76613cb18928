"""Emulation in one pass: the bits of `quant.grid`, and attention head by head where nobody needs all heads at once."""

import pytest
import torch
from support.quantizing import emulated, quantization_of
from support.tiny import gated_model, logits_of
from torch.nn.functional import scaled_dot_product_attention

from whisperq.models import gated_whisper
from whisperq.models.sites import model_sites, watch
from whisperq.native import emulation
from whisperq.native.emulation import on_grid, on_token_grids
from whisperq.quant.grid import fake_quantize, range_qparams, token_qparams, weight_qparams

ENDS = {"asymmetric": (-1.0, 3.0), "symmetric": (-2.0, 2.0), "positive": (0.0, 2.5), "negative": (-7.0, 0.0),
        "all zero": (0.0, 0.0), "narrow": (-1e-30, 2e-30), "massive": (-546.93, 199.05)}  # fmt: skip


def bits_of(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.int32)


def hard(count: int, step: float) -> torch.Tensor:
    """Random values, and those that rounding and clipping decide on: ties, zeros of both signs, infinities, NaN."""
    ties = (torch.arange(-300, 300) + 0.5) * step
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45, -1e38])
    return torch.cat([torch.randn(count, generator=torch.Generator().manual_seed(0)) * 100 * step, ties, special])


@pytest.fixture
def compiled():
    if emulation.kernels() is None:
        pytest.skip("no C++ compiler is at hand")


@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize("count", [1, 77, 40_000])
@pytest.mark.parametrize("ends", ENDS)
def test_one_pass_gives_the_grids_own_bits(ends, count, bits, compiled):
    grid = range_qparams(*ENDS[ends], bits)
    x = hard(count, float(grid.scale))
    expected, before = bits_of(fake_quantize(x, grid)), x.clone()
    assert torch.equal(bits_of(on_grid(grid)(x)), expected)
    assert torch.equal(bits_of(x), bits_of(before))
    assert on_grid(grid, in_place=True)(x) is x and torch.equal(bits_of(x), expected)


def test_torchs_own_fake_quantization_agrees(compiled):
    grid = range_qparams(-8.0, 7.9375, 8)  # scale 1/16: its division and torch's product are both exact
    x = torch.randn(5000, generator=torch.Generator().manual_seed(1)) * 6
    theirs = torch.fake_quantize_per_tensor_affine(x, float(grid.scale), int(grid.zero_point), 0, 255)
    assert torch.equal(on_grid(grid)(x), theirs)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3, 33), (50, 128)])
def test_each_token_has_the_grid_of_its_own_range(shape, bits, compiled):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    x = x * torch.logspace(-42, 36, x.shape[-2])[:, None]  # down to ranges finer than a float32 scale
    expected = fake_quantize(x, token_qparams(x, bits))
    assert torch.equal(bits_of(on_token_grids(bits)(x)), bits_of(expected))


def test_a_token_without_a_grid_leaves_the_others_alone(compiled):
    x = torch.randn(4, 20, generator=torch.Generator().manual_seed(3))
    expected = fake_quantize(x, token_qparams(x, 8))
    x[1, 3], x[2, 4] = torch.nan, torch.inf
    found = on_token_grids(8)(x)
    assert found[1:3].isnan().all() and torch.equal(found[[0, 3]], expected[[0, 3]])


OTHERS = {
    "half precision": lambda x: x.bfloat16(),
    "transposed": lambda x: x.T,
    "to be trained": lambda x: x.clone().requires_grad_(),
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_the_kernels_do_not_take_torch_computes(other):
    x, grid = other(torch.randn(6, 8)), range_qparams(-1.0, 1.0, 8)
    found = on_grid(grid, in_place=True)(x)
    assert torch.equal(found, fake_quantize(x, grid)) and found.dtype == x.dtype
    if x.numel():
        assert torch.equal(on_token_grids(8)(x), fake_quantize(x, token_qparams(x, 8)))


def test_channels_with_grids_of_their_own_are_torchs_too():
    x = torch.randn(4, 9)
    grid = weight_qparams(x, 8, symmetric=True, channel_dims=1)
    assert torch.equal(on_grid(grid)(x), fake_quantize(x, grid))


def test_without_a_compiler_the_bits_are_the_same(monkeypatch):
    x, grid = hard(100, 0.1), range_qparams(-3.0, 9.0, 8)
    expected = bits_of(on_grid(grid)(x)), bits_of(on_token_grids(8)(torch.ones(3, 5)))
    monkeypatch.setattr(emulation, "kernels", lambda: None)
    assert torch.equal(bits_of(on_grid(grid)(x)), expected[0])
    assert torch.equal(bits_of(on_token_grids(8)(torch.ones(3, 5))), expected[1])


def attending(part: int, monkeypatch, watcher, scaling: float = 1.0):
    """The context that explicit attention makes of random heads, and what the watcher was shown of scores."""
    monkeypatch.setattr(gated_whisper, "PART", part)
    seen: list[torch.Tensor] = []

    def see(x: torch.Tensor) -> None:
        seen.append(x)

    see.in_parts = watcher
    model = gated_model()
    attention = model.model.encoder.layers[0].self_attn
    q, k, v = (torch.randn(3, 4, 20, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    with watch(model, model_sites(model), {"enc.0.scores": see, "enc.0.probs": see}), torch.inference_mode():
        context, _ = gated_whisper.explicit_attention(attention, q, k, v, None, scaling=scaling)
    expected = scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2)
    torch.testing.assert_close(context, expected, atol=1e-6, rtol=1e-5)
    return seen, q @ k.transpose(2, 3) * scaling


@pytest.mark.parametrize("scaling", [1.0, 0.25])
@pytest.mark.parametrize("part, shape", [(2 * 20 * 20, (1, 2, 20, 20)), (1, (1, 1, 20, 20)), (4800, (3, 4, 20, 20))])
def test_attention_comes_in_parts(part, shape, scaling, monkeypatch):
    seen, scores = attending(part, monkeypatch, True, scaling)
    assert {x.shape for x in seen} == {torch.Size(shape)}
    torch.testing.assert_close(torch.cat([x.flatten(0, 1) for x in seen[::2]]), scores.flatten(0, 1))


def test_who_needs_the_whole_batch_sees_it(monkeypatch):
    seen, scores = attending(1, monkeypatch, False)
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], scores)


@pytest.mark.parametrize("recipe", ["gemm", "paper"])
def test_an_emulated_model_says_the_same_in_parts(recipe, monkeypatch):
    model = gated_model()
    quantization, _ = quantization_of(model, recipe)
    with torch.inference_mode():
        whole = emulated(model, quantization)
        monkeypatch.setattr(gated_whisper, "PART", 1)
        torch.testing.assert_close(emulated(model, quantization), whole, atol=1e-5, rtol=1e-5)
        assert not torch.equal(whole, logits_of(model))
