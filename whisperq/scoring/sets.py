"""A test set scored: counts, rates and their interval, confusions, loops, and every utterance's alignment.

    CER = (S + D + I) / C     over the characters of the normalised texts, spaces between words included, as jiwer's

WER and CER are sums of errors over sums of words and characters (micro-averaged) within a set, and unweighted means
over sets. A set has one measure: WER, or CER where its language writes no spaces (scoring/measures.py); then all
alignments are of characters. Figures under different normalisers, scorers or measures are never put together: each
such triple has a table of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import cast

import jiwer

from whisperq.kinds.scores import (
    Average,
    Averages,
    Characters,
    Confusions,
    Looping,
    Means,
    Measure,
    ScoredSetResults,
    SetScores,
)
from whisperq.scoring.alignment import Alignment, align
from whisperq.scoring.intervals import bootstrap_interval
from whisperq.scoring.loops import Loop, find_loop
from whisperq.scoring.measures import characters, rule_of, writes_no_spaces
from whisperq.scoring.normalizers import VERSION, Normalizer
from whisperq.scoring.words import Counts, WordErrors, counts, tally

TOP = 20  # confusions in the results
NAMED_LOOPS = 20  # looping hypotheses that the results name


@dataclass(frozen=True)
class ScoredUtterance:
    """One hypothesis against its reference, both normalised; of a set measured by CER each character is a word."""

    id: str
    reference: str
    hypothesis: str
    alignment: Alignment

    @cached_property
    def counts(self) -> Counts:
        return counts(self.alignment)

    @cached_property
    def loop(self) -> Loop | None:
        return find_loop(self.hypothesis.split(), self.reference.split())


@dataclass(frozen=True)
class ScoredSet:
    """All utterances in order, those without reference words too, which no rate counts."""

    utterances: tuple[ScoredUtterance, ...]
    errors: WordErrors  # of what the measure counts, words or characters
    words: WordErrors
    normalizer: str  # its id
    scorer: str
    measure: Measure

    def results(self, seed: int) -> ScoredSetResults:
        loops = [(u.id, loop) for u in self.utterances if (loop := u.loop)]
        named: list[Looping] = [{"id": i, "ngram": loop.ngram, "times": loop.times} for i, loop in loops[:NAMED_LOOPS]]
        return {
            "measure": self.measure,
            **self.words.as_dict(),
            **self._characters(seed),
            "wer_interval_95": bootstrap_interval(self.words.per_utterance, seed=seed),
            "normalizer": self.normalizer,
            "normalizer_version": VERSION,
            "normalizer_changed_words": self.words.normalizer_changed_words,
            "scorer": self.scorer,
            "loops": len(loops),
            "looping": named,
            "confusions": confusions(self.utterances, TOP),
        }

    def _characters(self, seed: int) -> Characters:
        """Character error rate, by the scorer's alignment where characters are the measure, else by jiwer's."""
        if self.measure == "cer":
            e, interval = self.errors, bootstrap_interval(self.errors.per_utterance, seed=seed)
            return {
                "cer": e.wer,
                "reference_characters": e.reference_words,
                "cer_interval_95": interval,
                "character_errors": {
                    "hits": e.hits,
                    "substitutions": e.substitutions,
                    "deletions": e.deletions,
                    "insertions": e.insertions,
                },
            }
        scored = [u for u in self.utterances if u.reference]
        if not scored:
            return {"cer": None, "reference_characters": 0}
        output = jiwer.process_characters([u.reference for u in scored], [u.hypothesis for u in scored])
        return {"cer": output.cer, "reference_characters": sum(len(u.reference) for u in scored)}


def score_set(
    ids: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str],
    normalizer: Normalizer,
    scorer: str,
    measure: str | None = None,
) -> ScoredSet:
    """Align raw texts after normalising them. measure: wer or cer; None: what the references' script asks for."""
    pairs = [(normalizer(r), normalizer(h)) for r, h in zip(references, hypotheses, strict=True)]
    spaceless = writes_no_spaces(r for r, _ in pairs)
    of_characters = spaceless if measure is None else measure == "cer"
    alignments = align([r for r, _ in pairs], [h for _, h in pairs], scorer)
    words = errors = tally(references, alignments)
    if of_characters:
        pairs = [(characters(r, spaceless), characters(h, spaceless)) for r, h in pairs]
        alignments = align([r for r, _ in pairs], [h for _, h in pairs], scorer)
        errors = tally(references, alignments)
    found = tuple(ScoredUtterance(i, *p, a) for i, p, a in zip(ids, pairs, alignments, strict=True))
    return ScoredSet(found, errors, words, normalizer.id, scorer, "cer" if of_characters else "wer")


def confusions(utterances: Sequence[ScoredUtterance], most: int | None = None) -> Confusions:
    """Most frequent first, then by name; of each sort at most so many."""
    pairs = Counter(p for u in utterances if u.reference for p in u.alignment if p[0] != p[1])
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))
    return {
        "substitutions": [(w, h, n) for (w, h), n in ordered if w is not None and h is not None][:most],
        "deletions": [(w, n) for (w, h), n in ordered if w is not None and h is None][:most],
        "insertions": [(h, n) for (w, h), n in ordered if w is None and h is not None][:most],
    }


def averages(sets: Mapping[str, SetScores]) -> list[Average]:
    """Unweighted means over sets and over each group, apart for each rule, in the sets' order."""
    found: list[Average] = []
    for rule in dict.fromkeys(map(rule_of, sets.values())):
        names = [n for n, r in sets.items() if rule_of(r) == rule]
        groups = dict.fromkeys(g for n in names if (g := sets[n].get("group")))
        means = {group: _mean(sets, [n for n in names if sets[n].get("group") == group]) for group in groups}
        normalizer, scorer, measure = rule
        found.append({
            "normalizer": normalizer, "scorer": scorer, "measure": measure,
            **_mean(sets, names), "groups": means,
        })  # fmt: skip
    return found


def _mean(sets: Mapping[str, SetScores], names: Sequence[str]) -> Means:
    def mean(rates: list[float | None]) -> float:
        return fmean(cast(list[float], rates))  # a set without reference words is refused before

    wers, cers = [sets[name]["wer"] for name in names], [sets[name]["cer"] for name in names]
    return {"sets": list(names), "mean_wer": mean(wers), "mean_cer": mean(cers)}


def over_sets(sets: Mapping[str, SetScores]) -> Averages:
    """All averages, and the mean WER where the sets can be put together: under one rule."""
    found = averages(sets)
    return {"averages": found, "mean_wer": found[0]["mean_wer"] if len(found) == 1 else None}
