"""Word error rates of all systems on all test sets, resampled together so that any two can be compared.

Two evaluations share a test set where its name, normaliser, scorer, measure, and every reference are the same; only
then do their numbers stand in one table.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from whisperq.errors import InputError, WhisperqError
from whisperq.hashing import bytes_sha256
from whisperq.jobs.progress import say, track
from whisperq.kinds.scores import Evaluation
from whisperq.report.gathering import Entry, Gathered
from whisperq.report.system_labels import Model, Subjects, execution, plain_last
from whisperq.results.cells import percent
from whisperq.results.evaluations import open_evaluation, read_spelling
from whisperq.results.hypotheses import read_hypotheses
from whisperq.scoring.comparison import ENOUGH_BLOCKS, choose_blocks
from whisperq.scoring.measures import UNITS, rule_of
from whisperq.scoring.normalizers import Normalizer, get_normalizer
from whisperq.scoring.sets import score_set
from whisperq.scoring.two_way_bootstrap import interval_95, resample_blocks, resample_seeds

ENOUGH_SEEDS = 3
OF_INTEGERS = ("attention dtype", "reduce range")  # settings of integer runtimes alone


@dataclass(frozen=True)
class MeasuredSet:
    """What a number was measured on, and how it was counted."""

    name: str
    group: str | None
    normalizer: str
    scorer: str
    words: int  # of the references; characters where the measure is CER
    identity: str  # hash of ids and references
    spoken: str  # hash of references alone: of the same recordings with more noise, say, it is the same
    measure: str = "wer"

    @property
    def rule(self) -> tuple[str, str, str]:
        return self.normalizer, self.scorer, self.measure

    @property
    def unit(self) -> str:
        return UNITS[self.measure]

    @property
    def title(self) -> str:
        return f"{self.name} ({self.words:,} {self.unit}s)"


@dataclass(frozen=True)
class System:
    """A model, of any seed, and what ran it."""

    model: Model
    execution: str
    device: str

    @property
    def runtime(self) -> str:
        return self.execution.partition(", ")[0]

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings of the execution that are not defaults and that apply to every runtime."""
        return tuple(s for s in self.execution.split(", ")[1:] if not s.startswith(OF_INTEGERS))

    @property
    def numbers(self) -> str:
        return f"{self.model.numbers}, {self.execution}" if self.execution != "float" else self.model.numbers

    def where(self, others: Iterable["System"]) -> str:
        """The device, where others ran on another one; else ""."""
        return self.device if any(other.device != self.device for other in others) else ""

    def order(self) -> tuple:
        return *self.model.order(), self.execution, plain_last(self.model.gate), self.device


@dataclass(frozen=True)
class Trial:
    """One evaluation of one seed on one set."""

    system: System
    seed: int | None
    entry: Entry
    errors: np.ndarray  # (utterances,)


@dataclass(frozen=True)
class Rate:
    """A system's WER or CER in percent on a set, the mean of its seeds, with its resamples."""

    points: float
    resampled: np.ndarray  # (resamples,)
    sources: tuple[Entry, ...]
    seeds: tuple[int | None, ...]
    blocked_by: str
    blocks: int

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the rate; its lower end is never below zero. None of one block, which says nothing."""
        if self.blocks < 2:
            return None
        low, high = interval_95(self.resampled)
        return max(0.0, low), high

    def minus(self, other: "Rate") -> tuple[float, float, float]:
        """The difference in points and its paired interval."""
        return self.points - other.points, *interval_95(self.resampled - other.resampled)

    def surely_below(self, other: "Rate") -> bool:
        return self.comparable(other) and self.minus(other)[2] < 0

    def comparable(self, other: "Rate") -> bool:
        """Two seeds tell too little of how seeds spread: three, or one each, which then is no claim about seeds.

        A few blocks tell too little of utterances, as for `compare`.
        """
        counts = {len(self.seeds), len(other.seeds)}
        return min(self.blocks, other.blocks) >= ENOUGH_BLOCKS and (counts == {1} or min(counts) >= ENOUGH_SEEDS)


Rates = Mapping[System, Rate]


def mean_rate(rates: Sequence[Rate]) -> Rate:
    """The unweighted mean over sets."""
    resampled = np.mean([r.resampled for r in rates], axis=0)
    sources = tuple(dict.fromkeys(e for r in rates for e in r.sources))
    points, blocked_by = float(np.mean([r.points for r in rates])), " ".join(dict.fromkeys(r.blocked_by for r in rates))
    return Rate(points, resampled, sources, rates[0].seeds, blocked_by, min(r.blocks for r in rates))


def measure(gathered: Gathered, seed: int) -> dict[MeasuredSet, Rates]:
    """Every evaluation's hypotheses scored again, utterance by utterance."""
    subjects = Subjects(gathered)
    collected: dict[MeasuredSet, tuple[np.ndarray, tuple[str, list[int]], dict[tuple[System, int | None], Trial]]] = {}
    evaluations = gathered.of_kind("evaluation")
    for entry in track(evaluations, len(evaluations), "report", "evaluations"):
        subject = subjects.of_input(entry)
        if subject is None:
            say(f"notice: {entry.name} is left out: nothing of its model is left to tell its layers from")
            continue
        system = System(subject.model, execution(entry), entry.results["device"])
        try:
            for test_set, words, blocks, errors in list(read_errors(entry)):  # all of its sets or none
                trials = collected.setdefault(test_set, (words, blocks, {}))[2]
                if (other := trials.get((system, subject.seed))) is not None:
                    say(f"notice: {test_set.name} of {other.entry.name} is left out: {entry.name} is the same again")
                trials[system, subject.seed] = Trial(system, subject.seed, entry, errors)
        except WhisperqError as error:
            say(f"notice: {entry.name} is left out of the tables of word errors: {error}")
    ordered = sorted(collected.items(), key=_set_order)
    first: dict[str, int] = {}  # set of the same utterances
    draws = [Draws(seed + first.setdefault(s.spoken, n), seed) for n, (s, _) in enumerate(ordered)]
    return {s: _rates(*found, drawn) for drawn, (s, found) in zip(draws, ordered, strict=True)}


