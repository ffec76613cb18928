"""Outlier statistics against scipy and tensors built from their answer."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis

from whisperq.scoring.outliers import TensorStatistics, summarize


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _statistics(*tensors: torch.Tensor) -> dict:
    statistics = TensorStatistics()
    for tensor in tensors:
        statistics.update(tensor)
    return statistics.as_dict()


def _planted() -> torch.Tensor:
    """1000 values of +-1 in 20 dimensions, with three outliers in dimension 7 and one in dimension 2."""
    x = torch.ones(50, 20)
    x[::2] = -1.0
    x[[3, 10, 41], 7] = torch.tensor([40.0, -40.0, 40.0])
    x[8, 2] = -40.0
    return x


def test_kurtosis_agrees_with_scipy() -> None:
    tensors = [_normal(30, 16), _normal(50, 16, seed=1) ** 3, _normal(7, 16, seed=2).exp() + 100]
    expected = [kurtosis(t.double().numpy().ravel(), fisher=False) for t in tensors]
    result = _statistics(*tensors)
    assert result["kurtosis"] == pytest.approx(np.mean(expected), rel=1e-9)
    assert result["inf_norm"] == pytest.approx(np.mean([t.abs().max() for t in tensors]), rel=1e-6)
    assert result["peak"] == max(float(t.abs().max()) for t in tensors)
    assert (result["utterances"], result["values"]) == (3, 87 * 16)


def test_kurtosis_of_a_coin_is_one_and_of_a_gaussian_three() -> None:
    assert _statistics(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))["kurtosis"] == 1.0
    assert _statistics(_normal(2000, 100))["kurtosis"] == pytest.approx(3.0, abs=0.05)


def test_planted_outliers_are_counted_where_they_are() -> None:
    result = _statistics(_planted(), _normal(40, 20), _planted())
    expected = [0] * 20
    expected[7], expected[2] = 6, 2
    assert result["outliers_per_dimension"] == expected
    assert result["outliers"] == 8
    assert result["top_dimensions"] == [[7, 6, 0.75], [2, 2, 0.25]]
    assert result["peak"] == 40.0


def test_an_outlier_is_six_deviations_from_the_mean_not_from_zero() -> None:
    assert _statistics(_planted() + 1000.0)["outliers"] == 4
    # one value v among n - 1 zeros is sqrt(n - 1) deviations from the mean, whatever v is
    for rest, outliers in [(35, 0), (37, 1)]:
        x = torch.zeros(rest + 1, 1)
        x[0] = 1e-3
        assert _statistics(x)["outliers"] == outliers


def test_at_most_ten_dimensions_are_listed_and_the_most_first() -> None:
    x = torch.zeros(1000, 12)
    for dim in range(12):
        x[: 1 + dim // 2, dim] = 1.0
    result = _statistics(x)
    assert [row[:2] for row in result["top_dimensions"][:3]] == [[10, 6], [11, 6], [8, 5]]
    assert len(result["top_dimensions"]) == 10
    assert result["outliers"] == 42 and result["top_dimensions"][0][2] == pytest.approx(6 / 42)


def test_order_does_not_matter_and_leading_dimensions_are_flattened() -> None:
    tensors = [_normal(4, 6, 8), _normal(24, 8, seed=1) ** 5, _normal(2, 8, seed=2) * 50]
    forward, backward = _statistics(*tensors), _statistics(*reversed(tensors))
    for name in ("kurtosis", "inf_norm"):
        assert forward.pop(name) == pytest.approx(backward.pop(name), rel=1e-12)
    assert forward == backward
    assert _statistics(tensors[0]) == _statistics(tensors[0].reshape(24, 8))


def test_merged_shards_are_bit_by_bit_what_one_process_finds() -> None:
    tensors = [_normal(9, 8, seed=s) ** (1 + s % 4) * 10.0 ** (s % 7) for s in range(12)] + [torch.ones(3, 8)]
    together = _statistics(*tensors)
    kurtoses = [kurtosis(t.double().numpy().ravel(), fisher=False) for t in tensors[:-1]]
    assert together["kurtosis"] == pytest.approx(math.fsum(kurtoses) / 12, rel=1e-12)
    assert together["inf_norm"] == pytest.approx(math.fsum(float(t.abs().max()) for t in tensors) / 13, rel=1e-15)
    for world in (2, 3, 20):  # with twenty, some have seen nothing
        shards = [TensorStatistics() for _ in range(world)]
        for number, tensor in enumerate(tensors):
            shards[number % world].update(tensor)
        first = shards[-1]
        for other in shards[:-1]:
            first.merge(other)
        assert first.as_dict() == together
    with pytest.raises(ValueError, match="8 dimensions"):
        first.merge(_seen(_normal(3, 4)))


def _seen(tensor: torch.Tensor) -> TensorStatistics:
    statistics = TensorStatistics()
    statistics.update(tensor)
    return statistics


def test_half_precision_is_computed_in_float64() -> None:
    x = (_normal(64, 8) * 1000).to(torch.float16)
    assert _statistics(x) == _statistics(x.double())


def test_a_constant_tensor_has_no_kurtosis_and_no_outliers() -> None:
    constant = torch.full((300, 4), 0.1)
    result = _statistics(constant, _planted()[:, :4].contiguous())
    assert (result["utterances"], result["constant_utterances"]) == (2, 1)
    assert result["kurtosis"] == pytest.approx(kurtosis(_planted()[:, :4].numpy().ravel(), fisher=False))
    assert math.isnan(_statistics(constant)["kurtosis"])
    assert _statistics(constant)["outliers"] == 0 and _statistics(constant)["top_dimensions"] == []


def test_unusable_tensors_are_refused() -> None:
    statistics = TensorStatistics()
    with pytest.raises(ValueError, match="no tensor"):
        statistics.as_dict()
    statistics.update(_normal(3, 4))
    before = statistics.as_dict()
    with_nan = torch.tensor([[1.0, float("nan"), 0.0, 0.0]])
    for bad in (with_nan, torch.full((2, 4), float("inf")), _normal(3, 5)):
        with pytest.raises(ValueError):
            statistics.update(bad)
    assert statistics.as_dict() == before


def test_summary_averages_kurtosis_and_takes_the_greatest_norms() -> None:
    sites = {
        "enc.0": {"kurtosis": 4.0, "inf_norm": 8.0, "peak": 9.0, "outliers": 2, "values": 100},
        "dec.0": {"kurtosis": 10.0, "inf_norm": 3.0, "peak": 20.0, "outliers": 5, "values": 50},
        "dec.1": {"kurtosis": math.nan, "inf_norm": 1.0, "peak": 1.0, "outliers": 0, "values": 50},
    }
    assert summarize(sites) == {
        "kurtosis": 7.0,
        "max_inf_norm": 8.0,
        "peak": 20.0,
        "outliers": 7,
        "values": 200,
        "sites": ["enc.0", "dec.0", "dec.1"],
    }
    with pytest.raises(ValueError, match="no sites"):
        summarize({})
