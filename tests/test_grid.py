"""The grid against ONNX's operators, torch's fake quantizers and examples worked by hand."""

import numpy as np
import onnx.parser
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from whisperq.quant.grid import (
    QParams,
    dequantize,
    fake_quantize,
    quantize,
    range_qparams,
    storage_dtype,
    token_qparams,
    weight_qparams,
)

ALL_BITS = range(2, 9)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal down to the sign of zero."""
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def _away_from_ties(x: torch.Tensor, qparams: QParams) -> torch.Tensor:
    """torch multiplies by 1 / scale where ONNX and we divide, so that a tie can fall to the other side."""
    steps = x / qparams.scale
    return ((steps - steps.floor()) - 0.5).abs() > 1e-3


def _onnx(text: str, **inputs: torch.Tensor) -> list[np.ndarray]:
    """The outputs of an ONNX graph written as text, by ONNX's own reference implementation."""
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]> graph ' + text)
    return ReferenceEvaluator(model).run(None, {name: x.numpy() for name, x in inputs.items()})


def _onnx_round_trip(x: torch.Tensor, qparams: QParams, code_type: int) -> list[np.ndarray]:
    """Codes and reals of ONNX's QuantizeLinear and DequantizeLinear; channels, if any, are dimension 0."""
    text = f"""(float[] x, float[] scale, int32[] zero) => (int32[] codes, float[] real) {{
        z = Cast <to = {code_type}> (zero)
        q = QuantizeLinear <axis = 0> (x, scale, z)
        codes = Cast <to = {onnx.TensorProto.INT32}> (q)
        real = DequantizeLinear <axis = 0> (q, scale, z)
    }}"""
    return _onnx(text, x=x, scale=qparams.scale.squeeze(), zero=qparams.zero_point.squeeze())


def test_half_rounds_to_even() -> None:
    grid = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), -7, 7)
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 9.0, -9.0])
    assert quantize(x, grid).tolist() == [-2, -2, 0, 0, 2, 2, 4, 7, -7]


def test_asymmetric_worked_example() -> None:
    # s = (3 - -1) / 3 and z = round(1 / s) = round(0.75) = 1
    grid = range_qparams(-1.0, 3.0, bits=2)
    assert (grid.quant_min, grid.quant_max, int(grid.zero_point)) == (0, 3, 1)
    assert float(grid.scale) == pytest.approx(4 / 3)
    codes = quantize(torch.tensor([-1.0, 0.0, 1.0, 3.0, 99.0]), grid)
    assert codes.tolist() == [0, 1, 2, 3, 3]
    torch.testing.assert_close(dequantize(codes, grid), torch.tensor([-4.0, 0.0, 4.0, 8.0, 8.0]) / 3)


@pytest.mark.parametrize(("low", "high"), [(-4.2, 3.1), (0.5, 3.0), (-3.0, -0.5), (-1e-3, 80.0)])
def test_range_agrees_with_onnx_dynamic_quantize_linear(low: float, high: float) -> None:
    x = _normal(1000).clamp(-1, 1) * (high - low) / 2 + (high + low) / 2
    text = "(float[] x) => (uint8[] q, float s, uint8 z) { q, s, z = DynamicQuantizeLinear (x) }"
    codes, scale, zero = _onnx(text, x=x)
    grid = range_qparams(x.min(), x.max(), bits=8)
    assert float(grid.scale) == pytest.approx(float(scale), rel=1e-6)
    assert int(grid.zero_point) == int(zero)
    same = quantize(x, grid).numpy() == codes
    assert same[_away_from_ties(x, grid).numpy()].all()


