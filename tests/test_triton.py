"""The Triton kernels, in Triton's interpreter on the CPU, against the kernels as PyTorch operators."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from support import quantizing_ctc as ctc
from support.exported import pytorch_logits, quantized_folder, step_logits
from support.int8_folders import distance
from support.kernel_inputs import GRIDS, gates, grid, random
from support.tiny import PROMPT, features, gated_model

triton = pytest.importorskip("triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("needs TRITON_INTERPRET=1 in the environment", allow_module_level=True)

from whisperq.errors import KernelError  # noqa: E402
from whisperq.quant.grid import QParams  # noqa: E402
from whisperq.quant.wide import WideQParams  # noqa: E402
from whisperq.runtime.int8 import ctc as int8_ctc  # noqa: E402
from whisperq.runtime.int8 import whisper as int8_whisper  # noqa: E402
from whisperq.runtime.int8.ctc import Int8Ctc  # noqa: E402
from whisperq.runtime.int8.dynamic import TokenCodes, TokenGrid  # noqa: E402
from whisperq.runtime.int8.grids import Grid, signed_qparams  # noqa: E402
from whisperq.runtime.int8.kernels import Cache, Heads, Norm  # noqa: E402
from whisperq.runtime.int8.matmuls import IntegerWeight  # noqa: E402
from whisperq.runtime.int8.open import Choice, choose_kernels  # noqa: E402
from whisperq.runtime.int8.proof import prove_kernels, prove_matmul  # noqa: E402
from whisperq.runtime.int8.replay import Replay  # noqa: E402
from whisperq.runtime.int8.torch_kernels import TorchKernels, aligned  # noqa: E402
from whisperq.runtime.int8.triton_kernels import TritonKernels  # noqa: E402
from whisperq.runtime.int8.triton_matmuls import TritonMatmul  # noqa: E402
from whisperq.runtime.int8.whisper import Int8Runtime  # noqa: E402
from whisperq.runtime.int8.wide_matmuls import WideGrid, WideMatmul  # noqa: E402

TRITON = TritonKernels()
WIDTHS = (384, 512, 1280)
INPUTS = ("random", "all zero", "saturating")
TIE = 1e-3  # of a step: so near to the middle between two codes, float32's rounding decides for one of them
STATIC = Grid(signed_qparams(QParams(torch.tensor(0.05), torch.tensor(85, dtype=torch.int32), 0, 255)))
DYNAMIC = TokenGrid(8, signed=True)


class SignedTorch(TorchKernels):
    signed = True


def signed(name: str) -> Grid:
    return Grid(signed_qparams(grid(name).qparams))


def inputs(kind: str, rows: int, width: int) -> torch.Tensor:
    """float32; saturating: most of it lies beyond every grid of these tests."""
    return random(rows, width) * {"random": 1.0, "all zero": 0.0, "saturating": 1e3}[kind]


def norm(width: int) -> Norm:
    return Norm(1 + 0.1 * random(width, seed=1), 0.1 * random(width, seed=2))


def in_steps(x: torch.Tensor, own: Grid) -> torch.Tensor:
    return x.double() / float(own.qparams.scale) + own.zero_point


def assert_codes(found: torch.Tensor, values: torch.Tensor, own: Grid) -> None:
    """The codes of these values, float64; where a value lies at a tie, either of its two neighbours."""
    steps = in_steps(values, own)
    expected = steps.round().clamp(own.quant_min, own.quant_max)
    tied = (steps - steps.floor() - 0.5).abs() < TIE
    assert found.dtype == own.dtype
    assert torch.equal(found[~tied].double(), expected[~tied])
    assert ((found[tied] - expected[tied]).abs() <= 1).all() and tied.double().mean() < 0.01


def test_every_grid_gives_the_same_codes():
    x = inputs("random", 17, 384)
    for name in GRIDS:
        assert torch.equal(TRITON.quantize(x, signed(name)), TorchKernels().quantize(x, signed(name)))


# The interpreter takes milliseconds a row.
SHAPES = [(rows, width, kind) for rows in (1, 17) for width in WIDTHS for kind in INPUTS]
SHAPES += [pytest.param(1500, width, "random", marks=pytest.mark.slow) for width in WIDTHS]


@pytest.mark.parametrize("rows, width, kind", SHAPES)
def test_quantization_gives_the_same_codes(rows, width, kind):
    x = inputs(kind, rows, width)
    assert torch.equal(TRITON.quantize(x, signed("asymmetric")), TorchKernels().quantize(x, signed("asymmetric")))
    found, expected = TRITON.quantize(x, DYNAMIC), TorchKernels().quantize(x, DYNAMIC)
    for part in ("codes", "scale", "zero_point"):
        assert torch.equal(getattr(found, part), getattr(expected, part)), part


@pytest.mark.parametrize("rows, width, kind", SHAPES)
def test_a_norm_is_quantized_as_it_is_computed(rows, width, kind):
    x, own = inputs(kind, rows, width), norm(width)
    exact = torch.nn.functional.layer_norm(x.double(), (width,), own.weight.double(), own.bias.double(), own.epsilon)
    torch.testing.assert_close(TRITON.layer_norm(x, own, None).double(), exact, rtol=1e-5, atol=1e-5)
    assert_codes(TRITON.layer_norm(x, own, signed("asymmetric")), exact, signed("asymmetric"))
    tokens = TRITON.layer_norm(x, own, DYNAMIC)
    step = tokens.scale.double()[:, None]
    assert ((DYNAMIC.values(tokens) - exact).abs() <= (0.5 + TIE) * step).all()


def test_a_norm_with_gelu():
    x, own = random(17, 384), norm(384)
    exact = torch.nn.functional.gelu(torch.nn.functional.layer_norm(x, (384,), own.weight, own.bias).double())
    assert_codes(TRITON.layer_norm(x, own, signed("asymmetric"), gelu=True), exact, signed("asymmetric"))


def weight(outputs: int, width: int) -> IntegerWeight:
    numbers = torch.Generator().manual_seed(3)
    codes = torch.randint(-127, 128, (outputs, width), generator=numbers).to(torch.int8)
    return IntegerWeight(codes, 1e-4 * (1 + torch.rand(outputs, generator=numbers)), random(outputs, seed=4))


def activations(kind: str, rows: int, width: int) -> torch.Tensor:
    """Codes; saturating: the ends of the range, where sums are largest."""
    if kind == "random":
        return torch.randint(-128, 128, (rows, width), generator=torch.Generator().manual_seed(5)).to(torch.int8)
    return torch.full((rows, width), STATIC.zero_point if kind == "all zero" else 127, dtype=torch.int8)


def exact_product(x: torch.Tensor, own: IntegerWeight) -> torch.Tensor:
    values = (x.double() - STATIC.zero_point) * STATIC.scale
    return values @ (own.codes.double() * own.scale.double()[:, None]).T + own.bias.double()


BIG = pytest.param(17, 1280, 3860, marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("rows, width, outputs", [(1, 384, 1536), (17, 512, 97), (1500, 384, 384), BIG])
def test_products_and_what_follows_them(rows, width, outputs, kind):
    own, x = weight(outputs, width), activations(kind, rows, width)
    product, exact = TritonMatmul(own, STATIC, "cpu"), exact_product(x, own)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))
    close(product(x).double(), exact)
    start = random(rows, outputs, seed=6)
    close(product.add(x, start.clone()).double(), exact + start)
    activated = torch.nn.functional.gelu(exact)
    target = Grid(signed_qparams(QParams(torch.tensor(0.02), torch.tensor(9, dtype=torch.int32), 0, 255)))
    assert_codes(product.gelu(x, target), activated, target)


def test_integers_are_summed_exactly():
    """Scales of one and no bias leave the sum itself, whose digits float32 has up to 2^24."""
    own = IntegerWeight(weight(64, 512).codes, torch.ones(64), torch.zeros(64))
    grid = Grid(signed_qparams(QParams(torch.tensor(1.0), torch.tensor(128, dtype=torch.int32), 0, 255)))
    x = activations("random", 17, 512)
    assert torch.equal(TritonMatmul(own, grid, "cpu")(x).long(), x.long() @ own.codes.long().T)


def test_the_rows_of_a_product_begin_where_fused_attention_reads_them():
    found = TritonMatmul(weight(3 * 384 + 6, 384), STATIC, "cpu")(activations("random", 17, 384), torch.bfloat16)
    assert found.shape == (17, 3 * 384 + 6) and found.stride(0) * found.element_size() % 16 == 0


@pytest.mark.parametrize("columns, same", [(3 * 1280 + 20, False), (3 * 1280 + 24, True)])
def test_heads_are_copied_where_their_rows_begin_between_two_places(columns, same):
    heads = torch.zeros(6, columns, dtype=torch.bfloat16)[:, 1280:2560].unflatten(1, (20, 64)).transpose(0, 1)
    found = aligned(heads)
    assert (found is heads) == same and all(stride % 8 == 0 for stride in found.stride()[:-1])
    assert torch.equal(found, heads)


def test_a_norm_over_time_gives_a_product_other_scales():
    own, x = weight(97, 72), activations("random", 17, 72)
    factor, bias = 1 + torch.rand(97), random(97, seed=8)
    found = TritonMatmul(own, STATIC, "cpu").rescaled(factor, bias)(x)
    expected = TritonMatmul(IntegerWeight(own.codes, own.scale * factor, bias), STATIC, "cpu")(x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("channels", [None, torch.arange(1, 500, 7)])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("bits", [14, 16])
def test_codes_of_16_bits_come_in_the_same_halves(bits, kind, channels):
    wide = QParams(torch.tensor(1e-3), torch.tensor(5000, dtype=torch.int32), 0, 2**bits - 1)
    own = WideGrid(wide if channels is None else WideQParams(grid("symmetric").qparams, wide, channels), signed=True)
    x = inputs(kind, 17, 512)
    assert torch.equal(TRITON.halves(x, own), SignedTorch().halves(x, own))


@pytest.mark.parametrize("kind", ["none", "headwise", "elementwise"])
@pytest.mark.parametrize("heads", [Heads(2, 64), Heads(3, 20)])
def test_attention_over_whole_utterances(heads, kind):
    qkv, gate = random(2 * 50, 3 * heads.count * heads.dim), gates(kind, 100, heads, torch.float32)
    for own in (None, signed("symmetric")):
        found, expected = (k.attention(qkv, 2, heads, gate, own) for k in (TRITON, TorchKernels()))
        assert_values(found, expected, own)


@pytest.mark.parametrize("kind", ["none", "headwise", "elementwise"])
@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("past, own_tokens", [(1, 1), (70, 1), (5, 4), (64, 0)])
def test_attention_to_a_cache(past, own_tokens, codes, kind):
    """own_tokens: the last entries, each query sees those up to its own; 0: all queries see all, as across models."""
    heads, batch, queries = Heads(3, 20), 2, max(1, own_tokens)
    width = heads.count * heads.dim
    keys, values = random(batch * past, width, seed=1), random(batch * past, width, seed=2)
    like = torch.empty(0, dtype=torch.int8 if codes else torch.float32)
    cache = Cache.empty(batch, heads, 90, like)
    cache.scales = (keys.abs().amax(0) / 127, values.abs().amax(0) / 127) if codes else None
    TRITON.append(keys, values, cache)
    plain = replace(Cache.empty(batch, heads, 90, like), scales=cache.scales)
    TorchKernels().append(keys, values, plain)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(filled(cache), filled(plain), strict=True))
    query, gate = random(batch * queries, width, seed=3), gates(kind, batch * queries, heads, torch.float32)
    for own in (None, signed("symmetric"), DYNAMIC):
        found, expected = (k.attend(query, cache, own_tokens, heads, gate, own) for k in (TRITON, TorchKernels()))
        assert_values(found, expected, own)


def filled(cache: Cache) -> tuple[torch.Tensor, torch.Tensor]:
    return cache.keys[..., : cache.past], cache.values[:, :, : cache.past]


def assert_values(found, expected, own) -> None:
    """Within float32's rounding; as codes, within one of them."""
    if own is None:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    elif isinstance(found, TokenCodes):
        torch.testing.assert_close(found.scale, expected.scale, rtol=1e-4, atol=0)
        assert (found.codes.int() - expected.codes.int()).abs().max() <= 1
    else:
        apart = (found.int() - expected.int()).abs()
        assert apart.max() <= 1 and apart.double().mean() < 1e-3


