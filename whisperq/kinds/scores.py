"""What test sets' scores hold, of an evaluation or a score. Rates are fractions, intervals hold 95 %."""

from typing import Annotated, Literal, NotRequired, TypedDict

from whisperq.kinds.pattern import Missing

Measure = Literal["wer", "cer"]
RangeEnds = tuple[float, float]
MaybeEnds = tuple[float | None, float | None]
Tally = Annotated[int | None, Missing(None)]  # a count; None of earlier versions, which did not count it


class Rule(TypedDict):
    """How words were counted: figures under different rules are never put together."""

    normalizer: str
    scorer: Annotated[str, Missing("jiwer")]
    measure: Annotated[Measure, Missing("wer")]


class Looping(TypedDict):
    """A hypothesis that runs in circles."""

    id: str
    ngram: str
    times: int


class Confusions(TypedDict):
    """The most frequent confusions of words, with how often each happened."""

    substitutions: list[tuple[str, str, int]]
    deletions: list[tuple[str, int]]
    insertions: list[tuple[str, int]]


def ranked(found: Confusions) -> dict[str, list[tuple[list[str], int]]]:
    """Substitutions, deletions and insertions, each as lists of the words and how often that happened."""
    return {
        "substitutions": [([word, hypothesis], times) for word, hypothesis, times in found["substitutions"]],
        "deletions": [([word], times) for word, times in found["deletions"]],
        "insertions": [([word], times) for word, times in found["insertions"]],
    }


class CharacterErrors(TypedDict):
    """Character errors, counted by the scorer's alignment of characters."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int


class WordCounts(TypedDict):
    """Word error rate and counts, from `scoring.words.WordErrors`."""

    wer: float | None  # None where there are no reference words
    hits: Tally
    substitutions: Tally
    deletions: Tally
    insertions: Tally
    reference_words: Tally
    raw_reference_words: Tally  # before normalising
    utterances: Tally  # scored ones
    empty_references: Tally  # utterances that no count above holds
    empty_reference_insertions: Tally  # words in their hypotheses


class Characters(TypedDict):
    cer: float | None
    reference_characters: Tally
    cer_interval_95: NotRequired[MaybeEnds]  # of a set measured by CER, as the next
    character_errors: NotRequired[CharacterErrors]


class ScoredSetResults(Rule, WordCounts, Characters):
    """Results of scoring one set."""

    wer_interval_95: MaybeEnds
    normalizer_version: Annotated[int, Missing(1)]
    normalizer_changed_words: NotRequired[bool]
    loops: Tally
    looping: Annotated[list[Looping], Missing([])]  # some of them by name
    confusions: Confusions


class Times(TypedDict, total=False):
    """Times of an evaluation, over all utterances of a set."""

    audio_seconds: float
    wall_seconds: float  # of features, decoding and what lies between
    features_seconds: float | None
    decoding_seconds: float | None
    rtfx: float | None  # audio over wall seconds


class CutShort(TypedDict, total=False):
    """Hypotheses that came to the bound of their length, of a set that was decoded with one."""

    cut_short: int
    cut: list[str]  # ids of some of them


class SetScores(ScoredSetResults, Times, CutShort):
    """Results of an evaluation on one test set."""

    group: Annotated[str | None, Missing(None)]
    skipped: NotRequired[int]  # lines and recordings that could not be used
    decoded_again: NotRequired[int]  # utterances


class Means(TypedDict):
    """Unweighted means over some sets."""

    sets: list[str]
    mean_wer: float | None
    mean_cer: float | None


class Average(Rule, Means):
    """Means over all sets that are measured under one rule, and over each group of them."""

    groups: dict[str, Means]


class Averages(TypedDict):
    averages: list[Average]
    mean_wer: float | None  # None where the sets are under several rules


class Scores(Averages):
    """Results of `whisperq score`."""

    sets: dict[str, SetScores]
    mean_cer: NotRequired[float | None]  # of earlier versions


class Products(TypedDict):
    """Matrix products of a model as it ran."""

    integer_products: int
    float_products: dict[str, str]  # address -> why


class LeftOutPadding(TypedDict, total=False):
    tail_seconds: float | None  # of padding that was kept, where the rest was left out


class Execution(Products, LeftOutPadding):
    """What ran an evaluation, and at what cost."""

    runtime: str
    device: str
    warm_up_seconds: Annotated[float | None, Missing(None)]
    peak_memory_gib: Annotated[float | None, Missing(None)]


class Evaluation(Execution, Scores):
    """Results of `whisperq eval`."""


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
