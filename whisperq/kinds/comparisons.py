"""What two systems were found to differ in: word errors, and what robustness looks at beside them.

Rates are fractions, differences of word errors percentage points, intervals hold 95 %.
"""

from typing import Annotated, NotRequired, TypedDict

from whisperq.kinds.scores import Measure, RangeEnds, Rule
from whisperq.schema import count


class Rates(TypedDict, total=False):
    """Error rates of A and B: WER or CER, as the measure of the rule says."""

    wer_a: float
    wer_b: float
    cer_a: float
    cer_b: float


class References(TypedDict, total=False):
    """Number of reference words or of reference characters; the measure of the rule decides which is present."""

    reference_words: int
    reference_characters: int


class Judgement(References):
    """B against A, in points of the measure; positive where B is worse."""

    difference: float
    interval_95: RangeEnds
    p: float | None
    verdict: str
    within_margin: bool
    enough_words: bool
    enough_blocks: bool
    words_needed: int | None


class Verdict(Rule, Rates, Judgement):
    blocks: NotRequired[int]  # of a set: what was resampled
    blocked_by: NotRequired[str]  # speaker, recording or utterance


def rates_by(measure: Measure, a: float, b: float) -> Rates:
    return {"wer_a": a, "wer_b": b} if measure == "wer" else {"cer_a": a, "cer_b": b}


def rates_of(one: Verdict) -> tuple[float, float]:
    """The error rates of A and of B, by the measure of the comparison: WER or CER."""
    return (one["wer_a"], one["wer_b"]) if one["measure"] == "wer" else (one["cer_a"], one["cer_b"])


def reference_units(one: Verdict) -> int:
    """Words or characters of the references."""
    return one["reference_words"] if one["measure"] == "wer" else one["reference_characters"]


class MatchedPairs(TypedDict):
    """The matched pairs sentence segment test."""

    segments: int | None
    mean: float | None
    z: float | None
    p: float | None
    enough_segments: NotRequired[bool]


class SetVerdict(Verdict):
    normalizer_version: NotRequired[int]
    utterances: int | None
    matched_pairs: MatchedPairs
    utterances_better: int | None
    utterances_worse: int | None
    equal_hypotheses: NotRequired[int]


class Comparison(TypedDict):
    """Results of `whisperq compare`."""

    a: str
    b: str
    margin: float
    resamples: int | None
    sets: dict[str, SetVerdict]
    means: list[Verdict]


class System(TypedDict):
    """A model and its runtime in the results of `whisperq robustness`."""

    model: str
    runtime: str
    device: str
    sampling_rate: int


class PairedRates(TypedDict):
    """Recordings to which something happened, with A and with B; rates are fractions, intervals hold 95 %."""

    total: Annotated[int, count(1)]
    count_a: int
    count_b: int
    interval_95_a: RangeEnds
    interval_95_b: RangeEnds
    pairs: dict[str, int]
    difference: float
    difference_interval_95: RangeEnds
    p: float | None


class MoreWords(TypedDict, total=False):
    """Words of all hypotheses of A and of B, and how many more B has in a recording."""

    words_a: int
    words_b: int
    words_change: float
    words_interval_95: RangeEnds


class Symptom(PairedRates, MoreWords):
    symptom: str
    recordings: str  # of which sort


class Robustness(TypedDict):
    """Results of `whisperq robustness`: A is the float model, B the quantized one."""

    a: System
    b: System
    normalizer: str
    symptoms: list[Symptom]
