"""Word errors of hypotheses against references.

    WER = (S + D + I) / N

S, D, I: substituted, deleted and inserted words of the alignments, summed over utterances;
N: `reference_words`, the words of all scored references after normalising. A reference that
normalises to nothing is not scored: it has no words to get wrong. Words of its hypothesis
are counted apart. In an utterance whose reference is in a script without spaces, such as Chinese, each
character is a word, as there are no others to count.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from whisperq.kinds.scores import WordCounts
from whisperq.scoring.alignment import Alignment, align
from whisperq.scoring.measures import countable

# Beyond this change of the reference word count a normaliser has redefined the task, as on digits.
_CHANGED_WORDS = 0.05


class Counts(NamedTuple):
    """Counts of hits and errors in one alignment."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def words(self) -> int:
        """Number of reference words."""
        return self.hits + self.substitutions + self.deletions


@dataclass(frozen=True)
class WordErrors:
    """Counts over all scored utterances."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int
    reference_words: int
    raw_reference_words: int  # of the scored utterances before normalising, split at whitespace
    utterances: int
    empty_references: int  # left out of all other counts
    empty_reference_insertions: int  # words in their hypotheses, which no WER counts
    per_utterance: tuple[tuple[int, int], ...]  # (errors, reference words)

    @property
    def wer(self) -> float:
        """A fraction, not percent; NaN where there are no words."""
        if self.reference_words == 0:
            return math.nan
        return (self.substitutions + self.deletions + self.insertions) / self.reference_words

    @property
    def normalizer_changed_words(self) -> bool:
        """Whether normalising changed the number of reference words by more than 5 %."""
        change = abs(self.reference_words - self.raw_reference_words)
        return change > _CHANGED_WORDS * self.raw_reference_words

    def as_dict(self) -> WordCounts:
        """The counts and the WER, without the utterances."""
        return {
            "wer": self.wer,
            "hits": self.hits,
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "reference_words": self.reference_words,
            "raw_reference_words": self.raw_reference_words,
            "utterances": self.utterances,
            "empty_references": self.empty_references,
            "empty_reference_insertions": self.empty_reference_insertions,
        }


def count_errors(references: Sequence[str], hypotheses: Sequence[str], normalizer: Callable[[str], str]) -> WordErrors:
    """Align each hypothesis with its reference, both normalised, by jiwer's rule, and count."""
    normalized = [(normalizer(r), normalizer(h)) for r, h in zip(references, hypotheses, strict=True)]
    pairs = [countable(*pair) for pair in normalized]
    # A script without spaces has no words in the raw text that normalising could have changed the number of.
    raw = [r if pair == n else pair[0] for r, pair, n in zip(references, pairs, normalized, strict=True)]
    return tally(raw, align([r for r, _ in pairs], [h for _, h in pairs]))


def tally(raw_references: Sequence[str], alignments: Sequence[Alignment]) -> WordErrors:
    """The counts of alignments; the references as they were before normalising tell whether that changed much."""
    counted = [(raw, counts(alignment)) for raw, alignment in zip(raw_references, alignments, strict=True)]
    scored = [(raw, c) for raw, c in counted if c.words]
    hits, substitutions, deletions, insertions = (sum(c[i] for _, c in scored) for i in range(4))
    return WordErrors(
        hits=hits,
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        reference_words=hits + substitutions + deletions,
        raw_reference_words=sum(len(raw.split()) for raw, _ in scored),
        utterances=len(scored),
        empty_references=len(counted) - len(scored),
        empty_reference_insertions=sum(c.insertions for _, c in counted if not c.words),
        per_utterance=tuple((c.errors, c.words) for _, c in scored),
    )


def counts(alignment: Alignment) -> Counts:
    hits = substitutions = deletions = insertions = 0
    for word, hypothesis in alignment:
        if word == hypothesis:
            hits += 1
        elif hypothesis is None:
            deletions += 1
        elif word is None:
            insertions += 1
        else:
            substitutions += 1
    return Counts(hits, substitutions, deletions, insertions)
