"""Range estimators against torch's observer, numpy and brute force."""

import numpy as np
import pytest
import torch
from torch.ao.quantization import MovingAverageMinMaxObserver

from whisperq.quant.grid import fake_quantize, range_qparams
from whisperq.quant.observers import Histogram, ema_range, minmax_range, mse_range, percentile_range
from whisperq.quant.ranges import Estimation


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _histogram(*batches: torch.Tensor, bins: int = 8192) -> Histogram:
    histogram = Histogram(bins)
    for batch in batches:
        histogram.update(batch)
    return histogram


def _same(a: Histogram, b: Histogram) -> bool:
    ends = (a.exponent, a.first, a.minimum, a.maximum) == (b.exponent, b.first, b.minimum, b.maximum)
    return ends and torch.equal(a.counts, b.counts)


def test_momentum_weighs_the_old_value() -> None:
    # -1, then 0.9 * -1 + 0.1 * -11 = -2, then 0.9 * -2 + 0.1 * 8 = -1; and 0, 1, 0.9 + 1 = 1.9
    assert ema_range([-1.0, -11.0, 8.0], [0.0, 10.0, 10.0], momentum=0.9) == pytest.approx((-1.0, 1.9))
    assert ema_range([-3.0], [4.0], momentum=0.9) == (-3.0, 4.0)


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning")
def test_ema_agrees_with_torch() -> None:
    batches = [_normal(50, seed=seed) * (1 + seed) for seed in range(16)]
    observer = MovingAverageMinMaxObserver(averaging_constant=0.1)  # the weight of the new value
    for batch in batches:
        observer(batch)
    low, high = ema_range([float(b.min()) for b in batches], [float(b.max()) for b in batches], momentum=0.9)
    assert low == pytest.approx(float(observer.min_val), rel=1e-5)
    assert high == pytest.approx(float(observer.max_val), rel=1e-5)


def test_minmax_is_the_range_of_everything() -> None:
    assert minmax_range([-1.0, -4.0, 2.0], [0.0, 3.0, 9.0]) == (-4.0, 9.0)


@pytest.mark.parametrize(
    ("minima", "maxima"),
    [([], []), ([0.0], [1.0, 2.0]), ([float("nan")], [1.0]), ([0.0], [float("inf")]), ([2.0], [1.0])],
)
def test_impossible_batches_are_refused(minima: list[float], maxima: list[float]) -> None:
    with pytest.raises(ValueError):
        minmax_range(minima, maxima)
    with pytest.raises(ValueError):
        ema_range(minima, maxima, 0.9)


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_impossible_momentum_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match="momentum"):
        ema_range([0.0], [1.0], momentum)


def test_growth_keeps_exact_counts() -> None:
    batches = [_normal(3000), _normal(3000, seed=1) * 900, _normal(500, seed=2) - 5e4, _normal(20) * 1e-6]
    histogram = Histogram(bins=256)
    for number, batch in enumerate(batches, start=1):
        histogram.update(batch)
        seen = torch.cat(batches[:number]).numpy()
        expected, _ = np.histogram(seen, bins=histogram.edges().numpy())
        assert np.array_equal(histogram.counts.numpy(), expected)
        assert (histogram.total, len(histogram.counts)) == (seen.size, 256)
        assert (histogram.minimum, histogram.maximum) == (float(seen.min()), float(seen.max()))


def test_the_bins_are_the_finest_that_fit() -> None:
    histogram = _histogram(torch.tensor([0.0, 1.0, 7.9]), bins=8)
    assert histogram.edges().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    histogram.update(torch.tensor([8.0]))
    assert histogram.edges().tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0]
    assert histogram.counts.tolist() == [2, 0, 0, 1, 1, 0, 0, 0]
    histogram.update(torch.tensor([-0.5]))
    assert histogram.counts.tolist() == [1, 2, 0, 0, 1, 1, 0, 0]


