"""Transcripts for NIST's sclite: a line of words and `(speaker-utterance)`, references and hypotheses apart.

    sclite -r clean.ref.trn trn -h clean.hyp.trn trn -i spu_id -e utf-8 -s -o all stdout

Words are the normalised ones that were scored, and utterances without reference words are left out, so that sclite
counts what `--scorer sclite` counts. What sclite reads as syntax, such as { } ( ) / @ ; and the backslash, is written
in its full-width form in both files alike. A speaker ends at the first hyphen or underscore: of its own it keeps none.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from whisperq.results.hypotheses import HypothesisLine
from whisperq.scoring.sets import ScoredUtterance

FULL_WIDTH = str.maketrans({c: chr(ord(c) + 0xFEE0) for c in "{}()/@;\\"})


def write_trn(folder: Path, name: str, lines: Sequence[HypothesisLine], scored: Sequence[ScoredUtterance]) -> None:
    """Write the scored utterances as NAME.ref.trn and NAME.hyp.trn, for sclite."""
    kept = [(line, utterance) for line, utterance in zip(lines, scored, strict=True) if utterance.reference]
    ids = trn_ids([line for line, _ in kept])
    for kind, texts in (("ref", [u.reference for _, u in kept]), ("hyp", [u.hypothesis for _, u in kept])):
        with open(folder / f"{name}.{kind}.trn", "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.writelines(f"{t.translate(FULL_WIDTH)} ({i})\n".lstrip() for t, i in zip(texts, ids, strict=True))


def trn_ids(lines: Sequence[HypothesisLine]) -> list[str]:
    """Speaker, hyphen and utterance id, in ASCII; sclite knows no case, so that no two differ in that alone."""
    taken: set[str] = set()
    found = []
    for number, line in enumerate(lines, 1):
        speaker = re.sub(r"[^A-Za-z0-9]+", ".", line.speaker or "").strip(".") or "unknown"
        name = f"{speaker}-{re.sub(r'[^A-Za-z0-9_.-]+', '.', line.id).strip('.')}"
        if name.casefold() in taken:
            name = f"{name}.{number}"
        taken.add(name.casefold())
        found.append(name)
    return found