def swapped(own: IntegerWeight) -> IntegerWeight:
    scale = own.scale.clone()
    scale[[3, 20]] = scale[[20, 3]]
    return IntegerWeight(own.codes, scale, own.bias)


PRODUCTS = {
    "static": lambda w: (TritonMatmul(w, STATIC, "cpu"), STATIC),
    "dynamic": lambda w: (TritonMatmul(w, DYNAMIC, "cpu"), DYNAMIC),
    "wide": lambda w: (WideMatmul(WIDE, w, TRITON, lambda *made: TritonMatmul(*made, "cpu")), WIDE),
}
WIDE = WideGrid(QParams(torch.tensor(0.001), torch.tensor(20000, dtype=torch.int32), 0, 2**16 - 1), signed=True)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_prove_themselves_and_swapped_scales_are_refused(name):
    own = weight(96, 72)
    prove_matmul(*PRODUCTS[name](own)[:1], own, PRODUCTS[name](own)[1], "cpu")
    matmul, its_grid = PRODUCTS[name](swapped(own))
    with pytest.raises(KernelError, match="1 x 72 -> 96 on cpu computes wrong numbers: 2 of 96 values"):
        prove_matmul(matmul, own, its_grid, "cpu")


def test_the_other_kernels_prove_themselves():
    prove_kernels(TRITON, Heads(3, 20), torch.bfloat16, "cpu")