@pytest.mark.parametrize(("bits", "code_type"), [(8, onnx.TensorProto.UINT8), (4, onnx.TensorProto.UINT4)])
def test_per_tensor_equals_onnx(bits: int, code_type: int) -> None:
    x = _normal(64, 32) * 3
    grid = range_qparams(-4.2, 5.9, bits)
    ties = (torch.arange(32) - 10 + 0.5) * grid.scale
    x = torch.cat([x, ties[None]])
    codes, real = _onnx_round_trip(x, grid, code_type)
    assert np.array_equal(quantize(x, grid).numpy(), codes)
    assert np.array_equal(fake_quantize(x, grid).numpy(), real)


def test_per_channel_symmetric_equals_onnx() -> None:
    weight = _normal(16, 8, 3)
    grid = weight_qparams(weight, 8, symmetric=True, channel_dims=1)
    assert grid.scale.shape == (16, 1, 1)
    codes, real = _onnx_round_trip(weight, grid, onnx.TensorProto.INT8)
    assert np.array_equal(quantize(weight, grid).numpy(), codes)
    assert np.array_equal(fake_quantize(weight, grid).numpy(), real)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_per_tensor_agrees_with_torch(bits: int) -> None:
    x = _normal(5000) * 4
    grid = range_qparams(-5.0, 6.5, bits)
    theirs = torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero_point, 0, 2**bits - 1)
    safe = _away_from_ties(x, grid)
    assert safe.float().mean() > 0.9
    torch.testing.assert_close(fake_quantize(x, grid)[safe], theirs[safe], rtol=0, atol=1e-6)


def test_ties_agree_with_torch_where_the_inverse_scale_is_exact() -> None:
    grid = range_qparams(-16.0, 47.75, bits=8)
    assert float(grid.scale) == 0.25 and int(grid.zero_point) == 64
    x = torch.arange(-80, 200) * 0.125
    theirs = torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero_point, 0, 255)
    assert torch.equal(fake_quantize(x, grid), theirs)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_per_channel_agrees_with_torch(bits: int, symmetric: bool) -> None:
    weight = _normal(12, 40) * torch.logspace(-3, 2, 12)[:, None]
    grid = weight_qparams(weight, bits, symmetric=symmetric, channel_dims=1)
    theirs = torch.fake_quantize_per_channel_affine(
        weight, grid.scale.flatten(), grid.zero_point.flatten(), 0, grid.quant_min, grid.quant_max
    )
    safe = _away_from_ties(weight, grid)
    assert safe.float().mean() > 0.9
    torch.testing.assert_close(fake_quantize(weight, grid)[safe], theirs[safe], rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_symmetric_maps_the_greatest_magnitude_to_the_last_code(bits: int) -> None:
    weight = torch.tensor([[0.3, -2.0, 0.1], [0.0, 0.5, -0.2]])
    last = 2 ** (bits - 1) - 1
    grid = weight_qparams(weight, bits, symmetric=True, channel_dims=1)
    codes = quantize(weight, grid)
    assert (grid.quant_min, grid.quant_max) == (-last, last)
    assert (int(codes[0, 1]), int(codes[1, 1])) == (-last, last)
    assert grid.zero_point.dtype == torch.int32 and not grid.zero_point.any()
    torch.testing.assert_close(grid.scale, torch.tensor([[2.0], [0.5]]) / last)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_inside_the_range_the_error_is_at_most_half_a_step(bits: int) -> None:
    grid = range_qparams(-1.7, 2.9, bits)
    # rounding z moves the ends of the grid by up to half a step
    x = torch.linspace(-1.7 + float(grid.scale) / 2, 2.9 - float(grid.scale) / 2, 1001)
    error = (fake_quantize(x, grid) - x).abs().max()
    assert 0 < float(error) <= float(grid.scale) * 0.5001
    assert len(fake_quantize(torch.linspace(-9, 9, 5001), grid).unique()) == 2**bits


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize(("low", "high"), [(-0.1, 7.3), (2.0, 5.0), (-5.0, -2.0), (-3.7, 0.0), (-1e-20, 1e20)])
def test_zero_is_a_grid_point(low: float, high: float, bits: int) -> None:
    grid = range_qparams(low, high, bits)
    assert float(fake_quantize(torch.zeros(1), grid)) == 0.0
    assert 0 <= int(grid.zero_point) <= grid.quant_max


@pytest.mark.parametrize("symmetric", [True, False])
def test_fake_quantize_is_the_round_trip_bit_for_bit(symmetric: bool) -> None:
    x = torch.cat([_normal(20, 500) * 3, torch.tensor([-0.0, 0.0, 1e-30, -1e-30, 1e30]).expand(20, 5)], dim=1)
    before = x.clone()
    grid = weight_qparams(_normal(20, 30, seed=1), 8, symmetric=symmetric, channel_dims=1)
    assert _same_bits(fake_quantize(x, grid), dequantize(quantize(x, grid), grid))
    assert _same_bits(x, before)
    stored = quantize(x, grid).to(storage_dtype(grid))
    assert _same_bits(fake_quantize(x, grid), dequantize(stored, grid))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_fake_quantize_keeps_the_dtype_and_computes_in_float32(dtype: torch.dtype) -> None:
    x = _normal(100).to(dtype)
    grid = range_qparams(-2.0, 2.1, bits=8)
    real = fake_quantize(x, grid)
    assert real.dtype == dtype
    assert torch.equal(real, dequantize(quantize(x.float(), grid), grid).to(dtype))


def test_channel_dims_give_each_leading_index_its_scale() -> None:
    weight = _normal(4, 3, 5)
    grid = weight_qparams(weight, 8, symmetric=False, channel_dims=2)
    assert grid.scale.shape == (4, 3, 1)
    alone = weight_qparams(weight[2, 1], 8, symmetric=False, channel_dims=0)
    assert alone.scale.shape == ()
    assert torch.equal(fake_quantize(weight, grid)[2, 1], fake_quantize(weight[2, 1], alone))


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_stay_zeros(symmetric: bool) -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, -1.0], [1e-44, 0.0]])
    grid = weight_qparams(weight, 8, symmetric=symmetric, channel_dims=1)
    assert grid.scale.flatten().tolist()[::2] == [1.0, 1.0]
    assert torch.equal(fake_quantize(weight, grid)[::2], torch.zeros(2, 2))
    assert float(range_qparams(0.0, 0.0, 8).scale) == 1.0


