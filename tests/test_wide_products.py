"""16-bit activations as INT8 products, against exact arithmetic of integers."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support.cpu import needs_vnni
from support.kernel_inputs import native, random
from transformers import PreTrainedConfig

from whisperq.graphs.graph import Graph
from whisperq.graphs.layers import Layers as GraphLayers
from whisperq.graphs.wide import WideWeight, wide_product
from whisperq.ptq.arrays import Stored
from whisperq.quant.grid import fake_quantize, range_qparams
from whisperq.quant.wide import WIDE, ActivationRange, WideQParams, fake_quantize_wide, half_codes, half_grids
from whisperq.runtime.int8.kernels import Kernels
from whisperq.runtime.int8.layers import Layers
from whisperq.runtime.int8.matmuls import IntegerWeight
from whisperq.runtime.int8.native_tokens import TokenKernels
from whisperq.runtime.int8.torch_kernels import TorchKernels
from whisperq.runtime.int8.wide_matmuls import WideGrid, WideMatmul

K, N, CHANNELS = 96, 40, (3, 17, 64, 90)
ENDS = (-300.0, 500.0)


def kernels(kind: str) -> Kernels:
    return TokenKernels(native().library) if kind == "native" else TorchKernels()


def weight() -> IntegerWeight:
    codes = torch.randint(-127, 128, (N, K), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
    return IntegerWeight(codes, random(N, seed=2).abs() * 0.01, random(N, seed=3))


def product(grid: WideGrid, kind: str) -> WideMatmul:
    """As the runtime makes it: few rows by the native kernel, or PyTorch's own product."""
    if kind == "portable":
        needs_vnni(grid.half_bits)
    layers = Layers(None, "cpu", kernels(kind), torch.float32)  # type: ignore[arg-type]
    return WideMatmul(grid, weight(), layers.kernels, lambda w, g: layers._integer(w, g, few_rows=True), few_rows=True)


def exact(x: torch.Tensor, grid: torch.nn.Module, w: IntegerWeight) -> np.ndarray:
    """s_w s (sum q_x q_w - z sum q_w) + b with codes of 64 bits, channel by channel on its own grid; float64."""
    values = x.double().numpy()
    main, wide = (grid.main, grid.wide) if isinstance(grid, WideQParams) else (None, grid)
    grids = {k: wide if main is None or k in CHANNELS else main for k in range(K)}
    y = np.zeros((len(values), N))
    for k, g in grids.items():
        scaled = (x[:, k] / g.scale).double().numpy()  # as everywhere, a division in float32
        codes = np.clip(np.rint(scaled) + int(g.zero_point), 0, g.quant_max).astype(np.int64) - int(g.zero_point)
        y += float(g.scale) * np.outer(codes, w.codes[:, k].numpy().astype(np.int64))
    return y * w.scale.double().numpy() + w.bias.double().numpy()


def rows(count: int) -> torch.Tensor:
    """Massive values in some channels, the ends of the range and values beyond them among them."""
    x = random(count, K, seed=4)
    x[:, list(CHANNELS)] *= 200
    x[0, CHANNELS[0]], x[0, CHANNELS[1]], x[-1, CHANNELS[2]] = ENDS[1], ENDS[0], 1e6
    x[-1, 5] = 1e6
    return x


GRIDS = {
    "all channels": range_qparams(*ENDS, WIDE),
    "some": ActivationRange((-4.0, 5.0), 8, ENDS, CHANNELS).grid(),
    "of 14 bits": ActivationRange((-4.0, 5.0), 8, ENDS, CHANNELS).grid(most_bits=7),
}


@pytest.mark.parametrize("kind", ["native", "portable"])
@pytest.mark.parametrize("count", [1, 3, 20, 70])
@pytest.mark.parametrize("name", GRIDS)
def test_the_products_are_exact(name: str, count: int, kind: str) -> None:
    found, x = product(WideGrid(GRIDS[name]), kind), rows(count)
    expected = torch.from_numpy(exact(x, GRIDS[name], weight()))
    size = float(expected.abs().max())
    torch.testing.assert_close(found(x).double(), expected, rtol=0, atol=2e-6 * size)
    added = found.add(x, torch.full((count, N), 0.25)).double()
    torch.testing.assert_close(added, expected + 0.25, rtol=0, atol=2e-6 * size)
    gelu = torch.nn.functional.gelu(expected)
    torch.testing.assert_close(found.gelu(x, None).double(), gelu, rtol=0, atol=2e-6 * size)


