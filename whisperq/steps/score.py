"""Scoring again, without a model or a GPU: hypotheses files of ours or anybody's."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from whisperq import artifact
from whisperq.config import Source
from whisperq.errors import InputError, UsageError
from whisperq.kinds.scores import Scores, SetScores
from whisperq.options import ScoreConfig
from whisperq.preconditions import check_set_names
from whisperq.results.evaluations import SPELLING, read_spelling, spelling_beside
from whisperq.results.hypotheses import HypothesisLine, read_hypotheses
from whisperq.results.scores import scores
from whisperq.results.sets import warn_of_changed_words, write_results, write_set
from whisperq.scoring.normalizers import Normalizer, get_normalizer, published_spelling
from whisperq.scoring.sets import ScoredSet, over_sets, score_set
from whisperq.settings import Context


def score(
    files: Sequence[Source], normalizer: str, out: Path, config: ScoreConfig, context: Context
) -> artifact.Artifact:
    """Count word and character errors of each hypotheses file, a test set; `normalizer` serves sets that name none.

    Writes what `eval` writes. Raises InputError for files that are no hypotheses or have no reference words.
    """
    check_set_names([s.name for s in files], "NAME=FILE")
    names = {s.name: config.normalizer or s.normalizer or normalizer for s in files}
    check_spelling(config.spelling, names.values())
    spelling = spelling_file(files, config) if "english" in names.values() else None
    paths = {f"hypotheses {s.name}": Path(s.path or "") for s in files}
    inputs = {role: artifact.reference(path) for role, path in paths.items() if path.is_file()}
    lines = {source.name: read_hypotheses(Path(source.path or "")) for source in files}
    inputs |= {"spelling map": artifact.reference(spelling)} if spelling else {}
    settings = context.settings(config, normalizers=names, groups={s.name: s.group for s in files})
    with artifact.create(out, "scores", "score", settings, inputs, context.force) as draft:
        mapping = read_spelling(spelling) if spelling else published_spelling()
        if "english" in names.values():
            (draft.folder / SPELLING).write_text(json.dumps(mapping, indent=2) + "\n", encoding="utf-8")
        found = {n: scored(n, lines[n], get_normalizer(names[n], mapping), config) for n in lines}
        groups = {s.name: s.group for s in files}
        sets: dict[str, SetScores] = {
            n: artifact.plain({"group": groups[n], **one.results(context.seed)}) for n, one in found.items()
        }
        for name, one in found.items():
            warn_of_changed_words(name, one)
            write_set(draft.folder, out, name, lines[name], one, sets[name])
        results: Scores = {"sets": sets, **over_sets(sets)}
        draft.results |= results
        write_results(draft.folder, "Word errors", results, scores(results))
    return artifact.load(out)


def check_spelling(spelling: str | None, normalizers: Collection[str]) -> None:
    """Raises InputError for a --spelling that cannot be read, UsageError for one that no set's normaliser reads."""
    if spelling is None:
        return
    read_spelling(Path(spelling))
    if "english" not in normalizers:
        others = " and ".join(sorted(set(normalizers)))
        raise UsageError(f"--spelling is for the normalizer english; all sets are scored by {others}")


def scored(name: str, lines: Sequence[HypothesisLine], normalizer: Normalizer, config: ScoreConfig) -> ScoredSet:
    columns = [x.id for x in lines], [x.text for x in lines], [x.pred_text for x in lines]
    found = score_set(*columns, normalizer, config.scorer, config.measure)
    if not found.errors.reference_words:
        raise InputError(f"{name} has no reference words after normalising: it has no word error rate")
    return found


def spelling_file(files: Sequence[Source], config: ScoreConfig) -> Path | None:
    """--spelling, else the map that the hypotheses' evaluations keep; None: the published one.

    Raises UsageError where the files have different ones.
    """
    if config.spelling:
        path = Path(config.spelling)
        return path / SPELLING if path.is_dir() else path
    beside = [spelling_beside(Path(source.path or "")) for source in files]
    maps = [read_spelling(path) if path else published_spelling() for path in beside]
    if any(other != maps[0] for other in maps):
        raise UsageError(
            "the files were scored with different spelling maps; name one with --spelling, or do them apart"
        )
    return next(filter(None, beside), None)
