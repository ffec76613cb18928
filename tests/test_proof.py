"""Kernels prove themselves when a model is opened: right ones pass, one that is wrong anywhere is refused by name."""

from functools import partial

import pytest
import torch
from support.quantizing_ctc import float_folder, quantized_folder

from whisperq.errors import KernelError
from whisperq.models.loading import load_config
from whisperq.native.build import NoKernels, library
from whisperq.options import Execution
from whisperq.quant.grid import QParams
from whisperq.quant.wide import WideQParams
from whisperq.runtime.int8 import integer_products
from whisperq.runtime.int8.ctc import Int8Ctc
from whisperq.runtime.int8.dynamic import DynamicMatmul, MatmulSums, TokenCodes, TokenGrid, integer_sums
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.kernels import Heads
from whisperq.runtime.int8.matmuls import IntegerWeight, TorchMatmul, integer_matmul
from whisperq.runtime.int8.native_matmuls import NativeMatmul
from whisperq.runtime.int8.native_tokens import NativeDynamicMatmul, TokenKernels
from whisperq.runtime.int8.open import open_runtime as open_integer_runtime
from whisperq.runtime.int8.proof import prove_kernels, prove_matmul
from whisperq.runtime.int8.torch_kernels import TorchKernels
from whisperq.runtime.int8.whisper import Int8Runtime
from whisperq.runtime.int8.wide_matmuls import WideGrid, WideMatmul

OUTPUTS, INPUTS = 96, 72
HEADS = Heads(2, 32)


def native() -> TokenKernels:
    try:
        return TokenKernels(library())
    except NoKernels as reason:
        pytest.skip(str(reason))


def weight(outputs: int = OUTPUTS) -> IntegerWeight:
    numbers = torch.Generator().manual_seed(1)
    codes = torch.randint(-127, 128, (outputs, INPUTS), generator=numbers).to(torch.int8)
    scale = 0.001 + 0.01 * torch.rand(outputs, generator=numbers)
    return IntegerWeight(codes, scale, torch.randn(outputs, generator=numbers))


