"""Utterances word by word for a person to read: the reference above the hypothesis, words below one another.

    REF:   the  CAT  sat  ****  on
    HYP:   the  HAT  sat  down  **
    EVAL:        S         I    D

Wrong words in capitals, unless the set has capitals of its own (the normaliser `none`); stars where there is no word.
"""

import unicodedata
from collections.abc import Iterator, Sequence

from whisperq.kinds.scores import SetScores, ranked
from whisperq.names import printable
from whisperq.scoring.alignment import Alignment
from whisperq.scoring.measures import UNITS
from whisperq.scoring.sets import ScoredSet, ScoredUtterance, confusions

COLUMNS = 110  # characters of a line before it is continued
LISTED = 50  # confusions of a kind


def error_text(title: str, scored: ScoredSet, results: SetScores) -> str:
    """A set's errors: the rates, what was taken for what, and each utterance that is not all right."""
    e, measure, unit = scored.errors, scored.measure, UNITS[scored.measure]
    found, rates = e.substitutions + e.deletions + e.insertions, {"wer": results["wer"], "cer": results["cer"]}
    rate, (other, second) = rates.pop(measure), rates.popitem()
    lines = [
        title,
        f"{measure.upper()} {_percent(rate)} [{found} / {e.reference_words} {unit}s: {e.substitutions} "
        f"substituted, {e.deletions} deleted, {e.insertions} inserted], {other.upper()} {_percent(second)}; "
        f"normalizer {scored.normalizer}, scorer {scored.scorer}",
        f"{e.utterances} utterances scored, {e.empty_references} without reference words "
        f"({e.empty_reference_insertions} {unit}s in their hypotheses), {results['loops']} looping"
        + (f", {results['cut_short']} cut short" if "cut_short" in results else ""),
        "",
    ]
    for kind, rows in ranked(confusions(scored.utterances)).items():
        lines += [
            f"{kind}, most frequent first:",
            *(f"  {times:5d}  {' -> '.join(words)}" for words, times in rows[:LISTED]),
        ]
        lines += [f"         and {len(rows) - LISTED} more"] if len(rows) > LISTED else []
        lines.append("")
    wrong = [u for u in scored.utterances if u.counts.errors or u.loop]
    lines += [f"{len(wrong)} utterances that are not all right, in the order of the list:", ""]
    for utterance in wrong:
        lines += [heading(utterance, unit), *aligned_rows(utterance.alignment), ""]
    return "\n".join(map(printable, lines))


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def heading(utterance: ScoredUtterance, unit: str) -> str:
    c = utterance.counts
    parts = [f"{utterance.id}: {c.errors} errors in {c.words} {unit}s"]
    if not c.words:
        parts = [f"{utterance.id}: no reference words, not scored"]
    if loop := utterance.loop:
        parts.append(f'LOOP: "{loop.ngram}" {loop.times} times')
    return "; ".join(parts)


def aligned_rows(alignment: Alignment) -> list[str]:
    """REF, HYP and EVAL, continued where they are long."""
    capitals = not any(word != word.lower() for pair in alignment for word in pair if word)
    columns = [_column(word, hypothesis, capitals) for word, hypothesis in alignment]
    return stacked(("REF:", "HYP:", "EVAL:"), columns)


def _column(word: str | None, hypothesis: str | None, capitals: bool) -> tuple[str, str, str]:
    if word == hypothesis:
        return word or "", hypothesis or "", ""
    letter = "I" if word is None else "D" if hypothesis is None else "S"
    shown = [None if w is None else w.upper() if capitals else w for w in (word, hypothesis)]
    size = max(width(w) for w in shown if w is not None)
    first, second = ("*" * size if w is None else w for w in shown)
    return first, second, letter


def stacked(labels: Sequence[str], columns: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells below one another, each as wide as its column's widest; a blank line between continued parts."""
    room = max(map(len, labels)) + 2
    lines: list[str] = []
    for part in _parts(columns, COLUMNS - room):
        lines += [""] if lines else []
        for number, label in enumerate(labels):
            cells = [_padded(column[number], max(map(width, column))) for column in part]
            lines.append((label.ljust(room) + "  ".join(cells)).rstrip())
    return lines


def _parts(columns: Sequence[Sequence[str]], room: int) -> Iterator[Sequence[Sequence[str]]]:
    start = used = 0
    for end, column in enumerate(columns):
        size = max(map(width, column)) + 2
        if end > start and used + size > room:
            yield columns[start:end]
            start, used = end, 0
        used += size
    yield columns[start:]


def _padded(text: str, size: int) -> str:
    return text + " " * (size - width(text))


def width(text: str) -> int:
    """Columns on a terminal: Chinese and Japanese characters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(bool(unicodedata.combining(c)) for c in text)
