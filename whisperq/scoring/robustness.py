"""What word error rates do not see: words where nobody speaks, nothing where somebody does, loops, times that fall.

words       in silence, noise, music, and recordings of a test set whose reference has no word:
            a recording whose hypothesis has words
            (what stands in brackets, such as [Music], the normaliser takes for no word)
empty       in speech: a recording whose hypothesis has none
loops       as scoring/loops.py finds them, where people speak and where they do not
backwards   a segment ends before it starts, or starts before the last one's end
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from whisperq.kinds.comparisons import MoreWords, PairedRates, Symptom
from whisperq.scoring.loops import find_loop
from whisperq.scoring.normalizers import Normalizer
from whisperq.scoring.proportions import Pairs, wilson
from whisperq.scoring.two_way_bootstrap import interval_95

SPEECH = "speech"
WORDLESS = "reference without words"  # of a test set, where nobody speaks
ROUNDING = 1e-6  # seconds
RESAMPLES = 10_000


@dataclass(frozen=True)
class Symptoms:
    """Symptoms in one system's hypothesis of one recording."""

    words: int
    loop: bool
    backwards: bool | None  # None: without times


def symptoms(
    text: str, reference: str, normalizer: Normalizer, times: Sequence[tuple[float, float]] | None
) -> Symptoms:
    """Texts raw, reference "" where nobody speaks; times: start and end in seconds of each segment, None without."""
    words = normalizer(text).split()
    loop = find_loop(words, normalizer(reference).split()) is not None
    return Symptoms(len(words), loop, None if times is None else goes_backwards(times))


def goes_backwards(times: Sequence[tuple[float, float]]) -> bool:
    moments = [moment for segment in times for moment in segment]
    return any(b < a - ROUNDING for a, b in zip(moments, moments[1:], strict=False))


Sign = Callable[[Symptoms], bool | None]
SIGNS: dict[str, tuple[Sign, bool, bool]] = {  # symptom -> sign, asked where people speak, and where they do not
    "words": (lambda s: s.words > 0, False, True),
    "empty": (lambda s: s.words == 0, True, False),
    "loops": (lambda s: s.loop, True, True),
    "backwards": (lambda s: s.backwards, True, True),
}


def judge(kinds: Sequence[str], a: Sequence[Symptoms], b: Sequence[Symptoms]) -> list[Symptom]:
    """Rates of both systems and their difference, b - a, for each symptom and kind of recording where it is asked."""
    silent = [kind for kind in dict.fromkeys(kinds) if kind != SPEECH]
    return [entry for sign in SIGNS for entry in _rows(sign, kinds, silent, a, b)]


def _rows(
    name: str, kinds: Sequence[str], silent: list[str], a: Sequence[Symptoms], b: Sequence[Symptoms]
) -> Iterator[Symptom]:
    sign, in_speech, in_others = SIGNS[name]
    groups = {SPEECH: [SPEECH]} if in_speech and SPEECH in kinds else {}
    if in_others and silent:
        groups |= {kind: [kind] for kind in silent} if name == "words" else {}
        groups["no speech"] = silent
    for title, members in groups.items():
        chosen = [i for i, kind in enumerate(kinds) if kind in members]
        seen = [[answer for i in chosen if (answer := sign(system[i])) is not None] for system in (a, b)]
        if all(len(answers) == len(chosen) for answers in seen):
            words = [[system[i].words for i in chosen] for system in (a, b)]
            more: MoreWords = fewer_or_more(*words) if name == "words" else {}
            yield {"symptom": name, "recordings": title, **paired(*seen), **more}


def fewer_or_more(a: Sequence[int], b: Sequence[int]) -> MoreWords:
    """All words, and how many more b has in a recording, with the paired bootstrap's interval over recordings."""
    changes = np.subtract(b, a)
    drawn = np.random.default_rng(0).integers(0, len(changes), size=(RESAMPLES, len(changes)))
    ends = interval_95(changes[drawn].mean(axis=1))
    return {
        "words_a": sum(a),
        "words_b": sum(b),
        "words_change": float(changes.mean()),
        "words_interval_95": ends,
    }


def paired(a: Sequence[bool], b: Sequence[bool]) -> PairedRates:
    """Counts, rates as fractions, their Wilson intervals; the difference with Newcombe's, and McNemar's p."""
    pairs, total = Pairs.of(a, b), len(a)
    of_a, of_b = sum(map(bool, a)), sum(map(bool, b))
    return {
        "total": total,
        "count_a": of_a,
        "count_b": of_b,
        "interval_95_a": wilson(of_a, total),
        "interval_95_b": wilson(of_b, total),
        "pairs": asdict(pairs),
        "difference": pairs.difference,
        "difference_interval_95": pairs.interval,
        "p": pairs.p,
    }
