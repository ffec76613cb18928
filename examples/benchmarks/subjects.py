"""Each family's contenders, what their input is, and what is measured of them."""

from collections.abc import Callable
from dataclasses import dataclass

from building import random_features
from building_ctc import SECONDS, random_waveforms
from contenders import CONTENDERS, Contender
from contenders_ctc import CTC_CONTENDERS


@dataclass(frozen=True)
class Metric:
    """A figure of one pass, of which `shown` makes what the table shows."""

    key: str  # of the pass; seconds
    title: str
    unit: str
    digits: int
    shown: Callable[[float], float]


@dataclass(frozen=True)
class Subject:
    contenders: dict[str, Contender]
    make_input: Callable  # batch -> tensor
    metrics: tuple[Metric, ...]


def milliseconds(seconds: float) -> float:
    return 1e3 * seconds


SUBJECTS = {
    "whisper": Subject(CONTENDERS, random_features, (
        Metric("encode", "encoder", "ms", 1, milliseconds),
        Metric("token", "decoder step", "ms", 2, milliseconds),
        Metric("total", "end to end", "s ({tokens} tokens)", 2, float),
    )),
    "ctc": Subject(CTC_CONTENDERS, random_waveforms, (
        Metric("total", f"{SECONDS} s of audio", "ms", 1, milliseconds),
        Metric("total", "speed", "RTFx", 1, lambda seconds: SECONDS / seconds),
    )),
}  # fmt: skip
