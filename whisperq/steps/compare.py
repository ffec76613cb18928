"""Which of two systems makes fewer errors, of words or of characters, on the same utterances, and how sure that is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from whisperq import artifact
from whisperq.errors import InputError, UsageError
from whisperq.jobs.progress import say, track
from whisperq.kinds.comparisons import Comparison, SetVerdict, Verdict, rates_by, rates_of, reference_units
from whisperq.names import file_name
from whisperq.options import CompareConfig
from whisperq.results.cells import markdown, markdown_text
from whisperq.results.changed_utterances import changed_text
from whisperq.results.comparisons import comparison
from whisperq.results.evaluations import Evaluation, common_sets, open_evaluation, read_spelling
from whisperq.results.hypotheses import HypothesisLine, read_hypotheses
from whisperq.scoring.comparison import (
    ENOUGH_BLOCKS,
    Difference,
    choose_blocks,
    judgement,
    mean_difference,
    paired_bootstrap,
)
from whisperq.scoring.measures import UNITS, rule_of
from whisperq.scoring.normalizers import VERSION, Normalizer, get_normalizer
from whisperq.scoring.segment_test import matched_pairs
from whisperq.scoring.sets import ScoredSet, score_set
from whisperq.settings import Context

FEW_SEGMENTS = 50  # below it the matched pairs' normal distribution is a guess


def compare(a: Path, b: Path, normalizer: str, out: Path, config: CompareConfig, context: Context) -> artifact.Artifact:
    """B against A on the sets that both have: hypotheses files, evaluations or scores.

    `normalizer` serves files that nobody has scored. Writes comparison.json, comparison.md and changed/<set>.txt.
    Raises UsageError for different normalisers, scorers or references, InputError for what cannot be read.
    """
    inputs = {"a": artifact.reference(a), "b": artifact.reference(b)}
    inputs |= {"spelling map": artifact.reference(Path(config.spelling))} if config.spelling else {}
    both = open_evaluation(a), open_evaluation(b)
    sets = common_sets(*both)
    normalizers = {name: agreed_normalizer(name, both, config, normalizer) for name in sets}
    scorer, measures = agreed_scorer(both, config), {name: agreed_measure(name, both, config) for name in sets}
    say_of_versions(both)
    settings = context.settings(config, normalizers={n: f.id for n, f in normalizers.items()}, scorer=scorer)
    with artifact.create(out, "comparison", "compare", settings, inputs, context.force) as draft:
        (draft.folder / "changed").mkdir()
        judged = {}
        draws: dict[tuple[str, ...], int] = {}  # by the references of a set: one that has them too is drawn alike
        for number, (name, files) in enumerate(track(sets.items(), len(sets), "compare", "sets")):
            rule = normalizers[name], scorer, measures[name]
            one = pair(name, files, rule, config.common)
            drawn = draws.setdefault(tuple(u.reference for u in one.a.utterances), number)
            judged[name] = judge(name, one, config, context.seed + drawn)
            text = changed_text(one.a.utterances, one.b.utterances, config.changed, UNITS[one.a.measure])
            file = draft.folder / "changed" / f"{file_name(name)}.txt"
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
        names = [e.name for e in both] if both[0].name != both[1].name else [str(a), str(b)]
        results: Comparison = {
            "a": names[0],
            "b": names[1],
            "margin": config.margin,
            "resamples": config.resamples,
            "sets": {n: j.results for n, j in judged.items()},
            "means": list(means(judged, config.margin)),
        }
        draft.results |= results
        (draft.folder / "comparison.json").write_text(json.dumps(artifact.plain(results), indent=2) + "\n")
        title = markdown_text(f"{names[1]} against {names[0]}")
        text = f"# {title}\n\n{markdown(comparison(results))}"
        (draft.folder / "comparison.md").write_text(text, encoding="utf-8")
    return artifact.load(out)


def agreed_normalizer(name: str, both: Sequence[Evaluation], config: CompareConfig, default: str) -> Normalizer:
    """--normalizer, else the one that both were scored with, else the default. Raises UsageError and InputError."""
    known = said(name, both, "normalizers")
    if not config.normalizer and len(known) > 1:
        raise UsageError(
            f"in {name} the normalisers differ ({' and '.join(sorted(known))}); "
            "give --normalizer, by which both are scored anew"
        )
    agreed = next(iter(known), default)
    chosen: str = config.normalizer or agreed
    if chosen != "english":
        return get_normalizer(chosen)
    mapping = agreed_spelling(both, config)
    if mapping is None and not config.normalizer and known:
        raise InputError(f"{name} was scored with a spelling map that is not there any more; name it with --spelling")
    return get_normalizer("english", mapping)


def said(name: str, both: Sequence[Evaluation], what: str) -> set[str]:
    """The values of the field `what` of a set in evaluations A and B, where they have one."""
    own = [name if name in e.files else next(iter(e.files)) for e in both]  # a pair of single sets has two names
    return {getattr(e, what)[n] for e, n in zip(both, own, strict=True) if n in getattr(e, what)}


def agreed_spelling(both: Sequence[Evaluation], config: CompareConfig) -> dict[str, str] | None:
    """--spelling, else the map that the evaluations keep. Raises UsageError where theirs differ."""
    paths = [Path(config.spelling)] if config.spelling else [e.spelling for e in both if e.spelling]
    maps = [read_spelling(path) for path in paths]
    if len(maps) == 2 and maps[0] != maps[1]:
        raise UsageError("the spelling maps of A and B differ, and so do their normalisers; name one with --spelling")
    return maps[0] if maps else None


def agreed_scorer(both: Sequence[Evaluation], config: CompareConfig) -> str:
    known = {e.scorer for e in both if e.scorer}
    if not config.scorer and len(known) > 1:
        raise UsageError("A and B were scored by different scorers; give --scorer, by which both are scored anew")
    return config.scorer or next(iter(known), "jiwer")


def agreed_measure(name: str, both: Sequence[Evaluation], config: CompareConfig) -> str | None:
    """wer or cer; None where neither side states one: then the references decide. Raises UsageError if they differ."""
    known = said(name, both, "measures")
    if not config.measure and len(known) > 1:
        raise UsageError(f"in {name} A and B were measured by WER and by CER; give --measure, by which both are now")
    return config.measure or next(iter(known), None)


def say_of_versions(both: Sequence[Evaluation]) -> None:
    """The rates that an older evaluation states can be others than those that come out here."""
    for label, one in zip("AB", both, strict=True):
        if one.version not in (None, VERSION):
            say(
                f"notice: {label}, {one.name}, was scored by version {one.version} of the normalisers; "
                f"both are scored anew by version {VERSION}"
            )


@dataclass(frozen=True)
class Pair:
    """Scores of two systems on one set's utterances, those without reference words left out."""

    lines: tuple[HypothesisLine, ...]  # A's
    a: ScoredSet
    b: ScoredSet


