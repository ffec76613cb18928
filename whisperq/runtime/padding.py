"""Padding that is not computed: the encoder works on the speech and a short tail, the rest of the window is kept.

    n = least multiple of STEP >= ceil(f / 2) + tail, at most N; N where f = 0      rows that are computed
    K = [K(x)_0 .. K(x)_(n-1), K(s)_n .. K(s)_(N-1)]       keys, values alike, of every encoder layer
    e = [e(x)_0 .. e(x)_(n-1), e(s)_n .. e(s)_(N-1)]       what cross-attention sees

f: frames before the padding, two for each row; N: rows of the window; x: the recording; s: the kept state's window,
half a second of noise and padding behind it. Over padding the encoder is nearly the same for every recording, and each
row keeps its own position. Behind sound it must lie: of nothing but silence the encoder makes something else, at which
a small model makes up words. The state is computed when a recording first needs it: that costs one window, and on disk
it would take a third of a quantized model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from whisperq.kinds.scores import LeftOutPadding
from whisperq.scoring.loops import find_loop

ROWS_PER_SECOND = 50  # of Whisper's encoder: a hop of 10 ms, and the second convolution's stride of two
TAIL_SECONDS = 0.5  # by measurement: examples/padding
STEP = 25  # rows: recordings of as many rows are one batch, so that what is computed does not hang on the batch
NOISE_SECONDS, NOISE = STEP / ROWS_PER_SECOND, 0.2  # in front of the padding that is kept: root mean square of samples
TOKENS, TOKENS_PER_SECOND, TOO_MANY = 4.0, 5.0, 1.5  # what is expected of speech, and how many times that is too much

Found = TypeVar("Found")


class Partial(Protocol):
    """A runtime whose encoder can leave padding out."""

    def keep(self, features: Tensor) -> Any:
        """The state over features (1, mel bins, frames): what rows of other recordings attend to, in every layer."""

    def encode_rows(self, features: Tensor, rows: Sequence[int], kept: Any) -> Any:
        """Encode features, computing only `rows[i]` rows of utterance i; its other rows come from `kept`."""


def speech_frames(features: Tensor) -> list[int]:
    """features (batch, mel bins, frames) -> of each utterance, how many frames come before its padding.

    Padding are the last frames in which every bin is at the utterance's floor: digital silence, or all that lies more
    than eight decades below its loudest cell. In the features these two look the same.
    """
    loud = (features > features.amin(dim=(1, 2), keepdim=True)).any(dim=1)
    places = torch.arange(1, loud.shape[1] + 1, device=loud.device)
    return (loud * places).amax(dim=1).tolist()


def rows_of(frames: int, tail: float, window: int) -> int:
    """How many rows are computed for so many frames before the padding; tail in seconds, window in rows.

    All rows where there is no sound, since the kept state is that of padding after sound.
    """
    needed = -(-frames // 2) + round(tail * ROWS_PER_SECOND)
    return min(window, -(-needed // STEP) * STEP) if frames else window


def noise(rate: int) -> np.ndarray:
    """Noise in front of the padding whose state is kept, (samples,): the same on every machine."""
    drawn = np.random.RandomState(0).standard_normal(round(NOISE_SECONDS * rate))
    return (NOISE * drawn).astype(np.float32)


def groups(rows: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Each number of rows with the utterances that have it, which are computed together."""
    for count in sorted(set(rows)):
        yield count, [i for i, own in enumerate(rows) if own == count]


@dataclass
class Short:
    """A runtime that leaves padding out; `again` counts windows that were decoded again in full."""

    runtime: Any  # a Runtime and Partial
    padding: Callable[[], Tensor]  # features (1, mel bins, frames) of the window whose state is kept
    tail: float = TAIL_SECONDS
    again: int = 0
    _full: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)

    @property
    def notices(self) -> tuple[str, ...]:
        return (*self.runtime.notices, f"padding is left out, but for a tail of {self.tail:g} s behind the speech")

    def encode(self, features: Tensor) -> Any:
        window = features.shape[2] // 2
        rows = [rows_of(frames, self.tail, window) for frames in speech_frames(features)]
        if self._full or min(rows) == window:
            return self.runtime.encode(features)
        return self.runtime.encode_rows(features, rows, self.kept)

    @cached_property
    def kept(self) -> Any:
        """The state over padding, computed when it is first needed."""
        return self.runtime.keep(self.padding())

    def doubtful(self, features: Tensor, texts: Sequence[Sequence[int]]) -> list[int]:
        """The utterances whose tokens, without times, are none, run in circles or are too many for their length.

        Those of which all rows were computed are as they are. Counts the others.
        """
        window = features.shape[2] // 2
        found = [
            i
            for i, (frames, ids) in enumerate(zip(speech_frames(features), texts, strict=True))
            if rows_of(frames, self.tail, window) < window and strange(ids, frames / 2 / ROWS_PER_SECOND)
        ]
        self.again += len(found)
        return found

    @contextmanager
    def in_full(self) -> Iterator[None]:
        """Context in which padding is computed."""
        self._full = True
        try:
            yield
        finally:
            self._full = False


def strange(ids: Sequence[int], seconds: float) -> bool:
    """Whether these tokens are implausible for so many seconds of speech: none, too many, or a loop."""
    expected = TOKENS + TOKENS_PER_SECOND * seconds
    return not ids or len(ids) > TOO_MANY * expected or find_loop([str(i) for i in ids], []) is not None


def guarded(
    runtime: Any,
    features: Tensor,
    read: Callable[[Tensor, Sequence[int]], list[Found]],
    text: Callable[[Found], list[int]],
) -> list[Found]:
    """Results of `read` on features (batch, mel bins, frames), with padding computed where their tokens are doubtful.

    read: takes features and which utterances of the batch they are; text: gives the tokens of a result.
    """
    found = read(features, range(len(features)))
    if (doubtful := getattr(runtime, "doubtful", None)) is None:
        return found
    if rows := doubtful(features, [text(one) for one in found]):
        with runtime.in_full():
            for i, one in zip(rows, read(features[rows], rows), strict=True):
                found[i] = one
    return found


def left_out_padding(runtime: Any) -> LeftOutPadding:
    """The results' entry on padding that was left out; empty where it was computed."""
    return {"tail_seconds": runtime.tail} if hasattr(runtime, "tail") else {}


def again_in_full(runtime: Any) -> int:
    """How many windows were decoded again in full; 0 with a runtime that computes padding."""
    return getattr(runtime, "again", 0)
