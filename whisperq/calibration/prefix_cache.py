"""What lies before a layer, computed once: the work of many evaluations that differ behind it alone.

A stage is a module on whose input all that follows depends: a convolution of the front end, a layer of the encoder,
and what reads the encoder. A batch's first run for a stage keeps that input; the next ones give it to the stage, and
modules before it make zeros of the right shape instead of computing. A later stage's first run starts from the input
that an earlier one kept. Decoders see all of the encoder, so that of theirs nothing is kept.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from whisperq.models.families import family_of
from whisperq.models.sites import model_sites

LIMIT = 2 * 2**30  # bytes of inputs that are kept; batches beyond are computed from the start each time


def stages(model: PreTrainedModel) -> list[str]:
    """Names of modules, in the order of computation; each takes one tensor first, and all that follows hangs on it."""
    return family_of(model.config).stages(model)


def stage_of_sites(model: PreTrainedModel) -> dict[str, int]:
    """Site address -> number of the last stage that begins no later than the site."""
    names, found, current = stages(model), {}, 0
    for address, site in model_sites(model).items():
        inside = [i for i, name in enumerate(names) if f"{site.module}.".startswith(f"{name}.")]
        current = max([current, *inside])
        found[address] = current
    return found


@dataclass
class Kept:
    """Cache entry of one batch: a stage, its input at every call, and the outputs of earlier stages without values."""

    stage: int
    state: Mapping[str, Any]  # what was changed before the stage
    inputs: list[Tensor] = field(default_factory=list)
    hollow: dict[int, list[Any]] = field(default_factory=dict)  # by stage, at every call

    @property
    def bytes(self) -> int:
        return sum(x.nbytes for x in self.inputs)


class Prefix:
    """Cache that keeps, for every batch, the input of the latest stage that it was run for."""

    def __init__(self, model: PreTrainedModel, limit: int = LIMIT) -> None:
        self.modules = [model.get_submodule(name) for name in stages(model)]
        self.stages, self.limit = stage_of_sites(model), limit
        self.kept: dict[int, Kept] = {}

    @contextmanager
    def running(self, number: int, site: str | None, state: Mapping[str, Any]) -> Iterator[None]:
        """One run of the batch of this number, with a model that `state` describes by site.

        site: the following runs will differ there or behind; None: from the beginning.
        """
        stage = 0 if site is None else self.stages[site]
        old = self.kept.get(number)
        if old is not None and (old.stage > stage or old.state != self._before(old.stage, state)):
            old = None
        with ExitStack() as stack:
            if old is not None:
                self._replay(old, stack)
            if stage == (0 if old is None else old.stage):
                yield
                return
            new = Kept(stage, self._before(stage, state), hollow=dict(old.hollow) if old else {})
            self._record(new, old.stage if old else 0, stack)
            yield
        self.kept.pop(number, None)
        if sum(kept.bytes for kept in self.kept.values()) + new.bytes <= self.limit:
            self.kept[number] = new

    def _before(self, stage: int, state: Mapping[str, Any]) -> dict[str, Any]:
        return {site: what for site, what in state.items() if self.stages[site] < stage}

    def _replay(self, kept: Kept, stack: ExitStack) -> None:
        calls = count()
        module = self.modules[kept.stage]
        # Before hooks that watch the stage's input: their grid applies to the kept input, not to zeros.
        hook = module.register_forward_pre_hook(lambda _, args: (kept.inputs[next(calls)], *args[1:]), prepend=True)
        stack.callback(hook.remove)
        for stage in range(kept.stage):
            module, outputs = self.modules[stage], iter(kept.hollow[stage])
            module.forward = _returning(outputs)
            stack.callback(module.__dict__.pop, "forward")

    def _record(self, new: Kept, first: int, stack: ExitStack) -> None:
        def see(_: nn.Module, args: tuple) -> None:
            new.inputs.append(args[0].detach())

        stack.callback(self.modules[new.stage].register_forward_pre_hook(see, prepend=True).remove)
        for stage in range(first, new.stage):
            outputs = new.hollow[stage] = []
            hook = self.modules[stage].register_forward_hook(_noting(outputs))
            stack.callback(hook.remove)


def _noting(outputs: list[Any]) -> Callable:
    def note(_module: nn.Module, _args: tuple, output: Any) -> None:
        outputs.append(_mapped(lambda x: x.new_zeros(()).expand(x.shape), output))

    return note


def _returning(outputs: Iterator[Any]) -> Callable:
    return lambda *_args, **_kwargs: _mapped(lambda x: x.new_zeros(x.shape), next(outputs))


def _mapped(function: Callable[[Tensor], Tensor], output: Any) -> Any:
    """A module's output, a tensor or a tuple of some, with each tensor changed."""
    if isinstance(output, tuple):
        return tuple(_mapped(function, part) for part in output)
    return function(output) if isinstance(output, Tensor) else output
