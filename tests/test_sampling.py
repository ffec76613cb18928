"""The order of the training data, and the thread that prepares it."""

import threading
from types import SimpleNamespace

import pytest
from tiny import utterances

from whisperq.data.prefetch import prefetch
from whisperq.data.sampling import Sampler, training_batches
from whisperq.errors import InputError


def stream(sampler: Sampler, epochs: int) -> list[list[str]]:
    return [[u.id for u in sampler.batch(e, sampler.epoch_size)] for e in range(epochs)]


def test_each_epoch_shows_every_utterance_once_in_another_order():
    epochs = stream(Sampler([utterances(20)], [1.0], seed=0), 3)
    assert all(sorted(e) == sorted(u.id for u in utterances(20)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_step_is_a_function_of_seed_and_number():
    sources = [utterances(7), utterances(5, "v")]
    one, two, other = (Sampler(sources, [1.0, 2.0], seed) for seed in (3, 3, 4))
    forwards = [one.batch(i, 4) for i in range(30)]
    assert [two.batch(i, 4) for i in reversed(range(30))][::-1] == forwards
    assert [other.batch(i, 4) for i in range(30)] != forwards
    assert sum(forwards, []) == [u for i in range(20) for u in one.batch(i, 6)]  # the batch size only cuts the stream


def test_weights_repeat_and_halve_sources():
    sources = [utterances(6, "a"), utterances(8, "b"), utterances(4, "c")]
    sampler = Sampler(sources, [2.0, 0.5, 1.5], seed=0)
    assert sampler.epoch_size == 12 + 4 + 6
    halves = set()
    for epoch in stream(sampler, 6):
        assert all(epoch.count(u.id) == 2 for u in sources[0])
        half = frozenset(i for i in epoch if i[0] == "b")
        assert len(half) == sum(i[0] == "b" for i in epoch) == 4  # none of the half twice
        halves.add(half)
        assert sorted(epoch.count(u.id) for u in sources[2]) == [1, 1, 2, 2]
    assert len(halves) > 1


def test_no_data_is_an_error():
    with pytest.raises(InputError, match="no training data"):
        Sampler([[]], [1.0], 0)


def test_training_batches_are_steps_of_micro_batches():
    sampler = Sampler([utterances(10)], [1.0], seed=0)
    labelled = lambda us, n: [list(us[i : i + n]) for i in range(0, len(us), n)]  # noqa: E731
    steps = list(training_batches(sampler, SimpleNamespace(labelled_batches=labelled), range(3, 6), 4, 2))
    assert [[len(m) for m in s] for s in steps] == [[2, 2]] * 3
    assert [sum(s, []) for s in steps] == [sampler.batch(i, 4) for i in (3, 4, 5)]
    empty = SimpleNamespace(labelled_batches=lambda us, n: [])
    with pytest.raises(InputError, match="step 4: none of its 4"):
        next(training_batches(sampler, empty, range(3, 6), 4, 2))


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
