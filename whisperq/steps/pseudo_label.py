"""A teacher's transcripts as training texts: greedy, with how sure it was and how far each is from its reference.

    avg_logprob = sum of ln p(token) / (tokens + 1)     the end included, after suppression, as in openai/whisper
    label_wer   = word errors / reference words         of one label, both sides normalised

Recordings longer than the model's window are no training windows: they are left out and counted, and so are labels
that filled the decoder, or came to the bound of their length, before they came to an end. Labels lie beside the
artifact as they come: the same command goes on after a kill, with any number of processes, and ends with the same bytes
(of equal numbers of threads).
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.batch.pseudo_labels import TOO_LONG, UNFINISHED, UNREADABLE, Label, LabelBook, label_batch
from whisperq.config import Source
from whisperq.data.sources import UtteranceGroup, read_all
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, Interrupted
from whisperq.jobs.distributed import Processes, alone, joined
from whisperq.jobs.progress import bar, say, say_again, say_how, say_left_out
from whisperq.jobs.signals import stop_requested
from whisperq.kinds.observations import LabelCounts, PseudoLabels, Unlabelled
from whisperq.models.loading import compute_device, local_folder, require_whisper
from whisperq.results.sets import warn_of_changes
from whisperq.runtime.beams import with_loop_limit, with_tokens_per_second
from whisperq.runtime.decoding import Rules
from whisperq.runtime.fallback import careful
from whisperq.runtime.interruptible import Stoppable, Stopped
from whisperq.runtime.open import Opened, open_model, with_padding
from whisperq.runtime.padding import left_out_padding
from whisperq.scoring.normalizers import VERSION, Normalizer, normalizer_of
from whisperq.scoring.words import WordErrors, count_errors
from whisperq.settings import Context
from whisperq.training_options import PseudoLabelConfig

LIST = "utterances.jsonl"
THRESHOLDS = (5, 10, 20)  # percent of label_wer, that one may choose --max-label-wer by
# How audio that comes without a file begins, and what it is called as one; others are recognised by their content too.
EXTENSIONS = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3", b"\xff\xfb": "mp3"}


def pseudo_label(
    model: str | Path, data: Sequence[Source], normalizer: str, out: Path, config: PseudoLabelConfig, context: Context
) -> artifact.Artifact:
    """Label every utterance; `normalizer` serves lists that name none.

    Writes utterances.jsonl, a list to train on, and audio/ with the recordings that lay in no file of their own.
    Raises Interrupted where it was told to stop, UsageError for labels so far that belong to another command,
    InputError for models and data that cannot be used.
    """
    folder, group = local_folder(model), read_all(data, config.skip_bad)
    require_whisper(folder)
    utterances = group.utterances
    names = [config.normalizer or source.normalizer or normalizer for source in data]
    settings = context.settings(config, normalizers=names)
    inputs = {"model": artifact.reference(folder), "data": group.reference}
    book = LabelBook(out, settings, inputs)
    book.refuse_finished("pseudo-label", context.force)
    with joined(compute_device(context.device)) as processes, alone(out, "pseudo-label", processes):
        book.look("pseudo-label", context.force)
        with stop_requested() as stopping, open_model(folder, context, config.skip_bad) as whole:
            inputs = artifact.all_read(inputs)
            opened = with_padding(whole, config.padding)
            rules = with_loop_limit(opened.rules, config.loop_limit)
            opened = replace(opened, rules=with_tokens_per_second(rules, config.tokens_per_second))
            say_how(opened.runtime)
            care = careful(opened.rules, config.temperature_fallback, context.seed)
            pipeline = replace(opened, runtime=Stoppable(opened.runtime, stopping), care=care)
            listen(pipeline, utterances, book, config.batch_size, processes, stopping)
            normalizers = [normalizer_of(name, opened.processor.tokenizer) for name in names]
        if processes.main:
            with artifact.create(out, "pseudo-labels", "pseudo-label", settings, inputs, context.force) as draft:
                labels = book.labels()
                again = sum(label.again for label in labels.values())
                ids = sorted({n.id for n in normalizers})
                results: PseudoLabels = {
                    **write(labelled(group, labels, normalizers), ids, draft.folder, out),
                    **left_out(labels, group.bad),
                    "normalizers": ids,
                    "normalizer_version": VERSION,
                    "decoded_again": again,
                    **left_out_padding(opened.runtime),
                }
                draft.results |= results
            say_again(again)
            unread = [n for n, label in labels.items() if label.left_out == UNREADABLE]
            say_left_out([*group.skipped, *(utterances[n].origin for n in sorted(unread))])
            book.remove()
        return processes.result(out)


def listen(
    opened: Opened,
    utterances: Sequence[Utterance],
    book: LabelBook,
    size: int,
    processes: Processes,
    stopping: Callable[[], bool],
) -> None:
    """Label what is not labelled yet. A batch is made up, and so padded and summed, as if nothing had been done."""
    rules = opened.rules
    assert isinstance(rules, Rules), "the model is a Whisper"
    processes.wait()  # all have looked at what lies there
    if processes.main:
        book.prepare()
    processes.wait()
    done = set(book.labels())
    processes.wait()  # nobody writes before all have read
    numbers = range(len(utterances))
    batches = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    pending = [batch for batch in batches if not done >= set(batch)]
    if done:
        say(f"going on after {len(numbers) - sum(map(len, pending)):,} of {len(numbers):,} utterances")
    with book.writing(processes.rank) as keep, bar() as progress:
        task = progress.add_task("pseudo-label", total=sum(map(len, pending)), unit="utterances")
        for start in range(0, len(pending), processes.world):
            together, rest = pending[start : start + processes.world], pending[start + processes.world :]
            lost = 0
            for batch in together[processes.rank : processes.rank + 1]:
                part = utterances[batch.start : batch.stop]
                try:
                    found = label_batch(opened.runtime, opened.loader, rules, part, batch.start, opened.care)
                    keep([label for label in found if label.number not in done])
                except Stopped:  # in the middle of it
                    lost = len(batch)
            progress.advance(task, sum(map(len, together)))
            if processes.any(stopping()) and (processes.any(lost > 0) or rest):
                ready = len(numbers) - sum(map(len, rest)) - lost
                raise Interrupted(
                    f"told to stop: {ready:,} of {len(numbers):,} utterances are done, the same command does the rest"
                )


@dataclass(frozen=True)
class Labelled:
    """An utterance with its label, and its word errors where it has a reference."""

    number: int
    utterance: Utterance
    label: Label
    errors: WordErrors | None

    @property
    def wer(self) -> float | None:
        """A fraction; None without reference words."""
        return self.errors.wer if self.errors and self.errors.reference_words else None


def labelled(
    group: UtteranceGroup, labels: Mapping[int, Label], normalizers: Sequence[Normalizer]
) -> Iterator[Labelled]:
    """All utterances but those left out, in the order of the data; each list by its own normaliser."""
    number = 0
    for one, normalizer in zip(group.lists, normalizers, strict=True):
        for utterance in one.utterances:
            label = labels[number]
            if label.left_out is None:
                reference = utterance.text
                errors = None if reference is None else count_errors([reference], [label.text], normalizer)
                yield Labelled(number, utterance, label, errors)
            number += 1


def write(found: Iterator[Labelled], normalizers: Sequence[str], folder: Path, out: Path) -> LabelCounts:
    """The list, one JSON object a line, and its figures. Raises InputError where nothing could be labelled."""
    taken: set[str] = set()
    seconds, means, words, wers, errors = [], [], 0, [], []
    # A lone half of a surrogate pair, which JSON allows in a reference, goes back into its escape.
    with open(folder / LIST, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for one in found:
            file.write(json.dumps(entry(one, taken, folder, out.resolve()), ensure_ascii=False) + "\n")
            seconds.append(one.label.seconds)
            means.append(one.label.avg_logprob)
            words += len(one.label.text.split())
            errors += [one.errors] if one.errors else []
            wers += [] if one.wer is None else [one.wer]
    if not means:
        raise InputError("no recording could be labelled")
    total = together(errors)
    warn_of_changes("in all", normalizers, total)
    return {
        **total.as_dict(),
        "utterances": len(means),
        "scored": total.utterances,
        "words": words,
        "audio_seconds": sum(seconds),
        "mean_logprob": sum(means) / len(means),
        "label_wer_above": {str(percent): sum(100 * wer > percent for wer in wers) for percent in THRESHOLDS},
    }


def entry(one: Labelled, taken: set[str], folder: Path, final: Path) -> dict[str, Any]:
    """A line of the list; of an id that two lists share the second gets a number."""
    utterance = one.utterance
    ids = chain([utterance.id], (f"{utterance.id}-{i}" for i in count(2)))
    taken.add(name := next(i for i in ids if i not in taken))
    known = {"offset": utterance.offset or None, "speaker": utterance.speaker}
    return {
        "id": name,
        "audio_filepath": audio_file(utterance.audio, one.number, folder, final),
        "duration": one.label.seconds if utterance.duration is None else utterance.duration,
        **{key: value for key, value in known.items() if value is not None},
        "text": one.label.text,
        "reference": utterance.text,
        "avg_logprob": one.label.avg_logprob,
        "label_wer": one.wer,
    }


def audio_file(audio: str | bytes, number: int, folder: Path, final: Path) -> str:
    """The recording's path from where the list will lie in the end; without a file of its own it gets one."""
    if isinstance(audio, str):
        return os.path.relpath(audio, final)
    extension = next((name for start, name in EXTENSIONS.items() if audio.startswith(start)), "audio")
    path = folder / "audio" / f"{number:06d}.{extension}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(audio)
    return str(path.relative_to(folder))


def together(parts: Sequence[WordErrors]) -> WordErrors:
    """The sum of several word error counts."""
    names = [field.name for field in fields(WordErrors) if field.name != "per_utterance"]
    counts = {name: sum(getattr(part, name) for part in parts) for name in names}
    return WordErrors(**counts, per_utterance=tuple(pair for part in parts for pair in part.per_utterance))


def left_out(labels: Mapping[int, Label], bad: int) -> Unlabelled:
    """Counts of utterances without a label, by reason; bad: number of unreadable lines."""
    reasons = Counter(label.left_out for label in labels.values())
    if found := [f"{reasons[why]:,} {why}" for why in (TOO_LONG, UNFINISHED) if reasons[why]]:
        say(f"left out: {', '.join(found)}")
    return {
        "skipped": reasons[UNREADABLE] + bad,
        "longer_than_window": reasons[TOO_LONG],
        "unfinished": reasons[UNFINISHED],
    }
