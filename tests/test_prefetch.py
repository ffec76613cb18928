"""The thread that prepares what comes next."""

import subprocess
import sys
import threading

import pytest

from whisperq.jobs.prefetch import prefetch


@pytest.mark.parametrize("ahead", [1, 2, 50])
def test_prefetch_keeps_the_order(ahead):
    assert list(prefetch(iter(range(20)), ahead)) == list(range(20))
    assert list(prefetch([], ahead)) == []
    assert list(prefetch([None, 0, False], ahead)) == [None, 0, False]


def test_prefetch_raises_an_error_at_its_place():
    def items():
        yield from (1, 2)
        raise ArithmeticError("third")

    got = []
    with pytest.raises(ArithmeticError, match="third"):
        got.extend(prefetch(items()))  # extend keeps what came before
    assert got == [1, 2]


def test_prefetch_stops_early_with_its_thread():
    made, before = [], threading.active_count()
    stream = prefetch((made.append(i) or i for i in range(1000)), ahead=2)
    assert [next(stream), next(stream)] == [0, 1]
    stream.close()
    assert threading.active_count() == before
    assert len(made) <= 6


LEFT_OPEN = """
import torch
from whisperq.jobs.prefetch import prefetch

def sums():
    while True:
        for _ in range(3000):
            total = torch.ones(1000).sum()
        yield total

steps = prefetch(sums(), ahead=1)
next(steps)
raise SystemExit(7)
"""


@pytest.mark.slow
def test_a_process_that_ends_within_prefetch_keeps_its_exit_code():
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (7, b"")
