"""Outlier statistics and calibration leave their numbers where the tensors are until a batch is over.

No wait for a GPU in the forward pass (support/waiting.py), and the numbers are those of numpy, tensor by tensor.
"""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis
from support.tiny import gated_model, processor
from support.training_batch import CODEC, batch
from support.waiting import NoCopies, NoWaiting, Waited

from whisperq.data.batches import Loader
from whisperq.errors import InputError
from whisperq.models.sites import block_sites, model_sites, watch
from whisperq.ptq import statistics as kept
from whisperq.ptq.statistics import product_inputs, row_sample
from whisperq.quant import reading
from whisperq.quant import row_sample as row_samples
from whisperq.quant.ranges import Estimation
from whisperq.quant.reading import Later
from whisperq.quant.smoothing import ChannelExtrema
from whisperq.runtime import site_statistics
from whisperq.scoring.by_role import SiteStatistics

INNER = ("scores", "probs", "gate")
BATCHES = [replace(batch(0, 3), samples=(16000, 9000, 12345)), replace(batch(2, 4), samples=(2000, 16000))]
LOADER = Loader(processor.feature_extractor, CODEC, "cpu")


@pytest.fixture(scope="module")
def model():
    return gated_model()


def seen_by(model, watchers, data) -> None:
    with watch(model, model_sites(model), watchers), torch.inference_mode():
        model(**data.inputs(torch.float32, "cpu"))


def unwatched(model, watchers, data, monkeypatch) -> None:
    """The forward pass where whoever reads a tensor raises; `drawn` rows are moved to the device as they are on one."""
    inputs, mode = data.inputs(torch.float32, "cpu"), NoWaiting()
    row_samples.drawn.cache_clear()
    monkeypatch.setattr(row_samples, "moved", lambda values, device: mode.moved(values))
    with watch(model, model_sites(model), watchers), torch.inference_mode(), NoCopies(), mode:
        model(**inputs)
    row_samples.drawn.cache_clear()
    assert mode.seen > 500


def tensors_at(model, addresses) -> list[dict[str, torch.Tensor]]:
    """Of each batch, the tensor of each of these sites; who watches others may compute attention another way."""
    found = []
    for data in BATCHES:
        found.append({})
        seen_by(model, {a: lambda x, a=a: found[-1].update({a: x.clone()}) for a in addresses}, data)
    return found


def rows_of(model, address, x, data) -> list[np.ndarray]:
    """(rows, D) of each utterance."""
    site = model_sites(model)[address]
    return [one.movedim(site.time, 0).numpy() for one in site.utterances(x, data.lengths)]


