"""The matched-pairs sentence-segment word error test (Gillick and Cox 1989), as NIST's sc_stats segments.

    z_k = errors of B - errors of A in segment k,    W = mean(z) / (s(z) / sqrt(K)),    p = 2 (1 - Phi(|W|))

A segment is a stretch of one utterance with an error of either system, bounded by two words in a row, or by an end
of the utterance, that both recognised: errors on one side of them hardly depend on those of the other. s has K - 1
below it. Phi is good for about 50 segments and more.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from whisperq.scoring.alignment import Alignment

BOUNDARY = 2  # words that both have right


@dataclass(frozen=True)
class MatchedPairs:
    """p is 1 and z 0 where no segment differs; both are None where one alone, or all by the same, leave no spread."""

    segments: int
    mean: float  # errors of B - A in a segment
    z: float | None
    p: float | None


def matched_pairs(a: Sequence[Alignment], b: Sequence[Alignment]) -> MatchedPairs:
    """The test between alignments of A and B with the same references, utterance by utterance."""
    differences = [eb - ea for pair in zip(a, b, strict=True) for ea, eb in segments(*pair)]
    count = len(differences)
    if not any(differences):
        return MatchedPairs(count, 0.0, 0.0, 1.0)
    spread = stdev(differences) if count > 1 else 0.0
    mean = fmean(differences)
    if spread == 0:
        return MatchedPairs(count, mean, None, None)
    z = mean / (spread / math.sqrt(count))
    return MatchedPairs(count, mean, z, math.erfc(abs(z) / math.sqrt(2)))


def segments(a: Alignment, b: Alignment) -> Iterator[tuple[int, int]]:
    """Errors of A and B in each segment of an utterance."""
    (gaps_a, wrong_a), (gaps_b, wrong_b) = _places(a), _places(b)
    if len(wrong_a) != len(wrong_b):
        raise ValueError("the alignments have different references")
    of_a = of_b = right = 0  # right: words in a row that both have
    for i, (gap_a, gap_b) in enumerate(zip(gaps_a, gaps_b, strict=True)):
        # Behind the last word there is only a gap.
        word_a, word_b = (wrong_a[i], wrong_b[i]) if i < len(wrong_a) else (0, 0)
        right = 0 if gap_a or gap_b else right
        right = 0 if word_a or word_b else right + 1
        of_a, of_b = of_a + gap_a + word_a, of_b + gap_b + word_b
        if right >= BOUNDARY and (of_a or of_b):
            yield of_a, of_b
            of_a = of_b = 0
    if of_a or of_b:
        yield of_a, of_b


def _places(alignment: Alignment) -> tuple[list[int], list[int]]:
    """Insertions before each reference word and behind the last, and whether each word is wrong."""
    gaps, words = [0], []
    for word, hypothesis in alignment:
        if word is None:
            gaps[-1] += 1
        else:
            words.append(int(word != hypothesis))
            gaps.append(0)
    return gaps, words
