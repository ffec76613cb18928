"""The training step of distill.py, plain, beside transformers' Trainer, and compiled: one round of each.

The compiled one comes last and may take what time is left.
"""

import math
from typing import Any

from distill import arguments, begin, measure_steps, new_entry, one_gpu
from gpu_task import Failed, Task

FULL = ("--sizes", "large-v2", "--steps", "3", "--warmup", "2")  # 64 windows of 30 s, in forward passes of 16
SMALLEST = ("--sizes", "tiny", "--steps", "2", "--warmup", "1", "--matrix", "128", "--threads", "1")
KEPT_BACK = 5  # seconds of the part that no process may use


def training(task: Task) -> None:
    """Raises Failed where a contender could not be measured."""
    one_gpu()
    options = arguments([*(SMALLEST if task.smallest else FULL), "--rounds", "1", "--device", task.device])
    options.compile = task.compile
    results, rows = begin(options)
    rows.pop("trainer --compile", None)
    task.results |= results  # which holds the dictionaries that are filled below
    (size,) = options.sizes
    results["sizes"][size] = new_entry(size, rows, results, options)

    def save(_: dict[str, Any]) -> None:
        options.limit = max(1, math.floor(task.left() - KEPT_BACK))
        task.save()

    save(results)
    measure_steps(size, rows, results, options, save)
    if failed := results["failed"]:
        raise Failed("; ".join(f"{name}: {why}" for name, why in failed.items()))