@pytest.mark.parametrize("kind", ["native", "portable"])
def test_emulation_rounds_alike(kind: str) -> None:
    for grid in reversed(GRIDS.values()):  # that of 14 bits, which all CPUs multiply, comes first
        x, w = rows(9), weight()
        rounded = fake_quantize_wide(x, grid) if isinstance(grid, WideQParams) else fake_quantize(x, grid)
        expected = rounded.double() @ (w.codes.double() * w.scale.double()[:, None]).T + w.bias.double()
        found = product(WideGrid(grid), kind)(x).double()
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("most_bits", [7, 8])
def test_halves_put_together_are_the_code(most_bits: int) -> None:
    grid = ActivationRange(ENDS, WIDE).grid(most_bits)
    assert grid.quant_max == 2 ** (2 * most_bits) - 1
    x = torch.cat([torch.linspace(*ENDS, 1001), torch.tensor([0.0, -1e9, 1e9])])
    high, low = half_codes(x, grid)
    codes = high.long() * 2**most_bits + low.long()
    assert codes.max() == grid.quant_max and codes.min() == 0 and int(high.max()) < 2**most_bits
    values = sum(
        g.scale.double() * (c.double() - g.zero_point) for g, c in zip(half_grids(grid), (high, low), strict=True)
    )
    torch.testing.assert_close(values.float(), fake_quantize(x, grid), rtol=1e-6, atol=1e-4)


def test_convolutions_round_along_their_channels() -> None:
    grid, x = GRIDS["some"], rows(20).T[None]  # (batch, channels, time)
    expected = fake_quantize_wide(x.mT, grid).mT
    assert torch.equal(fake_quantize_wide(x, grid, dim=1), expected)


def test_a_range_on_disk_is_the_one_that_was_written() -> None:
    for covered in (
        ActivationRange((-1.0, 2.5)),
        ActivationRange(ENDS, WIDE),
        ActivationRange((-4.0, 5.0), 8, ENDS, CHANNELS),
    ):
        assert ActivationRange.of(covered.as_dict()) == covered


@pytest.mark.parametrize("name", ["all channels", "some"])
def test_a_graph_multiplies_the_same(name: str, tmp_path: Path) -> None:
    """Within the range, at whose very end a graph's two halves are a step of the low one apart from the codes."""
    needs_vnni()
    grid, w, inside = GRIDS[name], weight(), rows(6)[1:-1]
    stored = Stored(tmp_path, PreTrainedConfig(), {}, {}, {}, {"dec.0.fc2:input": grid}, {}, None)
    graph = Graph("g")
    x = graph.input("x", np.float32, ("rows", K))
    y = wide_product(GraphLayers(graph, stored), x, "dec.0.fc2", WideWeight("w", w.codes.T.numpy(), w.scale.numpy()))
    graph.output("y", y, np.float32, ("rows", N))
    graph.save(tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": inside.numpy()})
    expected = exact(inside, grid, w) - w.bias.double().numpy()
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["all channels", "some"])
def test_a_graphs_float_layer_rounds_what_is_not_wide(name: str, tmp_path: Path) -> None:
    """As of weights in groups: emulation rounds the other channels to 8 bits, whatever the weight is."""
    grid, w, x = GRIDS[name], weight(), rows(6)[1:-1]
    stored = Stored(tmp_path, PreTrainedConfig(), {}, {}, {}, {"dec.0.fc2:input": grid}, {}, None)
    graph = Graph("g")
    layers, matrix = GraphLayers(graph, stored), graph.constant("w", w.codes.T.float().numpy())
    inputs = layers.activation(graph.input("x", np.float32, ("rows", K)), "dec.0.fc2", weight=matrix)
    graph.output("y", layers.product("dec.0.fc2", inputs, matrix), np.float32, ("rows", N))
    graph.save(tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    rounded = fake_quantize_wide(x, grid) if isinstance(grid, WideQParams) else fake_quantize(x, grid)
    expected = (rounded @ w.codes.T.float()).numpy()
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