def test_storage_dtype_follows_the_grid() -> None:
    assert storage_dtype(range_qparams(0.0, 1.0, 8)) == torch.uint8
    assert storage_dtype(weight_qparams(torch.ones(2), 8, symmetric=True, channel_dims=0)) == torch.int8


@pytest.mark.parametrize("bits", [1, 9, 0, -8])
def test_bits_outside_two_to_eight_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        range_qparams(0.0, 1.0, bits)
    with pytest.raises(ValueError, match="bits"):
        weight_qparams(torch.ones(2), bits, symmetric=True, channel_dims=0)


@pytest.mark.parametrize(
    ("low", "high"),
    [(float("nan"), 1.0), (0.0, float("inf")), (-float("inf"), 0.0), (-1e39, 1.0), (-3e38, 3e38), (2.0, 1.0)],
)
def test_impossible_ranges_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="range"):
        range_qparams(low, high, 8)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_must_be_finite(bad: float, symmetric: bool) -> None:
    with pytest.raises(ValueError, match="finite"):
        weight_qparams(torch.tensor([[1.0, 2.0], [bad, 1.0]]), 8, symmetric=symmetric, channel_dims=1)


@pytest.mark.parametrize("channel_dims", [-1, 2, 3])
def test_channel_dims_must_leave_a_dimension(channel_dims: int) -> None:
    with pytest.raises(ValueError, match="channel_dims"):
        weight_qparams(torch.ones(2, 2), 8, symmetric=True, channel_dims=channel_dims)