@pytest.fixture
def in_triton(monkeypatch):
    """int8 opens models with these kernels, attention in float32."""
    choice = Choice(TRITON, torch.float32)
    monkeypatch.setattr(int8_whisper, "choose_kernels", lambda *_: choice)


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["none", "headwise", "elementwise"])
def test_a_whole_model_computes_the_emulated_logits(gate, in_triton, tmp_path):
    folder = quantized_folder(gated_model(gate), tmp_path / "model")
    runtime = Int8Runtime.load(folder, reduce_range=False)  # exact on any CPU
    assert isinstance(runtime.encoder[0].attention.out, TritonMatmul)
    assert distance(step_logits(runtime, batch=5), pytorch_logits(folder, batch=5)) < 1e-3


@pytest.mark.slow
def test_a_model_for_outliers_computes_what_the_compiled_kernels_do(finished_run, tmp_path, invoke, monkeypatch):
    """Scaled norms, a convolution's input that is divided by channel, fc2 inputs of 16 bits."""
    folder = tmp_path / "wide"
    told = ("quantize", "--run", finished_run, "--massive", "enc.*.fc2:input,dec.*.fc2:input", "--out", folder)
    assert invoke(*told).exit_code == 0
    usual = Int8Runtime.load(folder, attention_dtype="float32").trial()
    monkeypatch.setattr(int8_whisper, "choose_kernels", lambda *_: Choice(TRITON, torch.float32))
    runtime = Int8Runtime.load(folder, reduce_range=False)  # exact on any CPU
    assert isinstance(runtime.encoder[0].feed_forward.fc2, WideMatmul)
    for found, expected in zip(runtime.trial(), usual, strict=True):
        assert float((found - expected).norm() / expected.norm()) < 1e-2


