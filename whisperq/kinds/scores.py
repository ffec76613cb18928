"""What test sets' scores hold: of an evaluation, a score, and a comparison or robustness of two systems.

Rates are fractions, differences percentage points, intervals hold 95 %.
"""

from typing import Annotated, Literal, NotRequired, TypedDict

from whisperq.kinds.pattern import Missing

Measure = Literal["wer", "cer"]
Ends = tuple[float, float]
MaybeEnds = tuple[float | None, float | None]
Tally = Annotated[int | None, Missing(None)]  # a count; None of earlier versions, which did not count it


class Rule(TypedDict):
    """How words were counted: figures under different rules are never put together."""

    normalizer: str
    scorer: Annotated[str, Missing("jiwer")]
    measure: Annotated[Measure, Missing("wer")]


class Loop(TypedDict):
    """A hypothesis that runs in circles."""

    id: str
    ngram: str
    times: int


class Confusions(TypedDict):
    """The most frequent ones, with how often."""

    substitutions: list[tuple[str, str, int]]
    deletions: list[tuple[str, int]]
    insertions: list[tuple[str, int]]


class CharacterErrors(TypedDict):
    """By the scorer's alignment of characters."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int


class WordCounts(TypedDict):
    """As `scoring.words.WordErrors` counts them."""

    wer: float | None  # None where there are no reference words
    hits: Tally
    substitutions: Tally
    deletions: Tally
    insertions: Tally
    reference_words: Tally
    raw_reference_words: Tally  # before normalising
    utterances: Tally  # scored ones
    empty_references: Tally  # utterances that no count above holds
    empty_reference_insertions: Tally  # words heard in them


class Characters(TypedDict):
    cer: float | None
    reference_characters: Tally
    cer_interval_95: NotRequired[MaybeEnds]  # of a set measured by CER, as the next
    character_errors: NotRequired[CharacterErrors]


class ScoredSetResults(Rule, WordCounts, Characters):
    """What scoring a set gives."""

    wer_interval_95: MaybeEnds
    normalizer_version: Annotated[int, Missing(1)]
    normalizer_changed_words: NotRequired[bool]
    loops: Tally
    looping: Annotated[list[Loop], Missing([])]  # some of them by name
    confusions: Confusions


class SetScores(ScoredSetResults):
    """A test set; of an evaluation with its times."""

    group: Annotated[str | None, Missing(None)]
    skipped: NotRequired[int]  # lines and recordings that could not be used
    decoded_again: NotRequired[int]  # utterances
    audio_seconds: NotRequired[float | None]
    wall_seconds: NotRequired[float | None]  # of features and decoding
    features_seconds: NotRequired[float | None]
    decoding_seconds: NotRequired[float | None]
    rtfx: NotRequired[float | None]  # audio over wall seconds


class Means(TypedDict):
    """Unweighted, over sets."""

    mean_wer: float | None
    mean_cer: float | None


class Average(Rule, Means):
    """Over all sets under one rule."""

    sets: list[str]
    groups: dict[str, Means]


class Averages(TypedDict):
    averages: list[Average]
    mean_wer: float | None  # None where the sets are under several rules


class Scores(Averages):
    """Of `whisperq score`."""

    sets: dict[str, SetScores]
    mean_cer: NotRequired[float | None]  # of earlier versions


class Products(TypedDict):
    """Matrix products of a model as it ran."""

    integer_products: int
    float_products: dict[str, str]  # address -> why


class Execution(Products):
    """What ran an evaluation, and at what cost."""

    runtime: str
    device: str
    warm_up_seconds: Annotated[float | None, Missing(None)]
    peak_memory_gib: Annotated[float | None, Missing(None)]
    tail_seconds: NotRequired[float | None]  # of padding kept, where the rest of it was left out


class Evaluation(Execution, Scores):
    """Of `whisperq eval`."""


def single_averages(results: Scores) -> None:
    """Before there were averages each set stood by itself."""
    if not results.get("averages"):
        sets = results.get("sets") or {}
        results["averages"] = [_alone(name, one) for name, one in sets.items()]


def _alone(name: str, one: SetScores) -> Average:
    return {
        "normalizer": one["normalizer"],
        "scorer": one["scorer"],
        "measure": one["measure"],
        "sets": [name],
        "groups": {},
        "mean_wer": one.get("wer"),
        "mean_cer": one.get("cer"),
    }


class Verdict(Rule):
    """B against A, in points of the measure; positive where B is worse."""

    wer_a: NotRequired[float]  # of a verdict by WER, as the next
    wer_b: NotRequired[float]
    cer_a: NotRequired[float]
    cer_b: NotRequired[float]
    reference_words: NotRequired[int]
    reference_characters: NotRequired[int]
    difference: float
    interval_95: Ends
    p: float | None
    verdict: str
    within_margin: bool
    enough_words: bool
    enough_blocks: bool
    words_needed: int | None
    blocks: NotRequired[int]  # of a set: what was resampled
    blocked_by: NotRequired[str]  # speaker, recording or utterance


def rates_of(one: Verdict) -> tuple[float, float]:
    """Of A and of B."""
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
    """Of `whisperq compare`."""

    a: str
    b: str
    margin: float
    resamples: int | None
    sets: dict[str, SetVerdict]
    means: list[Verdict]
