"""Several processes at one task, as torchrun or srun starts them: one writes, all agree.

RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT come from the environment (torchrun sets them;
of SLURM's own variables examples/slurm makes them). Without them a process is alone, and nothing here costs.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from whisperq.artifact import Artifact, load
from whisperq.errors import TrainingError, UsageError, WhisperqError
from whisperq.locking import locked
from whisperq.publishing import destination

PATIENCE = timedelta(hours=2)  # for the slowest shard of a validation; a process that died is noticed at once
ENDED = "another process of this task ended or cannot be reached any more"
T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The group of processes and this one's rank in it.

    All methods but `share` and `batches` must be called by every process, in the same order. Where another process has
    ended they raise an error, which `joined` turns into one message.
    """

    rank: int = 0
    world: int = 1
    control: Any = None  # a gloo group: objects and flags go over the CPU and never wait for a GPU

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every world-th item, from this process's own number on."""
        return items[self.rank :: self.world]

    def batches(self, items: Sequence[T], size: int) -> Iterator[tuple[int, list[T]]]:
        """Every world-th of the batches that one process would make alone, from this one's own on, with its number."""
        for number in range(self.rank, -(-len(items) // size), self.world):
            yield number, list(items[number * size : (number + 1) * size])

    def collect(self, found: Iterable[tuple[int, T]]) -> list[T]:
        """Results of all processes in the order of the batches; `found` has this process's, with batch numbers."""
        pairs = [pair for share in self.gather(list(found)) for pair in share]
        return [value for _, value in sorted(pairs, key=lambda pair: pair[0])]

    def gather(self, value: T) -> list[T]:
        """The value of every process, in order of rank, for each of them."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self.control)
        return found

    def total(self, number: int) -> int:
        """The sum of every process's number."""
        if self.world == 1:
            return number
        numbers = torch.tensor([number])
        dist.all_reduce(numbers, group=self.control)
        return int(numbers.item())

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return self.total(int(flag)) > 0

    def result(self, out: Path) -> Artifact:
        """The artifact that the first process has written, for all: another node's file system may not show it yet."""
        sealed = self.gather(load(out) if self.main else None)[0]
        assert sealed is not None, "the first process has written it"
        return sealed

    def wait(self) -> None:
        """Barrier: wait until all processes have called it."""
        if self.world > 1:
            dist.barrier(group=self.control)


ALONE = Processes()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that were started together. Raises UsageError for an environment that contradicts itself."""
    rank, world = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if world == 1:
        yield ALONE
        return
    if not 0 <= rank < world:
        raise UsageError(f"RANK is {rank}, but WORLD_SIZE {world}")
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UsageError(f"WORLD_SIZE is {world}, but {missing[0]} is not set; start the processes with torchrun")
    cuda = device == "cuda"
    if cuda:
        # Where the cluster shows each process a GPU of its own there is only one, whatever LOCAL_RANK says.
        here = torch.cuda.device_count()
        torch.cuda.set_device(0 if here == 1 else _number("LOCAL_RANK", rank % max(1, here)))
    lost = False
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", rank=rank, world_size=world)
        yield Processes(rank, world, dist.new_group(backend="gloo", timeout=PATIENCE))
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        # The process that failed says why; the others only notice a lost connection.
        lost = True
        raise TrainingError(ENDED) from error
    finally:
        if dist.is_initialized() and lost and cuda:
            dist.distributed_c10d._abort_process_group()  # NCCL's orderly end would wait for the dead
        elif dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def alone(out: Path, command: str, processes: Processes) -> Iterator[None]:
    """Nobody else is at work on `out` inside. Raises Interrupted, in all processes, where somebody is already."""
    problem: WhisperqError | None = None
    with ExitStack() as held:
        if processes.main:
            try:
                held.enter_context(locked(destination(out), command))
            except WhisperqError as error:
                problem = error
        if problem := processes.gather(problem)[0]:
            raise problem
        yield


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{name} is {text!r} in the environment, but must be a number") from None