def pair(name: str, files: tuple[Path, Path], rule: tuple[Normalizer, str, str | None], common: bool) -> Pair:
    """rule: normaliser, scorer and measure, as `score_set` takes them.

    Raises UsageError for different utterances (without `common`) and different references.
    """
    normalizer = rule[0]
    of_a, of_b = ({line.id: line for line in read_hypotheses(file)} for file in files)
    missing = [len(of_a.keys() - of_b.keys()), len(of_b.keys() - of_a.keys())]
    if any(missing) and not common:
        raise UsageError(
            f"{name}: {missing[0]:,} utterances of A are not in B and {missing[1]:,} of B not in A; "
            "evaluate both on the same list, or give --common"
        )
    texts = {i: (normalizer(of_a[i].text), normalizer(of_b[i].text)) for i in of_a if i in of_b}
    if (other := next((i for i, (one, two) in texts.items() if one != two), None)) is not None:
        raise UsageError(
            f"{name}: the references of {other} differ ({of_a[other].text!r} and {of_b[other].text!r}); "
            "score both against the same list"
        )
    ids = [i for i, (text, _) in texts.items() if text]
    if not ids:
        raise InputError(f"{name} has no utterance with reference words that both transcribed: nothing to compare")
    references = [of_a[i].text for i in ids]
    a, b = (score_set(ids, references, [of[i].pred_text for i in ids], *rule) for of in (of_a, of_b))
    return Pair(tuple(of_a[i] for i in ids), a, b)


@dataclass(frozen=True)
class Judged:
    results: SetVerdict
    difference: Difference


def judge(name: str, one: Pair, config: CompareConfig, seed: int) -> Judged:
    """The difference with its interval, tests and verdict."""
    errors = [(x.counts.errors, y.counts.errors) for x, y in zip(one.a.utterances, one.b.utterances, strict=True)]
    words = [x.counts.words for x in one.a.utterances]
    speakers, recordings = [x.speaker for x in one.lines], [x.source for x in one.lines]
    kind, blocks = choose_blocks(speakers, recordings, config.blocks)
    if config.blocks not in ("auto", kind):
        raise UsageError(f"{name}: --blocks {config.blocks}, but not every utterance names its {config.blocks}")
    count, voices = len(set(blocks)), len(set(speakers) - {None})
    if kind != "speaker" and 0 < voices < ENOUGH_BLOCKS and config.blocks == "auto":
        say(
            f"notice: {name} has {voices} speakers with a name, too few to resample by: "
            "the interval leaves out how much one speaker differs from another"
        )
    difference = paired_bootstrap(errors, words, blocks, config.resamples, seed)
    pairs = matched_pairs([u.alignment for u in one.a.utterances], [u.alignment for u in one.b.utterances])
    changes = [y - x for x, y in errors]
    measure = one.a.measure
    results: SetVerdict = {
        "normalizer": one.a.normalizer,
        "normalizer_version": VERSION,
        "scorer": one.a.scorer,
        "measure": measure,
        "utterances": len(words),
        **rates_by(measure, one.a.errors.wer, one.b.errors.wer),
        **judgement(difference, config.margin, sum(words), count, measure),
        "blocked_by": kind,
        "blocks": count,
        "matched_pairs": {
            "segments": pairs.segments,
            "mean": pairs.mean,
            "z": pairs.z,
            "p": pairs.p,
            "enough_segments": pairs.segments >= FEW_SEGMENTS,
        },
        "utterances_better": sum(c < 0 for c in changes),
        "utterances_worse": sum(c > 0 for c in changes),
        "equal_hypotheses": sum(
            x.hypothesis == y.hypothesis for x, y in zip(one.a.utterances, one.b.utterances, strict=True)
        ),
    }
    return Judged(results, difference)


def means(judged: Mapping[str, Judged], margin: float) -> Iterator[Verdict]:
    """Verdicts on the unweighted mean over sets with the same normaliser, scorer and measure, two or more of them."""
    for rule in dict.fromkeys(rule_of(j.results) for j in judged.values()):
        some = [j for j in judged.values() if rule_of(j.results) == rule]
        if len(some) > 1:
            normalizer, scorer, measure = rule
            words = sum(reference_units(j.results) for j in some)
            a, b = (fmean(column) for column in zip(*(rates_of(j.results) for j in some), strict=True))
            blocks = min(j.results["blocks"] for j in some)
            described = judgement(mean_difference([j.difference for j in some]), margin, words, blocks, measure)
            yield {
                "normalizer": normalizer,
                "scorer": scorer,
                "measure": measure,
                **rates_by(measure, a, b),
                **described,
            }