class Again:
    """A recording that computes its step again: CUDA graphs need a GPU."""

    def __init__(self, step) -> None:
        self.replay = step
        step()  # as what records does, to have everything compiled


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_replayed_steps_are_the_steps(batch, in_triton, tmp_path):
    """How far the caches are filled is read from memory, and each step fills one position more."""
    runtime = Int8Runtime.load(quantized_folder(gated_model(), tmp_path / "model"), reduce_range=False)
    usual, replayed = (runtime.encode(features(batch)) for _ in range(2))
    prompt = torch.tensor([PROMPT]).expand(batch, -1)
    assert torch.equal(runtime.decode_step(prompt, usual), runtime.decode_step(prompt, replayed))
    tokens = torch.arange(4 * batch).view(4, batch, 1)
    replay = Replay(lambda some: runtime._step(some, replayed), replayed.own, tokens[0], Again)
    for one in tokens:
        assert torch.equal(replay(one), runtime.decode_step(one, usual))
    assert replayed.own[0].past == usual.own[0].past == len(PROMPT) + 4
    replay.end()  # and on without it
    assert torch.equal(runtime.decode_step(prompt, usual), runtime.decode_step(prompt, replayed))


def test_a_full_cache_takes_no_further_step():
    cache = Cache.empty(1, Heads(3, 20), 2, torch.empty(0))
    row = random(1, 60)
    TRITON.append(row, row, cache)
    replay = Replay(lambda tokens: tokens, [cache], torch.zeros(1, 1, dtype=torch.long), Again)
    replay(torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="full"):
        replay(torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="has no room for 1"):
        TRITON.append(row, row, cache)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["wav2vec2-base", "hubert-large"])
