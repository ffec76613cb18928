"""The files of a scored set, the same from `eval` and `score`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from whisperq.data.evaluations import FOLDER
from whisperq.data.hypotheses import HypothesisLine, write_hypotheses
from whisperq.report.alignments import error_text
from whisperq.report.cells import markdown
from whisperq.report.progress import say
from whisperq.report.scores import confusion_tables
from whisperq.report.trn import write_trn
from whisperq.scoring.sets import ScoredSet


def write_set(
    folder: Path, final: Path, name: str, lines: Sequence[HypothesisLine], scored: ScoredSet, results: dict[str, Any]
) -> None:
    """hypotheses/NAME.jsonl, errors/NAME.txt, NAME.ref.trn and NAME.hyp.trn; `final`: where the folder will lie."""
    write_hypotheses(lines, folder / FOLDER / f"{name}.jsonl", final.resolve() / FOLDER)
    (folder / "errors").mkdir(exist_ok=True)
    text = error_text(f"test set {name}", scored, results)
    (folder / "errors" / f"{name}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    write_trn(folder, name, lines, scored.utterances)


def warn_of_changed_words(name: str, scored: ScoredSet) -> None:
    errors = scored.errors
    if errors.normalizer_changed_words:
        say(
            f"warning: in {name} the normaliser {scored.normalizer} changed the number of reference words from "
            f"{errors.raw_reference_words:,} to {errors.reference_words:,}; basic keeps digits apart"
        )


def write_results(folder: Path, title: str, results: dict[str, Any], tables: Sequence[Table]) -> None:
    """results.json and results.md; `results` as `artifact.plain` makes them."""
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    text = f"# {title}\n\n{markdown([*tables, *confusion_tables(results)])}"
    (folder / "results.md").write_text(text, encoding="utf-8", errors="backslashreplace")
