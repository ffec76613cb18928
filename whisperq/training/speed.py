"""How fast a training goes, and what it waits for."""

import contextlib
import time
from collections.abc import Iterator

from whisperq.jobs.distributed import Processes
from whisperq.jobs.memory import memory_gib
from whisperq.training.feed import TrainingStep


class Speed:
    """Rates of the steps; validations and checkpoints are not counted."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.away, self.marked = 0.0, 0.0
        self.began = time.perf_counter()
        self._clear()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning, pauses left out."""
        return time.perf_counter() - self.began - self.away

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        at = time.perf_counter()
        yield
        self.away += time.perf_counter() - at

    def add(self, data: TrainingStep) -> None:
        self.windows += data.windows
        self.audio += data.audio_seconds
        self.space += data.window_seconds
        self.waited += data.waited

    def rates(self) -> dict[str, float]:
        """Rates over all processes since the last call; every process must call it.

        Samples and hours of audio per second, fraction of padding, fraction of time waiting for data, memory in GiB.
        """
        now = self.seconds
        seconds, self.marked = now - self.marked, now
        shares = self.processes.gather((self.audio, self.space, self.waited, memory_gib()))
        audio, space = (sum(share[i] for share in shares) for i in (0, 1))
        found = {
            "samples_per_second": self.windows / seconds,
            "audio_hours_per_second": audio / 3600 / seconds,
            "padding": 1 - audio / space,
            "data_wait": max(share[2] for share in shares) / seconds,
            "memory_gib": max(share[3] for share in shares),
        }
        self._clear()
        return found

    def _clear(self) -> None:
        self.windows, self.audio, self.space, self.waited = 0, 0.0, 0.0, 0.0
