"""Word errors of hypotheses against references.

    WER = (S + D + I) / N

S, D, I: substituted, deleted and inserted words of the minimal alignments, summed over utterances;
N: `reference_words`, the words of all scored references after normalising. A reference that
normalises to nothing is not scored: it has no words to get wrong. jiwer does the alignment.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import jiwer

# Beyond this change of the reference word count a normaliser has redefined the task, as on digits.
_CHANGED_WORDS = 0.05


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

    def as_dict(self) -> dict[str, int | float]:
        """The counts and the WER, without the utterances."""
        counts = asdict(self)
        del counts["per_utterance"]
        return {"wer": self.wer, **counts}


def count_errors(references: Sequence[str], hypotheses: Sequence[str], normalizer: Callable[[str], str]) -> WordErrors:
    """Align each hypothesis with its reference, both normalised, and count."""
    triples = [
        (raw, normalizer(raw), normalizer(hypothesis)) for raw, hypothesis in zip(references, hypotheses, strict=True)
    ]
    scored = [triple for triple in triples if triple[1]]
    if not scored:  # jiwer would make one empty utterance of none
        return WordErrors(0, 0, 0, 0, 0, 0, 0, len(triples), ())
    output = jiwer.process_words([triple[1] for triple in scored], [triple[2] for triple in scored])
    words = [len(reference) for reference in output.references]
    errors = [_errors(alignment) for alignment in output.alignments]
    return WordErrors(
        hits=output.hits,
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
        reference_words=sum(words),
        raw_reference_words=sum(len(triple[0].split()) for triple in scored),
        utterances=len(scored),
        empty_references=len(triples) - len(scored),
        per_utterance=tuple(zip(errors, words, strict=True)),
    )


def _errors(alignment: Sequence[jiwer.AlignmentChunk]) -> int:
    """Errors of one utterance: a chunk that is not equal is as many errors as its longer side has words."""
    return sum(
        max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for chunk in alignment
        if chunk.type != "equal"
    )
