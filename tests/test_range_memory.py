"""Observers take as much memory after 20,000 long utterances as after 2,000.

What grows is a minimum and a maximum for each batch and its number: about 100 bytes, 0.25 MB here for each site.
"""

import re
from pathlib import Path

import pytest
import torch

from whisperq.quant.ranges import NEEDS_HISTOGRAM, Estimation, SiteRange

EVERY = ("ema", "minmax", "percentile", "mse", "stablequant")
BATCH, FRAMES, WIDTH = 8, 1500, 16  # 30 s of a narrow encoder


def resident_mib() -> float:
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def feed(site: SiteRange, utterances: int, batches: list[torch.Tensor]) -> None:
    for number in range(utterances // BATCH):
        site.observe(batches[number % len(batches)])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its own memory from /proc")
@pytest.mark.parametrize("observers", [("ema", "minmax"), EVERY], ids=["extrema", "histogram"])
def test_memory_plateaus(observers: tuple[str, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    # Of many sizes, so that the histogram's bins grow again and again before the plateau.
    batches = [torch.randn(BATCH, FRAMES, WIDTH, generator=generator) * 1.3**i for i in range(20)]
    how = Estimation(observers)
    site = how.site()
    assert (site.histogram is not None) == bool({*observers} & {*NEEDS_HISTOGRAM})
    feed(site, 2_000, batches)
    before = resident_mib()
    feed(site, 18_000, batches)
    assert resident_mib() - before < 4
    assert len(site.minima) == len(site.maxima) == 20_000 // BATCH
    if site.histogram is not None:
        assert site.histogram.total == 20_000 * FRAMES * WIDTH and len(site.histogram.counts) == 8192
    low, high = min(float(b.min()) for b in batches), max(float(b.max()) for b in batches)
    for observer in observers:
        ends = site.estimate(observer, how, 8)
        assert low <= ends[0] < 0 < ends[1] <= high, observer
