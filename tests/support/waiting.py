"""A stand-in for a GPU's stream: on a CPU, it raises at what would make the host wait for a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whisperq.training.loop import Distiller

aten = torch.ops.aten
# torch's own word on each operator: its result, or its result's shape, hangs on values that must be read first.
READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
COPIES = {Tensor.cpu, Tensor.numpy, Tensor.tolist}  # on a CPU they call no operator
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class Waited(AssertionError):
    """The host would have waited for the device."""


class NoWaiting(TorchDispatchMode):
    """Raises Waited at an operator that reads a tensor of the device, or moves one between it and the host.

    All tensors are the device's but those of `host`, those that are made without a word of where, and what is made of
    these alone.
    """

    def __init__(self, host: Iterator[Tensor] | list[Tensor] = ()) -> None:
        super().__init__()
        self.host = {id(x): x for x in host}  # kept, so that no other tensor takes an id
        self.seen = 0

    def moved(self, value: Any) -> Any:
        """What `Learner._moved` gives: a tensor that is the device's from here on."""
        if not isinstance(value, Tensor) or not self._is_host(value):
            return value
        fresh = value.clone()
        del self.host[id(fresh)]
        return fresh

    def _is_host(self, x: Tensor) -> bool:
        return id(x) in self.host

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.seen += 1
        if all(map(self._is_host, given)) and (given or kwargs.get("device") is None):
            out = func(*args, **kwargs)
            self.host |= {id(x): x for x in tree_leaves(out) if isinstance(x, Tensor)}
            return out
        if any(x.dim() and self._is_host(x) for x in given):
            raise Waited(f"{func}: tensors of the host and of the device")
        if self._waits(func, args, kwargs):
            raise Waited(str(func))
        return func(*args, **kwargs)

    @staticmethod
    def _waits(func: Any, args: Any, kwargs: Any) -> bool:
        if func in INDEXING:  # a mask of booleans is counted first
            return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None:
            return False
        # A number that becomes a tensor of the device is copied there, and the copy waited for.
        return bool(READS & set(func.tags)) or func in (aten.lift_fresh.default, aten.lift_fresh_copy.default)


class NoCopies(TorchFunctionMode):
    """Raises Waited where a tensor of the device is copied to the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in COPIES:
            raise Waited(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting(distiller: Distiller, *host: Tensor) -> Iterator[NoWaiting]:
    """Inside, the distiller's steps raise Waited; `host` are the CPU's own tensors."""
    mode, usual = NoWaiting(list(host)), distiller._moved
    move: Callable[[Any], Any] = mode.moved
    distiller._moved = move
    try:
        with NoCopies(), mode:
            yield mode
    finally:
        distiller._moved = usual