@pytest.mark.parametrize("width, group", [(64, 16), (50, 16), (5, 8), (24, 24), (24, 10**15)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_are_channels_of_their_own(symmetric: bool, width: int, group: int) -> None:
    weight = _normal(6, width) * torch.logspace(-2, 1, width)
    grid = weight_qparams(weight, 4, symmetric=symmetric, channel_dims=1, group=group)
    parts = [
        fake_quantize(part, weight_qparams(part, 4, symmetric=symmetric, channel_dims=1))
        for part in weight.split(group, dim=1)
    ]
    assert grid.scale.shape == (6, len(parts))
    assert _same_bits(fake_quantize(weight, grid), torch.cat(parts, dim=1))
    assert _same_bits(dequantize(quantize(weight, grid), grid), fake_quantize(weight, grid))


def test_groups_equal_onnx_blocks() -> None:
    """QuantizeLinear's block_size, whose blocks must divide the row."""
    weight = _normal(8, 32)
    grid = weight_qparams(weight, 8, symmetric=True, channel_dims=1, group=8)
    text = f"""(float[] x, float[] scale, int32[] zero) => (int32[] codes, float[] real) {{
        z = Cast <to = {onnx.TensorProto.INT8}> (zero)
        q = QuantizeLinear <axis = 1, block_size = 8> (x, scale, z)
        codes = Cast <to = {onnx.TensorProto.INT32}> (q)
        real = DequantizeLinear <axis = 1, block_size = 8> (q, scale, z)
    }}"""
    codes, real = _onnx(text, x=weight, scale=grid.scale, zero=grid.zero_point)
    assert np.array_equal(quantize(weight, grid).numpy(), codes)
    assert np.array_equal(fake_quantize(weight, grid).numpy(), real)


def test_groups_of_a_kernel_run_over_its_flattened_rows() -> None:
    weight = _normal(4, 5, 3)
    kernel = weight_qparams(weight, 4, symmetric=True, channel_dims=1, group=8)
    flat = weight_qparams(weight.flatten(1), 4, symmetric=True, channel_dims=1, group=8)
    assert kernel.scale.shape == (4, 2)
    assert torch.equal(fake_quantize(weight, kernel).flatten(1), fake_quantize(weight.flatten(1), flat))
    by_head = weight_qparams(weight, 4, symmetric=True, channel_dims=2, group=2)
    assert by_head.scale.shape == (4, 5, 2)
    alone = weight_qparams(weight[1], 4, symmetric=True, channel_dims=1, group=2)
    assert torch.equal(fake_quantize(weight, by_head)[1], fake_quantize(weight[1], alone))


@pytest.mark.parametrize("bits", [4, 8])
def test_dynamic_ranges_equal_onnx_row_by_row(bits: int) -> None:
    x = _normal(3, 4, 20) * torch.logspace(-2, 2, 4)[:, None]
    real = fake_quantize(x, token_qparams(x, bits))
    for row, ours in zip(x.flatten(0, 1), real.flatten(0, 1), strict=True):
        assert torch.equal(ours, fake_quantize(row, range_qparams(row.min(), row.max(), bits)))
    if bits == 8:
        text = "(float[] x) => (uint8[] q, float s, uint8 z) { q, s, z = DynamicQuantizeLinear (x) }"
        _, scale, zero = _onnx(text, x=x[1, 2])
        assert float(token_qparams(x, 8).scale[1, 2]) == pytest.approx(float(scale), rel=1e-6)
        assert int(token_qparams(x, 8).zero_point[1, 2]) == int(zero)


def test_a_token_of_zeros_or_nan_harms_no_other() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, float("nan")], [1.0, -3.0]])
    real = fake_quantize(x, token_qparams(x, 8))
    assert real[0].tolist() == [0.0, 0.0] and real[1, 1].isnan()
    assert torch.equal(real[2], fake_quantize(x[2], range_qparams(-3.0, 1.0, 8)))
