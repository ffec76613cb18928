"""Which word became which: the alignment of least cost of a hypothesis with its reference.

    scorer   substitution  deletion  insertion
    jiwer               1         1          1    the fewest errors, the common WER; jiwer itself aligns
    sclite              4         3          3    NIST's: a hit between a deletion and an insertion is cheaper than
                                                  two substitutions, so that its WER can be slightly higher

Of alignments that cost the same, sclite's is the one that at each step back takes two words before a deletion's or
an insertion's one, and the insertion where both of those are equal.
"""

from collections.abc import Sequence

import jiwer
import numpy as np

SUBSTITUTION, GAP = 4, 3  # sclite's costs
BOTH, DELETED, INSERTED = 0, 1, 2  # how the path came to a cell

# A reference word and the hypothesis's word for it; None on the left is an insertion, on the right a deletion.
Pair = tuple[str | None, str | None]
Alignment = tuple[Pair, ...]


def align(references: Sequence[str], hypotheses: Sequence[str], scorer: str = "jiwer") -> list[Alignment]:
    """The alignment of each hypothesis with its reference; words are what single spaces separate."""
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses")
    if scorer == "sclite":
        return [_sclite(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True)]
    if not references:  # jiwer would make one empty utterance of none
        return []
    output = jiwer.process_words(list(references), list(hypotheses))
    triples = zip(output.references, output.hypotheses, output.alignments, strict=True)
    return [tuple(pair for chunk in chunks for pair in _pairs(chunk, r, h)) for r, h, chunks in triples]


def _pairs(chunk: jiwer.AlignmentChunk, reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    words = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    others = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
    if chunk.type == "delete":
        return [(word, None) for word in words]
    if chunk.type == "insert":
        return [(None, word) for word in others]
    return list(zip(words, others, strict=True))


def _sclite(reference: list[str], hypothesis: list[str]) -> Alignment:
    steps = _steps_back(reference, hypothesis)
    i, j = len(reference), len(hypothesis)
    pairs: list[Pair] = []
    while i or j:
        step = steps[i, j]
        word = reference[i - 1] if step != INSERTED else None
        other = hypothesis[j - 1] if step != DELETED else None
        i, j = i - (word is not None), j - (other is not None)
        pairs.append((word, other))
    return tuple(reversed(pairs))


def _steps_back(reference: list[str], hypothesis: list[str]) -> np.ndarray:
    """(reference words + 1, hypothesis words + 1), int8: the last step of the cheapest path to each cell.

    A whole row at once: an insertion's cost runs along the row, so that it is a running minimum.
    """
    numbers = {word: number for number, word in enumerate({*reference, *hypothesis})}
    coded = np.array([numbers[word] for word in hypothesis], dtype=np.int64)
    along = GAP * np.arange(len(coded) + 1)
    steps = np.full((len(reference) + 1, len(coded) + 1), INSERTED, dtype=np.int8)
    steps[1:, 0] = DELETED
    costs = along.copy()
    for i, word in enumerate(reference, 1):
        both = costs[:-1] + np.where(coded == numbers[word], 0, SUBSTITUTION)
        deleted = costs + GAP
        reached = np.concatenate((deleted[:1], np.minimum(both, deleted[1:])))
        costs = np.minimum.accumulate(reached - along) + along
        inserted = costs[:-1] + GAP
        row = steps[i, 1:]
        row[deleted[1:] < inserted] = DELETED
        row[(both <= deleted[1:]) & (both <= inserted)] = BOTH
    return steps