def _set_order(item: tuple[MeasuredSet, object]) -> tuple:
    found = item[0]
    return found.rule, found.group is None, found.group not in ("id", None), found.group or ""


def read_errors(
    entry: Entry[Evaluation],
) -> Iterable[tuple[MeasuredSet, np.ndarray, tuple[str, list[int]], np.ndarray]]:
    """Each test set with reference words, blocks and errors of its utterances that have reference words.

    Raises InputError for hypotheses files that cannot be used.
    """
    evaluation = open_evaluation(entry.path)
    spelling = read_spelling(evaluation.spelling) if evaluation.spelling else None
    for name, results in entry.results["sets"].items():
        normalizer = _normalizer(results["normalizer"], spelling)
        lines, (known, scorer, measure) = read_hypotheses(evaluation.files[name]), rule_of(results)
        columns = [x.id for x in lines], [x.text for x in lines], [x.pred_text for x in lines]
        scored = score_set(*columns, normalizer, scorer, measure)
        if results.get("wer") not in (None, scored.words.wer):
            say(
                f"notice: {entry.name}, {name}: its words are counted anew by today's normaliser {normalizer.id}: "
                f"WER {percent(scored.words.wer)}; it was {percent(results['wer'])}"
            )
        kept = [(x, u) for x, u in zip(lines, scored.utterances, strict=True) if u.reference]
        texts = "\n".join(f"{u.id}\t{u.reference}" for _, u in kept)
        said = "\n".join(u.reference for _, u in kept)
        words = np.array([u.counts.words for _, u in kept])
        identity, spoken = (bytes_sha256(text.encode(errors="backslashreplace")) for text in (texts, said))
        test_set = MeasuredSet(name, results["group"], known, scorer, int(words.sum()), identity, spoken, measure)
        blocks = choose_blocks([x.speaker for x, _ in kept], [x.source for x, _ in kept])
        yield test_set, words, blocks, np.array([u.counts.errors for _, u in kept])


def _normalizer(known: str, spelling: dict[str, str] | None) -> Normalizer:
    """Raises InputError where the map of `english` is gone: without it the numbers would be others."""
    if known == "english" and spelling is None:
        raise InputError("it was scored with a spelling map that is not there any more; run whisperq eval again")
    return get_normalizer(known, spelling)


@dataclass(frozen=True)
class Draws:
    """What the draws begin with: each set's blocks are drawn by themselves, but seeds alike for all sets.

    Sets of the same utterances, in other noise say, have the same draws of blocks: they err together.
    """

    blocks: int
    seeds: int


def _rates(
    words: np.ndarray,
    blocks: tuple[str, list[int]],
    trials: Mapping[tuple[System, int | None], Trial],
    draws: Draws,
) -> dict[System, Rate]:
    """All systems over the same draws of blocks."""
    kind, numbers = blocks
    size, order = max(numbers) + 1, list(trials.values())
    errors = np.stack([np.bincount(numbers, t.errors, size) for t in order])  # (trials, blocks)
    rates = resample_blocks(errors, np.bincount(numbers, words, size), draws.blocks)
    found: dict[System, Rate] = {}
    for system in sorted({t.system for t in order}, key=System.order):
        mine = sorted((t.seed or 0, i) for i, t in enumerate(order) if t.system == system)
        columns = [i for _, i in mine]
        points = float(100 * errors[columns].sum() / (len(columns) * words.sum()))
        resampled = resample_seeds(rates[:, columns], draws.seeds)
        sources, seeds = tuple(order[i].entry for i in columns), tuple(order[i].seed for i in columns)
        found[system] = Rate(points, resampled, sources, seeds, kind, size)
    return found
