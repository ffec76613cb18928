"""What a step of several micro-batches computes once."""

from collections import Counter
from typing import Any

import pytest
import torch
from support.training_batch import batch, gradients, make_distiller
from torch.utils._python_dispatch import TorchDispatchMode

from whisperq.training.loop import Distiller

pytestmark = pytest.mark.slow

MICRO_BATCHES = 4
VOCABULARY = "model.decoder.embed_tokens.weight"  # the loss rounds it by itself, beside its gradient


class Casts(TorchDispatchMode):
    """Counts how often each parameter of the student is rounded to another number format."""

    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in distiller.student.named_parameters()}
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and id(args[0]) in self.names:
            self.found[self.names[id(args[0])]] += 1
        return func(*args, **(kwargs or {}))


def run(distiller: Distiller, number: int = 0) -> dict[str, int]:
    with Casts(distiller) as casts:
        distiller.step(number, [batch(i, i + 1) for i in range(MICRO_BATCHES)]).read()
    return casts.found


def forgetful(distiller: Distiller) -> Distiller:
    """Rounds all weights anew for each micro-batch."""
    usual = distiller.pair.inputs

    def inputs(data: Any) -> Any:
        torch.clear_autocast_cache()
        return usual(data)

    distiller.pair.inputs = inputs
    return distiller


SETTINGS = [{}, {"recompute": True}, {"range_weight": 0.1}, {"dropout": 0.1}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_weights_are_rounded_once_a_step_and_bits_stay(settings):
    once, anew = (make_distiller(autocast=torch.bfloat16, **settings) for _ in range(2))
    forgetful(anew)
    for number in range(2):  # the second with weights that the first has changed
        expected, found = run(anew, number), run(once, number)
        assert min(expected.values()) == MICRO_BATCHES and expected.keys() == found.keys()
        assert {n for n, count in found.items() if count > 1} == {VOCABULARY} and len(found) > 50
        theirs, ours = gradients(anew), gradients(once)
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[n], ours[n]) for n in ours)
        state, other = once.student.state_dict(), anew.student.state_dict()
        assert all(torch.equal(state[name], other[name]) for name in state)


def test_nothing_rounded_outlives_the_step():
    """Its weights would not be those of the next."""
    distiller = make_distiller(autocast=torch.bfloat16, learning_rate=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        weight = distiller.student.model.decoder.layers[0].fc1.weight
        x = torch.eye(weight.shape[1])
        before = torch.nn.functional.linear(x, weight)
    run(distiller)
    with torch.autocast("cpu", torch.bfloat16):
        after = torch.nn.functional.linear(x, weight)
    assert not torch.equal(before, after) and torch.equal(after, weight.T.bfloat16())
