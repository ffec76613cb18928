"""A recording of any length, read forwards with bounded memory.

It is decoded twice: first to check that all of it is there and intact, and how its channels mix; then to be used.
"""

import numpy as np

from whisperq.data.decoder import Resampler, Sound
from whisperq.data.mixing import survey
from whisperq.data.utterance import Utterance


class Recording:
    """What `load_audio` gives, a window at a time: (samples,), float32 mono at `rate` Hz, `seconds` of them.

    A context manager. Raises InputError and ReadError as `load_audio` does, for the whole file when it is opened.
    """

    def __init__(self, utterance: Utterance, rate: int) -> None:
        self.rate = rate
        self._sound = Sound(utterance)
        try:
            self._mix = survey(self._sound, self._sound.where)
        except BaseException:
            self._sound.close()
            raise
        self.seconds = self._sound.count / self._sound.rate  # as the header has it
        self._resampled = Resampler(self._sound.rate, rate)
        self._blocks = iter(self._sound)
        self._start, self._held = 0, np.zeros(0, np.float32)  # of what is held, its place in the recording
        self._ended = False

    def window(self, start: int, count: int) -> np.ndarray:
        """Samples from `start` on, `count` or as many as there are; what lies before is gone for good.

        Raises ValueError for a `start` before an earlier one.
        """
        if start < self._start:
            raise ValueError(f"the samples before {self._start} are gone, {start} cannot be had")
        self._drop(start)
        parts, length = [self._held], len(self._held)
        while self._start + length < start + count and not self._ended:
            parts.append(self._next())
            length += len(parts[-1])
            if self._start + length <= start:  # passed over, never held
                self._start, parts, length = self._start + length, [], 0
        self._held = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        self._drop(start)
        return self._held[:count]

    def _drop(self, start: int) -> None:
        gone = min(start - self._start, len(self._held))
        self._start, self._held = self._start + gone, self._held[gone:]

    def _next(self) -> np.ndarray:
        """The next samples, maybe none."""
        block = next(self._blocks, None)
        if block is None:
            self._ended = True
            return self._resampled.rest()
        return self._resampled(self._mix(block))

    def close(self) -> None:
        self._sound.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