def test_outliers_wait_for_nothing_and_are_numpys(model, monkeypatch):
    sites = model_sites(model)
    chosen = [a for a in block_sites(sites) if sites[a].component not in INNER] + ["enc.conv1"]
    statistics = {a: SiteStatistics(massive=True) for a in chosen}
    for data in BATCHES:
        later = Later()
        watchers = {a: site_statistics.watcher(s, sites[a], data, LOADER, later) for a, s in statistics.items()}
        unwatched(model, watchers, data, monkeypatch)
        later.read()
    tensors = tensors_at(model, chosen)
    for address, s in statistics.items():
        rows = [r for x, data in zip(tensors, BATCHES, strict=True) for r in rows_of(model, address, x[address], data)]
        found, wide = s.as_dict(), [r.astype(np.float64) for r in rows]
        assert found["peak"] == max(float(np.abs(r).max()) for r in rows)
        assert found["inf_norm"] == float(sum(Fraction(float(np.abs(r).max())) for r in rows) / len(rows))
        expected = sum((np.abs(r - r.mean()) > 6 * r.std()).sum(axis=0) for r in wide)
        assert found["outliers_per_dimension"] == expected.tolist()
        kurtoses = [kurtosis(r.ravel(), fisher=False) for r in wide]
        assert found["kurtosis"] == pytest.approx(np.mean(kurtoses), rel=1e-10)
        assert found["kurtosis"] == float(sum(map(exact_kurtosis, rows)) / len(rows))
        largest = max((float(np.abs(r).max()), -n) for n, r in enumerate(rows))
        peak = found["massive"]["peaks"][0]
        r = rows[-largest[1]]
        assert abs(peak["value"]) == largest[0] and r[peak["position"], peak["channel"]] == peak["value"]
        assert peak["deviation"] == pytest.approx(r.std(dtype=np.float64))
        assert peak["median"] == np.sort(np.abs(r).ravel())[(r.size - 1) // 2]


def exact_kurtosis(rows: np.ndarray) -> Fraction:
    """Of one utterance by itself, read at once."""
    x = torch.from_numpy(rows).double()
    squares = (x - x.mean()).square()
    return Fraction(float(squares.square().mean() / squares.mean().square()))


def test_calibration_waits_for_nothing_and_is_numpys(model, monkeypatch):
    sites = model_sites(model)
    ranges = {a: Estimation().site() for a in sites if sites[a].component != "probs"}
    channels = {a: ChannelExtrema() for a in ranges if sites[a].component not in INNER}
    rows = {a: row_sample(model, a, 5) for a in product_inputs(model)}
    for number, data in enumerate(BATCHES):
        later = Later()
        seeing = {a: [o[a] for o in (ranges, channels, rows) if a in o] for a in ranges}
        watchers = {a: kept.watcher(o, sites[a], data.lengths, "u", number, later) for a, o in seeing.items()}
        unwatched(model, watchers, data, monkeypatch)
        assert len(ranges["enc.0.fc2"].minima) == number, "nothing is read before the batch is over"
        later.read()
    for number, (found, data) in enumerate(zip(tensors_at(model, ranges), BATCHES, strict=True)):
        for address, site in ranges.items():
            flat = np.concatenate([u.numpy().ravel() for u in sites[address].utterances(found[address], data.lengths)])
            assert (site.minima[number], site.maxima[number]) == (float(flat.min()), float(flat.max())), address
        for address, extrema in channels.items():
            together = np.concatenate(rows_of(model, address, found[address], data))
            assert extrema.minima[number].tolist() == together.min(axis=0).tolist(), address
            assert extrema.maxima[number].tolist() == together.max(axis=0).tolist(), address
        for address, sample in rows.items():
            whole = rows_of(model, address, found[address], data)
            width = sample.window.width if sample.window else 1
            windows = [window_rows(r, sample.window) if sample.window else r for r in whole]
            generator = torch.Generator().manual_seed(number)
            picked = [w[torch.randperm(len(w), generator=generator).numpy()[:5]] for w in windows]
            assert np.array_equal(sample.batches[number].numpy(), np.concatenate(picked).astype(np.float16)), address
            assert sample.batches[number].shape[1] == width * whole[0].shape[1]


def window_rows(x: np.ndarray, window) -> np.ndarray:
    """x (time, channels) -> what each output frame of a convolution reads, (frames, width * channels)."""
    padded = np.pad(x, ((window.padding, window.padding), (0, 0)))
    starts = range(0, len(padded) - window.width + 1, window.stride)
    return np.stack([padded[start : start + window.width].ravel() for start in starts])


def test_what_reads_at_once_is_seen(model, monkeypatch):
    """Otherwise nothing above would show anything."""
    site = model_sites(model)["enc.0.out_proj"]
    for observer in (Estimation(("percentile",)).site(), Estimation().site(), ChannelExtrema()):
        see = {site.address: lambda x, observer=observer: observer.observe([x], 0)}
        with pytest.raises(Waited):
            unwatched(model, see, BATCHES[0], monkeypatch)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_error_names_site_and_utterance_after_the_batch(model, bad):
    sites, data, address = model_sites(model), BATCHES[0], "dec.1.out_proj"

    def planting(see):
        def planted(x):
            x = x.clone()
            x[1, 2, 3] = bad
            see(x)

        return planted

    later, several = Later(), {address: SiteStatistics(massive=True), "dec.1.fc2": SiteStatistics(massive=True)}
    watchers = {a: site_statistics.watcher(s, sites[a], data, LOADER, later) for a, s in several.items()}
    seen_by(model, watchers | {address: planting(watchers[address])}, data)
    with pytest.raises(InputError, match=f"{address}, utterance {data.utterances[1].id}: .*NaN or infinity"):
        later.read()
    later, observers = Later(), [Estimation().site(), ChannelExtrema(), row_sample(model, address, 4)]
    watcher = kept.watcher(observers, sites[address], data.lengths, "u0, u1, u2", 0, later)
    seen_by(model, {address: planting(watcher)}, data)
    with pytest.raises(InputError, match=f"{address} holds NaN or infinity in the batch of u0, u1, u2"):
        later.read()


def test_numbers_of_any_kind_are_given_in_their_order_and_shape():
    later, given, taken = Later(), [], []
    for kind in (torch.float32, torch.float16, torch.int64, torch.float32, torch.float64):
        for shape in ((2, 3), (4,), (1, 2, 2), ()):
            given.append(torch.full(shape, len(given) + 1, dtype=kind))
            later(given[-1], taken.append)
    assert not taken
    later.read()
    later.read()  # of nothing
    assert len(taken) == len(given)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(taken, given, strict=True))


def test_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(reading, "MOST", 100)
    later, taken = Later(), []
    for _ in range(10):
        later(torch.zeros(10), taken.append)
    assert len(taken) == 9
