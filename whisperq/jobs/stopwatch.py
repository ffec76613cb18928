"""Wall time of the stages of decoding: the device has finished a stage when its time is taken."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds of each stage so far."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, {"features": 0.0, "decoding": 0.0}

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.finish()
        self.seconds[stage] += time.perf_counter() - began

    def finish(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()
