"""How much memory a process has held."""

import resource

import torch


def memory_gib() -> float:
    """The most that this process has held: of the GPU's memory where it uses one, else of the machine's."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