def test_order_batches_and_merging_do_not_matter() -> None:
    zeros, tiny = torch.zeros(10), _normal(100, seed=1) * 1e-9
    batches = [zeros, tiny, _normal(1000), _normal(100, seed=2) * 300 + 1000]
    forward = _histogram(*batches)
    assert _same(forward, _histogram(*reversed(batches)))
    assert _same(forward, _histogram(torch.cat(batches)))
    assert _same(_histogram(zeros, tiny), _histogram(tiny, zeros))
    merged = _histogram(*batches[:2])
    merged.merge(_histogram(*batches[2:]))
    assert _same(forward, merged)
    merged.merge(Histogram())
    assert _same(forward, merged)
    with pytest.raises(ValueError, match="bins"):
        merged.merge(Histogram(bins=16))


def test_counts_stay_exact_beyond_the_whole_numbers_of_float32() -> None:
    count = 2**24 + 3
    histogram = _histogram(torch.full((1,), 0.3).expand(count), torch.tensor([0.3]))
    assert (histogram.total, int(histogram.counts.max())) == (count + 1, count + 1)


def test_half_precision_and_empty_tensors_are_taken() -> None:
    x = _normal(200).to(torch.bfloat16)
    assert _same(_histogram(x, torch.empty(0)), _histogram(x.float()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_only_finite_values_are_counted(bad: float) -> None:
    histogram = _histogram(torch.ones(3))
    with pytest.raises(ValueError, match="finite"):
        histogram.update(torch.tensor([1.0, bad, 2.0]))
    assert histogram.total == 3


@pytest.mark.parametrize("kept", [50.0, 99.0, 99.9])
@pytest.mark.parametrize("skew", [False, True])
def test_percentile_agrees_with_numpy(kept: float, skew: bool) -> None:
    x = _normal(300_000) * 2 + 1
    x = x.square() if skew else x
    histogram = _histogram(*x.split(70_000))
    expected = np.percentile(x.double().numpy(), [(100 - kept) / 2, (100 + kept) / 2])
    # numpy interpolates between two values, the histogram inside a bin that may hold just one of them
    assert np.abs(np.array(percentile_range(histogram, kept)) - expected).max() < 2 * 2.0**histogram.exponent


def test_keeping_everything_is_the_full_range() -> None:
    x = _normal(1000)
    assert percentile_range(_histogram(x), 100.0) == (float(x.min()), float(x.max()))
    assert percentile_range(_histogram(torch.full((5,), 2.5)), 99.0) == (2.5, 2.5)


def test_a_percentile_cuts_half_of_the_rest_at_each_end() -> None:
    # 99.999 % of 500 000 values leaves 5, so that 2.5 are cut at each end: inside the third outlier's bin
    outliers = torch.tensor([-100.0, -90.0, -80.0, 60.0, 70.0, 80.0])
    low, high = percentile_range(_histogram(torch.cat([_normal(499_994).clamp(-3, 3), outliers])), 99.999)
    assert low == pytest.approx(-80.0, abs=0.1) and high == pytest.approx(60.0, abs=0.1)


@pytest.mark.parametrize("kept", [0.0, -1.0, 100.1])
def test_impossible_percentiles_are_refused(kept: float) -> None:
    with pytest.raises(ValueError, match="kept"):
        percentile_range(_histogram(torch.ones(2)), kept)


def _error(x: torch.Tensor, low: float, high: float, bits: int) -> float:
    return float((x - fake_quantize(x, range_qparams(low, high, bits))).double().square().mean())


_MSE_CASES = {
    "normal": _normal(20_000),
    "heavy tails": _normal(20_000) ** 3,
    "gelu": torch.nn.functional.gelu(_normal(20_000) * 2),
    "outliers on both sides": torch.cat([_normal(20_000), torch.tensor([60.0, -25.0])]),
}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("case", _MSE_CASES)
def test_mse_is_as_good_as_brute_force(case: str, bits: int) -> None:
    x = _MSE_CASES[case]
    fractions = torch.logspace(0, -2, 25).tolist()
    minimum, maximum = float(x.min()), float(x.max())
    best = min(_error(x, minimum * i, maximum * j, bits) for i in fractions for j in fractions)
    assert _error(x, *mse_range(_histogram(x), bits), bits) <= 1.02 * best
    if bits == 4:  # 8 bits have steps enough for the full range of so few values
        assert best < 0.9 * _error(x, minimum, maximum, bits)


def test_mse_clips_nothing_of_uniform_values() -> None:
    x = torch.linspace(-1.0, 3.0, 50_001)
    assert mse_range(_histogram(x), bits=8) == (-1.0, 3.0)


def test_mse_range_contains_zero() -> None:
    assert mse_range(_histogram(torch.zeros(4)), bits=8) == (0.0, 0.0)
    low, high = mse_range(_histogram(_normal(1000).sigmoid() + 5), bits=8)
    assert low == 0.0 and 5.5 < high <= 6.0


_PEER_CASES = _MSE_CASES | {"skewed": _normal(20_000, seed=3).square() - 0.3}


def _peer(method: str, x: torch.Tensor, percentile: float = 99.9) -> tuple[float, float]:
    """The range of ONNX Runtime's calibrator, from the same values in four batches."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    bins = 256 if method == "entropy" else 2048  # its search takes the square of them
    collector = calibrate.HistogramCollector(method, False, bins, 128, percentile, "same")
    for part in x.chunk(4):
        collector.collect({"x": part.numpy()})
    low, high, *_ = collector.compute_collection_result()["x"]
    return float(low), float(high)


@pytest.mark.parametrize("kept", [90.0, 99.0, 99.9])
@pytest.mark.parametrize("skew", [False, True])
def test_percentile_agrees_with_onnx_runtime(kept: float, skew: bool) -> None:
    x = _normal(400_000) * 2 + 1
    x = x.sigmoid() * 7 if skew else x
    # Its bins, 2,048 over twice the first batch's greatest magnitude, are whole: ends lie at their left edges.
    width = 2 * float(x.chunk(4)[0].abs().max()) / 2048
    found, expected = percentile_range(_histogram(*x.chunk(4)), kept), _peer("percentile", x, kept)
    assert np.abs(np.array(found) - expected).max() < 2 * width


@pytest.mark.parametrize("case", _PEER_CASES)
def test_mse_errs_no_more_than_onnx_runtimes_ranges(case: str) -> None:
    x = _PEER_CASES[case]
    ours = {bits: mse_range(_histogram(*x.chunk(4)), bits) for bits in (4, 8)}
    for method in ("entropy", "percentile"):
        theirs = _peer(method, x)
        for bits, ends in ours.items():
            assert _error(x, *ends, bits) <= 1.01 * _error(x, *theirs, bits), (method, bits)


def test_min_max_agrees_with_onnx_runtime(tmp_path) -> None:
    """Which observes a model: here a graph of one node."""
    onnx, calibrate = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime.quantization.calibrate")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [50]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    batches = [_normal(50, seed=seed) * (1 + seed) for seed in range(4)]

    class Reader(calibrate.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter([{"x": batch.numpy()} for batch in batches])

        def get_next(self):
            return next(self.rest, None)

    peer = calibrate.create_calibrator(tmp_path / "m.onnx", ["Relu"], tmp_path / "augmented.onnx")
    peer.collect_data(Reader())
    site = Estimation(("minmax",)).site()
    for batch in batches:
        site.observe([batch])
    expected = np.ravel(peer.compute_data()["x"].range_value)
    assert site.estimate("minmax", Estimation(), 8) == pytest.approx(expected, rel=1e-6)


def test_an_empty_histogram_has_no_range() -> None:
    with pytest.raises(ValueError, match="empty"):
        percentile_range(Histogram())
    with pytest.raises(ValueError, match="empty"):
        mse_range(Histogram(), bits=8)


@pytest.mark.parametrize("observer", ["ema", "minmax", "percentile", "mse", "stablequant"])
@pytest.mark.parametrize("world", [2, 3, 9])
def test_merged_shards_are_what_one_process_finds(observer: str, world: int) -> None:
    batches = [[_normal(40, seed=10 * n + i) * (1 + n % 3) for i in range(3)] for n in range(7)]
    how = Estimation((observer,), percentile=99.0)
    alone, shards = how.site(), [how.site() for _ in range(world)]
    for number, batch in enumerate(batches):
        alone.observe(batch)
        shards[number % world].observe(batch, number)
    first = shards[-1]  # of nine, one that has seen nothing
    for other in shards[:-1]:
        first.merge(other)
    assert first.as_dict(how) == alone.as_dict(how)
    assert first.minima == [min(float(x.min()) for x in batch) for batch in batches]
