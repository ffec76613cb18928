"""Word error rate and speed over test sets, decoded greedily or with beams.

Several processes each decode every world-th batch: the hypotheses are those of one, and `wall_seconds` are those of
the process that took longest, features and decoding alone. Hypotheses are written beside the artifact as they come: the
same command goes on after a kill, with any number of processes.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import cast

from whisperq import artifact
from whisperq.batch.evaluation import (
    Batch,
    HypothesisBook,
    Loaded,
    TestSet,
    Transcribed,
    audio_ahead,
    batches_by_length,
    transcribe_loaded,
)
from whisperq.config import Source
from whisperq.data.batches import require_texts
from whisperq.data.sources import read_all
from whisperq.errors import InputError, Interrupted
from whisperq.jobs.distributed import Processes, alone, joined
from whisperq.jobs.memory import memory_gib
from whisperq.jobs.progress import bar, say, say_again, say_how, say_left_out
from whisperq.jobs.signals import stop_requested
from whisperq.kinds.scores import CutShort, Evaluation, Execution, ScoredSetResults, SetScores, Times
from whisperq.models.loading import compute_device
from whisperq.options import EvalConfig
from whisperq.results.evaluations import SPELLING
from whisperq.results.hypotheses import HypothesisLine, line_of
from whisperq.results.scores import evaluation
from whisperq.results.sets import warn_of_changed_words, write_results, write_set
from whisperq.runtime.beams import with_beams, with_loop_limit, with_tokens_per_second
from whisperq.runtime.fallback import careful
from whisperq.runtime.interruptible import Stoppable, Stopped
from whisperq.runtime.open import Opened, open_runtime
from whisperq.runtime.padding import left_out_padding
from whisperq.runtime.transcription import AnyRules
from whisperq.scoring.normalizers import get_normalizer, normalizer_of, spelling_of
from whisperq.scoring.sets import NAMED_LOOPS, over_sets, score_set
from whisperq.settings import Context


@dataclass(frozen=True)
class Destination:
    """Path of the artifact, and the settings that decide its figures."""

    out: Path
    scorer: str
    measure: str | None
    seed: int


def eval(
    model: Path, test: Sequence[Source], normalizer: str, out: Path, config: EvalConfig, context: Context
) -> artifact.Artifact:
    """Transcribe every test set and count word errors; `normalizer` serves sets that name none.

    Writes results.json, results.md and of each set hypotheses/<set>.jsonl, errors/<set>.txt, <set>.ref.trn and
    <set>.hyp.trn. Raises InputError and UsageError for unusable sets, Interrupted where it was told to stop.
    """
    lists = {source.name: read_all([source], config.skip_bad) for source in test}
    normalizers = {s.name: config.normalizer or s.normalizer or normalizer for s in test}
    sets = [TestSet(s, lists[s.name].lists[0], normalizers[s.name], config.limit) for s in test]
    for one in sets:
        require_texts(one.read.utterances, "scoring")
        check_words(one)
    settings = context.settings(config, normalizers=normalizers)
    inputs = {"model": artifact.reference(model)} | {f"test {n}": group.reference for n, group in lists.items()}
    sealed = Destination(out, config.scorer, config.measure, context.seed)
    book = HypothesisBook(out, settings, inputs)
    book.refuse_finished("eval", context.force)
    with joined(compute_device(context.device)) as processes, alone(out, "eval", processes), book.worth_keeping():
        book.look("eval", context.force)
        with stop_requested() as stopping, open_runtime(model, config, context, config.skip_bad) as opened:
            inputs = artifact.all_read(inputs)
            say_how(opened.runtime)
            rules = with_loop_limit(with_beams(opened.rules, config.beams), config.loop_limit)
            rules = with_tokens_per_second(rules, config.tokens_per_second)
            care = careful(rules, config.temperature_fallback, context.seed)
            opened = replace(opened, rules=rules, runtime=Stoppable(opened.runtime, stopping), care=care)
            state = Listening(opened, config.batch_size, processes, stopping)
            warm_up = listen(state, sets, book)
            how = summary(opened, processes.gather((warm_up, memory_gib())))
        if processes.main:
            with artifact.create(out, "evaluation", "eval", settings, inputs, context.force) as draft:
                scored = {one.name: write(one, book, opened, sealed, draft.folder) for one in sets}
                keep_spelling(opened, scored, draft.folder)
                results: Evaluation = {**how, "sets": scored, **over_sets(scored)}
                draft.results |= results
                title = f"Word errors of {model.resolve().name}"
                write_results(draft.folder, title, results, evaluation(results))
            say_left_out(origin for one in sets for origin in unusable(one, book))
            say_again(sum(one["decoded_again"] for one in scored.values()))
            book.remove()
        return processes.result(out)


def summary(opened: Opened, costs: Sequence[tuple[float, float]]) -> Execution:
    """Runtime and products of an evaluation; costs: warm-up seconds and peak memory (GiB) of each process."""
    products = opened.runtime.products()
    return {
        "integer_products": len(products.integer),
        "float_products": dict(products.floating),
        "runtime": opened.runtime.name,
        "device": opened.loader.device,
        **left_out_padding(opened.runtime),
        "warm_up_seconds": max(seconds for seconds, _ in costs),
        "peak_memory_gib": max(memory for _, memory in costs),
    }


def check_words(one: TestSet) -> None:
    """Raises InputError, before anything is decoded, for a set without a word to get wrong."""
    normalize = get_normalizer(one.normalizer)
    if not any(normalize(utterance.text or "") for utterance in one.utterances):
        raise InputError(f"the test set {one.name} has no reference words after normalising: it has no word error rate")


@dataclass
class Listening:
    """State that all test sets share while they are transcribed."""

    opened: Opened
    size: int  # utterances of a batch
    processes: Processes
    stopping: Callable[[], bool]
    left: int = 0  # utterances of all sets that are not transcribed yet
    warm_up: float = 0.0  # seconds

    def batches(self, one: TestSet, pending: Sequence[Batch]) -> Iterator[list[Transcribed]]:
        """Hypotheses of each of this process's batches; the first is transcribed once before, to warm up.

        Raises Interrupted where any process was told to stop; a batch that it stopped in is lost.
        """
        world, utterances = self.processes.world, one.utterances
        with closing(audio_ahead(self.opened.loader, utterances, pending[self.processes.rank :: world])) as own:
            for start in range(0, len(pending), world):
                lost = False
                if loaded := next(own, None):
                    try:
                        found = self.transcribe_loaded(one.name, loaded, warm_up=start == 0)
                    except Stopped:
                        lost = True
                    else:
                        yield found
                self.left -= sum(map(len, pending[start : start + world])) - lost * len(loaded[0] if loaded else ())
                if self.processes.any(self.stopping()) and (self.processes.any(lost) or self.left):
                    raise Interrupted(f"told to stop: {self.left:,} utterances are left; the same command goes on")

    def transcribe_loaded(self, name: str, loaded: Loaded, warm_up: bool) -> list[Transcribed]:
        """Transcribe one batch, twice for the warm-up. Raises Stopped."""
        if warm_up:
            began = perf_counter()
            transcribe_loaded(self.opened, name, loaded, self.size)
            self.warm_up += perf_counter() - began
        return transcribe_loaded(self.opened, name, loaded, self.size)


def listen(state: Listening, sets: Sequence[TestSet], book: HypothesisBook) -> float:
    """Transcribe the utterances that are left, and keep the hypotheses; returns the seconds of warming up."""
    processes = state.processes
    processes.wait()  # all have looked at what lies there
    if processes.main:
        book.prepare()
    processes.wait()
    done = {one.name: set(book.transcribed(one.name)) for one in sets}
    processes.wait()  # nobody writes before all have read
    # A batch is made up, and so padded and summed, as if nothing had been done.
    batches = {one.name: batches_by_length(one.utterances, state.size) for one in sets}
    pending = {name: [b for b in batches[name] if not done[name] >= set(b)] for name in batches}
    state.left = sum(len(b) for some in pending.values() for b in some)
    if any(done.values()):
        say(f"going on: {state.left:,} of {sum(len(one.utterances) for one in sets):,} utterances are left")
    with book.writing(processes.rank) as keep:
        for one in sets:
            own = sum(map(len, pending[one.name][processes.rank :: processes.world]))
            with bar() as progress:
                task = progress.add_task(f"eval {one.name}", total=own, unit="utterances")
                for found in state.batches(one, pending[one.name]):
                    keep([line for line in found if line.number not in done[one.name]])
                    progress.advance(task, len(found))
    processes.wait()  # the first scores what all have written
    return state.warm_up


def write(one: TestSet, book: HypothesisBook, opened: Opened, sealed: Destination, folder: Path) -> SetScores:
    """Score a set and write its files; its results. Raises InputError for a set without a usable recording."""
    done = book.transcribed(one.name)
    read = [(u, found) for n, u in enumerate(one.utterances) if (found := done[n]).text is not None]
    if not read:
        raise InputError(f"the test set {one.name} has no usable recording")
    lines = [replace(line_of(u, x.text or "", x.seconds, x.wall), cut_short=x.cut_short) for u, x in read]
    normalize = normalizer_of(one.normalizer, opened.processor.tokenizer)
    ids, texts = [line.id for line in lines], [line.text for line in lines]
    hypotheses = [line.pred_text for line in lines]
    scored = score_set(ids, texts, hypotheses, normalize, sealed.scorer, sealed.measure)
    if not scored.errors.reference_words:  # those that have some could not be read
        raise InputError(f"the test set {one.name} has no reference words left: it has no word error rate")
    warn_of_changed_words(one.name, scored)
    results: SetScores = {
        "group": one.source.group,
        **cast(ScoredSetResults, artifact.plain(scored.results(sealed.seed))),
        **speed(lines, book.times(one.name)),
        "skipped": one.read.bad + len(done) - len(read),
        "decoded_again": sum(x.again for x in done.values()),
        **cut_short(lines, opened.rules),
    }
    write_set(folder, sealed.out, one.name, lines, scored, results)
    return results


def cut_short(lines: Sequence[HypothesisLine], rules: AnyRules) -> CutShort:
    """The results' entries on hypotheses that came to the bound of their length; empty where there is none."""
    if getattr(rules, "tokens_per_second", None) is None:
        return {}
    found = [line.id for line in lines if line.cut_short]
    return {"cut_short": len(found), "cut": found[:NAMED_LOOPS]}


def unusable(one: TestSet, book: HypothesisBook) -> list[str]:
    """Origins of a set's lines and recordings that could not be used."""
    done = book.transcribed(one.name)
    return [*one.read.skipped, *(u.origin for n, u in enumerate(one.utterances) if done[n].text is None)]


def speed(lines: Sequence[HypothesisLine], times: Mapping[str, float]) -> Times:
    """RTFx is audio over wall seconds; the warm-up and the reading of audio files are no part of these."""
    audio = sum(line.duration or 0.0 for line in lines)
    stages = {f"{stage}_seconds": seconds for stage, seconds in times.items()}
    return cast(Times, {"audio_seconds": audio, **stages, "rtfx": audio / times["wall"]})


def keep_spelling(opened: Opened, sets: Mapping[str, SetScores], folder: Path) -> None:
    """The spelling map, where a set was scored with it: `score` and `compare` need no model then."""
    if any(r["normalizer"] == "english" for r in sets.values()):
        mapping = spelling_of(opened.processor.tokenizer)
        (folder / SPELLING).write_text(json.dumps(mapping, indent=2) + "\n", encoding="utf-8")
