"""The utterances that changed most from one system to another, side by side.

REF:   the  cat  sat  ****  on
A:     the  HAT  sat  ****  on
B:     the  cat  sat  DOWN  on
"""

from collections.abc import Sequence
from itertools import zip_longest

from whisperq.names import printable
from whisperq.results.alignments import stacked, width
from whisperq.scoring.alignment import Alignment
from whisperq.scoring.sets import ScoredUtterance


def changed_text(a: Sequence[ScoredUtterance], b: Sequence[ScoredUtterance], most: int, unit: str) -> str:
    """Text that lists the utterances whose number of errors changed most, at most `most` of them."""
    changes = [y.counts.errors - x.counts.errors for x, y in zip(a, b, strict=True)]
    order = sorted((i for i, change in enumerate(changes) if change), key=lambda i: (-abs(changes[i]), i))
    lines = [f"{len(order)} of {len(a)} utterances have more or fewer errors in B than in A; most first"]
    lines += [f"(the first {most} of them)"] if len(order) > most else []
    for i in order[:most]:
        one, two = a[i].counts, b[i].counts
        lines += ["", f"{a[i].id}: A {one.errors} errors, B {two.errors} in {one.words} {unit}s"]
        lines += stacked(("REF:", "A:", "B:"), _columns(a[i].alignment, b[i].alignment))
    return "\n".join(map(printable, lines)) + "\n"


def _columns(a: Alignment, b: Alignment) -> list[tuple[str, str, str]]:
    """Columns of reference word, word of A and word of B; words that were only inserted come between them."""
    columns = []
    for (extra_a, pair_a), (extra_b, pair_b) in zip(_places(a), _places(b), strict=True):
        columns += [_column(None, x, y) for x, y in zip_longest(extra_a, extra_b)]
        if pair_a and pair_b:
            columns.append(_column(pair_a[0], pair_a[1], pair_b[1]))
    return columns


def _places(alignment: Alignment) -> list[tuple[list[str | None], tuple[str | None, str | None] | None]]:
    """Before each reference word, and at the end, the inserted words; then the word's pair."""
    places, extra = [], []
    for pair in alignment:
        if pair[0] is None:
            extra.append(pair[1])
        else:
            places.append((extra, pair))
            extra = []
    return [*places, (extra, None)]


def _column(word: str | None, one: str | None, two: str | None) -> tuple[str, str, str]:
    size = max(width(w) for w in (word, one, two) if w is not None)
    shown = [w if w == word else w.upper() if w is not None else None for w in (one, two)]
    first, second, third = ("*" * size if w is None else w for w in (word, *shown))
    return first, second, third