def test_a_ctc_model_computes_the_emulated_logits(variant, monkeypatch, tmp_path):
    """Convolutions whose windows overlap in memory, norms over time and over channels, groups of channels."""
    monkeypatch.setattr(int8_ctc, "choose_kernels", lambda *_: Choice(TRITON, torch.float32))
    folder = ctc.quantized_folder(ctc.float_folder(tmp_path / "model", variant))
    recordings = ctc.waveforms((1200,))
    runtime = Int8Ctc.load(folder, reduce_range=False)
    assert ctc.difference(runtime.logits(recordings), ctc.emulated_logits(folder, recordings)) < 1e-2


def test_a_model_with_swapped_scales_is_not_opened(in_triton, monkeypatch, tmp_path):
    folder = quantized_folder(gated_model(), tmp_path / "model")
    right = TritonKernels.own_matmul
    monkeypatch.setattr(TritonKernels, "own_matmul", lambda self, w, *rest: right(self, swapped(w), *rest))
    with pytest.raises(KernelError, match=r"TritonMatmul, 1 x \d+ -> \d+ on cpu computes wrong numbers"):
        Int8Runtime.load(folder)


def test_what_triton_cannot_compile_is_left_to_pytorch_with_the_reason(monkeypatch):
    tried = TritonKernels.try_out

    def no_compiler(self, device):
        raise RuntimeError("Failed to find C compiler. Please specify via CC\nor otherwise")

    monkeypatch.setattr(TritonKernels, "try_out", no_compiler)
    choice = choose_kernels("gpu", "auto")
    assert type(choice.kernels) is TorchKernels and choice.attention == torch.bfloat16
    assert "Failed to find C compiler. Please specify via CC)" in choice.notices[0]
    monkeypatch.undo()
    monkeypatch.setattr(TritonKernels, "try_out", lambda self, device: tried(self, "cpu"))
    choice = choose_kernels("gpu", "auto")
    assert isinstance(choice.kernels, TritonKernels) and not choice.notices
