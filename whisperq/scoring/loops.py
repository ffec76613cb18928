"""Hypotheses that run in circles: Whisper's hallucinated repeats.

A loop is an n-gram of one to eight words said at least four times in a row, eight words or more in all, and at least
twice as often as the reference repeats any n-gram of that length: "no no no no no no no no", or "thank you" four
times. Of several the one that fills most words counts, the shortest n-gram of equal ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST = 8  # words of an n-gram
LEAST_TIMES = 4
LEAST_WORDS = 8
MORE_THAN_REFERENCE = 2


@dataclass(frozen=True)
class Loop:
    """The n-gram, and how often it comes in a row."""

    ngram: str
    times: int


def find_loop(hypothesis: Sequence[str], reference: Sequence[str]) -> Loop | None:
    found, most = None, 0
    for n in range(1, LONGEST + 1):
        start, times = longest_repeat(hypothesis, n)
        ngram = hypothesis[start : start + n]
        if times < LEAST_TIMES or times * n < LEAST_WORDS or times * n <= most or _repeats_itself(ngram):
            continue
        if times >= MORE_THAN_REFERENCE * longest_repeat(reference, n)[1]:
            found, most = Loop(" ".join(ngram), times), times * n
    return found


def longest_repeat(words: Sequence[str], n: int) -> tuple[int, int]:
    """Position of the n-gram that is repeated most often in a row, and how often: at least once."""
    best, length = (0, 1), 0
    for i in range(len(words) - n):
        length = length + 1 if words[i] == words[i + n] else 0
        if length // n + 1 > best[1]:
            best = (i - length + 1, length // n + 1)
    return best


def _repeats_itself(ngram: Sequence[str]) -> bool:
    """Whether the n-gram is a shorter one repeated, which is tested by itself."""
    n = len(ngram)
    return any(n % d == 0 and list(ngram) == list(ngram[:d]) * (n // d) for d in range(1, n))
