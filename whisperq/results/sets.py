"""The files of a scored set, the same from `eval` and `score`."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from whisperq.jobs.progress import say
from whisperq.kinds.scores import Scores, SetScores
from whisperq.names import file_name
from whisperq.results.alignments import error_text
from whisperq.results.cells import markdown, markdown_text
from whisperq.results.evaluations import FOLDER
from whisperq.results.hypotheses import HypothesisLine, write_hypotheses
from whisperq.results.scores import confusion_tables
from whisperq.results.trn import write_trn
from whisperq.scoring.sets import ScoredSet
from whisperq.scoring.words import WordErrors


def write_set(
    folder: Path, final: Path, name: str, lines: Sequence[HypothesisLine], scored: ScoredSet, results: SetScores
) -> None:
    """hypotheses/NAME.jsonl, errors/NAME.txt, NAME.ref.trn and NAME.hyp.trn; `final`: where the folder will lie.

    NAME is the set's as a file's, `file_name`.
    """
    stem = file_name(name)
    write_hypotheses(lines, folder / FOLDER / f"{stem}.jsonl", final.resolve() / FOLDER)
    (folder / "errors").mkdir(exist_ok=True)
    text = error_text(f"test set {name}", scored, results)
    (folder / "errors" / f"{stem}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    write_trn(folder, stem, lines, scored.utterances)


def warn_of_changed_words(name: str, scored: ScoredSet) -> None:
    """Warn where the normaliser changed the number of reference words much, for a set measured by WER."""
    if scored.measure == "wer":
        warn_of_changes(f"in {name}", [scored.normalizer], scored.words)


def warn_of_changes(where: str, normalizers: Sequence[str], errors: WordErrors) -> None:
    """normalizers: the ids in use, which the hint never names."""
    if errors.normalizer_changed_words:
        kept = "none keeps what stands in brackets and words with symbols in them"
        hint = kept if "basic" in normalizers else "basic keeps digits apart"
        say(
            f"warning: {where} the normaliser {' and '.join(normalizers)} changed the number of reference words from "
            f"{errors.raw_reference_words:,} to {errors.reference_words:,}; {hint}"
        )


def write_results(folder: Path, title: str, results: Scores, tables: Sequence[Table]) -> None:
    """results.json and results.md; `results` as `artifact.plain` makes them."""
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    text = f"# {markdown_text(title)}\n\n{markdown([*tables, *confusion_tables(results)])}"
    (folder / "results.md").write_text(text, encoding="utf-8", errors="backslashreplace")
