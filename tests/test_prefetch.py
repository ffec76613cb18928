"""The thread that prepares what comes next."""

import threading

import pytest

from whisperq.data.prefetch import prefetch


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
