"""What a step of several micro-batches, or a network of many layers, computes or compiles once."""

import functools
from collections import Counter
from collections.abc import Iterator
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


@pytest.fixture
def graphs(monkeypatch) -> Iterator[list[torch.fx.GraphModule]]:
    """What torch.compile finds; it runs as it is found, which takes a moment instead of minutes."""
    found: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch.compiler.reset()
    yield found
    torch.compiler.reset()


def attentions(graph: torch.fx.GraphModule) -> int:
    nodes = [n for m in graph.modules() if isinstance(m, torch.fx.GraphModule) for n in m.graph.nodes]
    return sum(node.target is torch.nn.functional.scaled_dot_product_attention for node in nodes)


@pytest.mark.parametrize("settings", [{}, {"recompute": True}, {"freeze_encoder": True}], ids=str)
def test_layers_of_a_kind_are_compiled_once_and_compute_the_same(graphs, settings):
    """Four kinds: encoder and decoder layers of the student, which have gates, and of the teacher, which has more."""
    plain = make_distiller(teacher_layers=3, **settings)
    compiled = make_distiller(teacher_layers=3, compile=True, **settings)
    for number in range(2):
        expected, found = (d.step(number, [batch()]).read() for d in (plain, compiled))
        assert found == expected
        assert len(graphs) == 4 and sorted(map(attentions, graphs)) == [1, 1, 2, 2]
    assert all(torch.equal(g, gradients(plain)[n]) for n, g in gradients(compiled).items())
    assert compiled.student.state_dict().keys() == plain.student.state_dict().keys()


def test_outside_a_step_nothing_is_compiled(graphs):
    """Decoding, whose cache grows with every token, would compile without end."""
    distiller = make_distiller(compile=True)
    data = batch()
    distiller.student.eval()(input_features=data.features, decoder_input_ids=data.tokens.inputs)
    assert not graphs
    distiller.step(0, [data])
    known = len(graphs)
    distiller.student.eval().generate(data.features, max_new_tokens=8)
    assert known == 4 == len(graphs)


def test_batches_of_any_size_are_compiled_without_end_in_sight(graphs, caplog):
    """With --skip-bad a micro-batch may have fewer windows: torch would give up after eight forms of all layers."""
    distiller = make_distiller(compile=True)
    sizes = [(0, 4), (1, 4), (0, 1), (2, 3), (0, 2), (3, 4), (1, 3)]
    for number, (start, stop) in enumerate(sizes):
        distiller.step(number, [batch(start, stop)])
    assert "recompile_limit" not in caplog.text and 8 < len(graphs)
    known = len(graphs)
    for start, stop in sizes:
        distiller.step(0, [batch(start, stop)])
    assert len(graphs) == known
