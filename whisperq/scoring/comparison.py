"""Whether one system makes more word errors than another on the same utterances: a paired bootstrap over blocks.

    d   = 100 (sum_i b_i - a_i) / sum_i n_i                    points of WER, positive where B is worse
    d_r = the same over as many blocks as there are, drawn with replacement; interval = its 2.5 and 97.5 percentiles
    p   = min(1, max(2^(1 - k), 2 (1 + min(#{d_r <= 0}, #{d_r >= 0})) / (R + 1)))

a_i, b_i, n_i: errors of A and B and reference words of utterance i. A block is a speaker's or a recording's utterances,
drawn together because errors of one voice or room go together (Liu and Peng 2019); both systems see the same draw.
k: blocks in which A and B differ, of which the sign test has that p at least: where three are all worse, so is every
resample, though chance alone does that one time in four.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from whisperq.kinds.comparisons import Judgement, References
from whisperq.kinds.scores import Measure

RESAMPLES = 10_000
LEVEL = 0.95
ENOUGH_BLOCKS = 20  # with fewer the percentiles are too narrow to be trusted
ENOUGH_WORDS = 2000  # of fewer a resample knows too little of what else could happen to call two systems alike
# Drawn blocks held at once: bounds the memory at three arrays of 8 MiB.
DRAWN_AT_ONCE = 2**20

Verdict = Literal["better", "worse", "non-inferior", "undecided"]


@dataclass(frozen=True)
class Difference:
    """B - A in points of WER, and what resampling makes of it."""

    points: float
    resampled: np.ndarray  # (resamples,) points
    differing: int  # blocks in which A and B make not as many errors

    @property
    def interval(self) -> tuple[float, float]:
        low, high = np.quantile(self.resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    @property
    def p(self) -> float:
        """Two-sided; 1 where no resample differs from zero."""
        below, above = int((self.resampled <= 0).sum()), int((self.resampled >= 0).sum())
        least = 2.0 ** (1 - self.differing)
        return min(1.0, max(least, 2 * (1 + min(below, above)) / (len(self.resampled) + 1)))

    def verdict(self, margin: float, enough_words: bool = True, enough_blocks: bool = True) -> Verdict:
        """Better or worse where the interval leaves out zero, non-inferior where it ends below the margin.

        Two systems that hardly differ in a few words have a narrow interval and prove nothing; of a few blocks, one
        speaker's say, nothing can be said at all.
        """
        low, high = self.interval
        if not enough_blocks:
            return "undecided"
        if high < 0:
            return "better"
        if low > 0:
            return "worse"
        return "non-inferior" if high < margin and enough_words else "undecided"

    def words_needed(self, margin: float, words: int) -> int | None:
        """At about how many words an interval around this difference would leave out zero, or end below the margin.

        Each side of it falls with the root of the words, and they differ where a few utterances make the difference:
        what counts is the side that must pass zero or the margin. At least as many as are enough.
        """
        low, high = self.interval
        below, above = self.points - low, high - self.points
        sides = [(below, self.points), (above, -self.points), (above, margin - self.points)]  # length, room
        times = [(length / room) ** 2 for length, room in sides if room > 0]
        return max(ENOUGH_WORDS, math.ceil(words * min(times))) if times else None


def paired_bootstrap(
    errors: Sequence[tuple[int, int]], words: Sequence[int], blocks: Sequence[int], resamples: int, seed: int
) -> Difference:
    """errors: of A and B in each utterance; blocks: the number, from zero without gaps, of each utterance's block."""
    pairs, weights = np.asarray(errors, dtype=np.int64), np.asarray(words, dtype=np.int64)
    if not weights.sum():
        raise ValueError("there are no reference words")
    changes = np.bincount(blocks, pairs[:, 1] - pairs[:, 0])  # (blocks,), exact: small integers as floats
    sizes = np.bincount(blocks, weights)
    generator = np.random.default_rng(seed)
    rows = max(1, DRAWN_AT_ONCE // len(sizes))
    drawn = []
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), len(sizes))
        picked = generator.integers(0, len(sizes), size=shape, dtype=np.int32)
        drawn.append(100 * changes[picked].sum(axis=1) / sizes[picked].sum(axis=1))
    return Difference(float(100 * changes.sum() / sizes.sum()), np.concatenate(drawn), int(np.count_nonzero(changes)))


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """Difference of the unweighted mean over sets, which were resampled independently.

    But sets of the same utterances, such as recordings with more and more noise, by the same draws: they err together.
    """
    resampled = np.mean([d.resampled for d in differences], axis=0)
    return Difference(float(np.mean([d.points for d in differences])), resampled, sum(d.differing for d in differences))


def blocks_of(names: Sequence[str]) -> list[int]:
    """Each name's number, in order of appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def choose_blocks(
    speakers: Sequence[str | None], recordings: Sequence[str | None], wanted: str = "auto"
) -> tuple[str, list[int]]:
    """speaker, recording or utterance, and each utterance's block: the first whose every name is known, if enough."""
    choices = {"speaker": speakers, "recording": recordings}
    for kind, names in choices.items():
        if wanted not in ("auto", kind) or any(name is None for name in names):
            continue
        blocks = blocks_of([name or "" for name in names])
        count = len(set(blocks))
        if wanted == kind or ENOUGH_BLOCKS <= count < len(blocks):
            return kind, blocks
    return "utterance", list(range(len(speakers)))


def judgement(difference: Difference, margin: float, words: int, blocks: int, measure: Measure) -> Judgement:
    """Points of the measure, B - A; positive where B is worse. words: characters where these are measured."""
    enough_words, enough_blocks = words >= ENOUGH_WORDS, blocks >= ENOUGH_BLOCKS
    verdict = difference.verdict(margin, enough_words, enough_blocks)
    units: References = {"reference_words": words} if measure == "wer" else {"reference_characters": words}
    return {
        "difference": difference.points,
        "interval_95": difference.interval,
        "p": difference.p,
        "verdict": verdict,
        "within_margin": difference.interval[1] < margin,
        **units,
        "enough_words": enough_words,
        "enough_blocks": enough_blocks,
        "words_needed": difference.words_needed(margin, words) if verdict == "undecided" else None,
    }
