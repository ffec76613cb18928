"""Weight grids of least squared error, against trying all of them one value at a time."""

import numpy as np
import pytest
import torch

from whisperq.quant.clipping import mse_weight_qparams
from whisperq.quant.grid import fake_quantize, weight_qparams


def heavy_tailed(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) ** 3


def least_error(row: np.ndarray, bits: int, symmetric: bool) -> float:
    """The least squared error of one channel over all eighty fractions, in float64."""
    errors = []
    for fraction in np.arange(1, 81) / 80:
        if symmetric:
            last = 2 ** (bits - 1) - 1
            scale, zero, ends = fraction * np.abs(row).max() / last, 0, (-last, last)
        else:
            low, high = fraction * min(row.min(), 0), fraction * max(row.max(), 0)
            scale, ends = (high - low) / (2**bits - 1), (0, 2**bits - 1)
            zero = np.clip(np.round(-low / scale), *ends)
        codes = np.clip(np.round(row / scale) + zero, *ends)
        errors.append(((row - (codes - zero) * scale) ** 2).sum())
    return min(errors)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_fraction_is_better(bits, symmetric):
    weight = heavy_tailed(6, 50)
    grid = mse_weight_qparams(weight, bits, symmetric=symmetric, channel_dims=1)
    found = (weight - fake_quantize(weight, grid)).double().square().sum(dim=1)
    expected = [least_error(row, bits, symmetric) for row in weight.double().numpy()]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_a_group_is_searched_alone():
    weight = heavy_tailed(4, 40)
    grid = mse_weight_qparams(weight, 3, symmetric=True, channel_dims=1, group=16)
    assert grid.scale.shape == (4, 3) and grid.group == 16
    for start in (0, 16, 32):
        part = weight[:, start : start + 16]
        alone = mse_weight_qparams(part, 3, symmetric=True, channel_dims=1)
        assert torch.equal(fake_quantize(weight, grid)[:, start : start + 16], fake_quantize(part, alone))


@pytest.mark.parametrize("channel_dims, group", [(0, None), (1, None), (2, None), (1, 8), (2, 2)])
def test_it_never_errs_more_than_rounding_to_nearest(channel_dims, group):
    weight = heavy_tailed(3, 4, 10)
    shape = {"symmetric": True, "channel_dims": channel_dims, "group": group}
    plain, clipped = (f(weight, 3, **shape) for f in (weight_qparams, mse_weight_qparams))
    assert plain.scale.shape == clipped.scale.shape and (clipped.scale <= plain.scale).all()
    errors = [(weight - fake_quantize(weight, grid)).square().sum() for grid in (plain, clipped)]
    assert errors[1] < errors[0]


def test_a_weight_that_lies_on_its_grid_is_not_clipped():
    weight = torch.tensor([[-3.0, -1.0, 0.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    grid = mse_weight_qparams(weight, 3, symmetric=True, channel_dims=1)
    assert grid.scale.flatten().tolist() == [1.0, 1.0]
    assert torch.equal(fake_quantize(weight, grid), weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_must_be_finite(bad):
    with pytest.raises(ValueError, match="finite"):
        mse_weight_qparams(torch.tensor([[1.0, bad]]), 4, symmetric=True, channel_dims=1)