def static(bits: int = 8) -> Grid:
    return Grid(QParams(torch.tensor(0.05), torch.tensor(2**bits // 3, dtype=torch.int32), 0, 2**bits - 1))


def wide(channels: int | None) -> WideGrid:
    halves = QParams(torch.tensor(0.001), torch.tensor(20000, dtype=torch.int32), 0, 2**16 - 1)
    if channels is None:
        return WideGrid(halves)
    return WideGrid(WideQParams(static().qparams, halves, torch.arange(0, 3 * channels, 3)))


def of_this_machine(w: IntegerWeight, grid, few_rows: bool = False):
    """As `Layers` makes them."""
    kernels = native()
    if isinstance(grid, TokenGrid):
        sums = None if kernels.multiplies_all else integer_sums(w.codes, grid.bits, "cpu")
        return NativeDynamicMatmul(w, grid, sums, kernels, few_rows)
    return NativeMatmul(w, grid, kernels, None) if kernels.multiplies_all else integer_matmul(w, grid, "cpu")


PRODUCTS = {
    "this machine's": lambda w: (of_this_machine(w, static()), static()),
    "seven bits": lambda w: (integer_matmul(w, static(7), "cpu"), static(7)),
    "PyTorch's": lambda w: (TorchMatmul(w, static()), static()),
    "few rows": lambda w: (NativeMatmul(w, static(), native(), of_this_machine(w, static())), static()),
    "dynamic": lambda w: (DynamicMatmul(w, TokenGrid(8), MatmulSums(w.codes, "cpu")), TokenGrid(8)),
    "dynamic, compiled": lambda w: (of_this_machine(w, TokenGrid(8)), TokenGrid(8)),
    "dynamic, few rows": lambda w: (of_this_machine(w, TokenGrid(8), few_rows=True), TokenGrid(8)),
    "wide": lambda w: (WideMatmul(wide(None), w, native(), of_this_machine), wide(None)),
    "wide, few rows": lambda w: (WideMatmul(wide(None), w, native(), of_this_machine, True), wide(None)),
    "some channels wide": lambda w: (WideMatmul(wide(8), w, native(), of_this_machine), wide(8)),
}


@pytest.mark.parametrize("outputs", [OUTPUTS, 5000])
@pytest.mark.parametrize("name", PRODUCTS)
def test_right_products_pass(name, outputs):
    matmul, grid = PRODUCTS[name](weight(outputs))
    prove_matmul(matmul, weight(outputs), grid, "cpu")


def swapped(w: IntegerWeight) -> IntegerWeight:
    scale = w.scale.clone()
    scale[[3, 20]] = scale[[20, 3]]
    return IntegerWeight(w.codes, scale, w.bias)


@pytest.mark.parametrize("name", PRODUCTS)
def test_two_swapped_scales_are_found(name):
    matmul, grid = PRODUCTS[name](swapped(weight()))
    with pytest.raises(KernelError) as refused:
        prove_matmul(matmul, weight(), grid, "cpu")
    shape = f"{type(matmul).__name__}, 1 x {INPUTS} -> {OUTPUTS} on cpu"
    for words in (shape, torch.__version__, "--runtime emulated"):
        assert words in str(refused.value)
    assert "2 of 96 values" in str(refused.value)


class Wrong:
    """A right product whose `form` is not, for more than `beyond` rows."""

    def __init__(self, form: str, beyond: int = 0) -> None:
        self.grid, self.form, self.beyond, self.right = static(), form, beyond, TorchMatmul(weight(), static())

    def spoilt(self, form: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        if form == self.form and len(x) > self.beyond:
            result[-1, 7] = result[-1, 7] + 2 if result.dtype == torch.uint8 else torch.nan
        return result

    def __call__(self, x, dtype=torch.float32):
        return self.spoilt(" in bfloat16" if dtype == torch.bfloat16 else "", x, self.right(x, dtype))

    def add(self, x, sum):
        return self.spoilt(" added to a sum", x, self.right.add(x, sum))

    def gelu(self, x, grid):
        return self.spoilt(" with GELU" if grid is None else " with GELU as codes", x, self.right.gelu(x, grid))


@pytest.mark.parametrize("form", ["", " in bfloat16", " added to a sum", " with GELU", " with GELU as codes"])
@pytest.mark.parametrize("beyond, rows", [(0, 1), (8, 17), (64, 65)])
def test_every_form_of_few_and_of_many_rows_is_tried(form, beyond, rows):
    with pytest.raises(KernelError, match=rf"Wrong, {rows} x {INPUTS} -> {OUTPUTS}{form} on cpu .* 1 of"):
        prove_matmul(Wrong(form, beyond), weight(), static(), "cpu", most_rows=beyond)


def test_bfloat16_is_not_tried_where_nobody_asks_for_it():
    """A CPU without it takes seconds for such a product of a vocabulary."""
    prove_matmul(Wrong(" in bfloat16"), weight(), static(), "cpu", dtype=torch.float32)


def test_saturating_sums_are_found():
    """As instructions without VNNI add pairs in 16 bits: right for small codes alone."""

    class Saturating(TorchMatmul):
        def __call__(self, x, dtype=torch.float32):
            pairs = (x.float()[:, None] * weight().codes.float()).unflatten(2, (-1, 2)).sum(dim=3)
            sums = pairs.clamp(-(2**15), 2**15 - 1).sum(dim=2) - 85 * weight().codes.float().sum(dim=1)
            return torch.addcmul(weight().bias, sums, weight().scale * 0.05).to(dtype)

    with pytest.raises(KernelError, match="Saturating"):
        prove_matmul(Saturating(weight(), static()), weight(), static(), "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [TorchKernels, native])
def test_right_kernels_pass(make, dtype):
    kernels = make()
    if dtype == torch.bfloat16 and isinstance(kernels, TokenKernels) and not kernels.multiplies_bf16:
        pytest.skip("this CPU multiplies no bfloat16")
    prove_kernels(kernels, HEADS, dtype, "cpu")


def off(method: str, kernels: TorchKernels) -> TorchKernels:
    """Kernels of which one is wrong in one value."""
    right = getattr(kernels, method)

    def wrong(*arguments, **named):
        result = right(*arguments, **named)
        values = result.codes if isinstance(result, TokenCodes) else result
        values[0, 1] += 2 if values.dtype == torch.uint8 else 1
        return result

    setattr(kernels, method, wrong)
    return kernels


@pytest.mark.parametrize(
    "method, words",
    [
        ("layer_norm", "a norm or its quantization, 17 x 64"),
        ("quantize", "a norm or its quantization, 17 x 64"),
        ("attention", "attention, 140 x 64"),
        ("attend", "attention, 140 x 64"),
    ],
)
def test_a_wrong_kernel_is_found(method, words):
    with pytest.raises(KernelError, match=f"{words} on cpu computes wrong numbers"):
        prove_kernels(off(method, TorchKernels()), HEADS, torch.float32, "cpu")


def test_a_model_with_a_wrong_kernel_is_not_opened(finished_run, workspace, invoke, monkeypatch):
    """The codes are right on disk, and what runs them is not: one sentence, and nothing is written."""
    model = finished_run / "quantized" / "gemm-w8a8"
    told = ("eval", "--model", model, "--runtime", "int8", "--limit", 1, "--out", "scores")
    with monkeypatch.context() as patched:
        patched.setattr(integer_products, "integer_matmul", partial(_wrong_matmul, integer_matmul))
        patched.setattr(integer_products, "NativeMatmul", lambda w, *how: NativeMatmul(swapped(w), *how))
        refused = invoke(*told)
    assert refused.exit_code == 1 and "computes wrong numbers" in refused.stderr and "Traceback" not in refused.stderr
    assert not (workspace / "scores").exists()
    assert invoke(*told).exit_code == 0


@pytest.mark.parametrize("family", ["whisper", "ctc"])
def test_a_whole_model_has_to_compute_on_a_gpu_what_it_computes_on_the_cpu(family, finished_run, tmp_path, monkeypatch):
    """Without a GPU: what is loaded for one is loaded on the CPU, as it is and with tensors that were moved wrongly."""
    folder = (
        finished_run / "quantized" / "gemm-w8a8"
        if family == "whisper"
        else quantized_folder(float_folder(tmp_path / "model", "wav2vec2-base"))
    )
    kind, config = (Int8Runtime, Int8Ctc)[family == "ctc"], load_config(folder)
    right = kind.load

    def load(place, device, *rest, spoil=False):
        made = right(place, "cpu", *rest)
        norm = made.encoder_norm if family == "whisper" else made.norm
        if spoil and device != "cpu":
            norm.weight[:] = norm.weight.flip(0) * torch.linspace(-1, 2, len(norm.weight))
        return made

    monkeypatch.setattr(kind, "load", load)
    opened = open_integer_runtime(folder, "int8", config, Execution(runtime="int8"), "gpu")
    assert isinstance(opened, kind)
    monkeypatch.setattr(kind, "load", partial(load, spoil=True))
    with pytest.raises(KernelError, match="something else on gpu than on the CPU: a relative error of"):
        open_integer_runtime(folder, "int8", config, Execution(runtime="int8"), "gpu")


def _wrong_matmul(right, w, grid, device, align=False):
    return right(swapped(w), grid, device, align)
