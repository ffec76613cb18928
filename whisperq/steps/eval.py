"""Word error rate and speed over test sets, greedy decoding.

Several processes each decode every world-th batch: the hypotheses are those of one, and `wall_seconds` are those of
the process that took longest, features and decoding alone.
"""

import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.batches import require_texts
from whisperq.data.groups import read_all
from whisperq.data.lists import UtteranceList
from whisperq.errors import InputError, UsageError
from whisperq.flags import Context
from whisperq.models.loading import compute_device
from whisperq.options import EvalConfig
from whisperq.report.progress import say, say_how, track
from whisperq.runtime.opening import Opened, open_runtime
from whisperq.runtime.transcription import Hypothesis, transcribe
from whisperq.scoring.intervals import bootstrap_interval
from whisperq.scoring.normalizers import get_normalizer, normalizer_of
from whisperq.scoring.words import count_errors
from whisperq.training.distributed import Processes, joined


def eval(
    model: Path, test: Sequence[Source], normalizer: str, out: Path, config: EvalConfig, context: Context
) -> artifact.Artifact:
    """Transcribe every test set and count word errors; `normalizer` serves sets that name none.

    Writes results.json and hypotheses/<set>.jsonl. Raises InputError and UsageError for unusable sets.
    """
    check_names(test)
    lists = {source.name: read_all([source], config.skip_bad) for source in test}
    for group in lists.values():
        require_texts(group.utterances, "scoring")
    normalizers = {s.name: config.normalizer or s.normalizer or normalizer for s in test}
    for name, group in lists.items():
        check_words(name, [u.text or "" for u in group.utterances[: config.limit]], normalizers[name])
    settings = context.settings(config, normalizers=normalizers)
    inputs = {"model": artifact.reference(model)} | {f"test {n}": group.reference for n, group in lists.items()}
    with joined(compute_device(context.device)) as processes:
        with (
            artifact.create(out, "evaluation", "eval", settings, inputs, context.force) as draft,
            open_runtime(model, config, context, config.skip_bad) as opened,
        ):
            say_how(opened.runtime)
            (draft.folder / "hypotheses").mkdir()
            results = {}
            for source in test:
                utterance_list = lists[source.name].lists[0]
                hypotheses, wall = decode(opened, utterance_list, config, processes)
                write_hypotheses(hypotheses, draft.folder / "hypotheses" / f"{source.name}.jsonl", out)
                results[source.name] = score(hypotheses, wall, opened, normalizers[source.name], context.seed)
                skipped = set().union(*processes.gather(opened.loader.skipped))
                bad = {u.origin for u in utterance_list.utterances} & skipped if skipped else ()
                results[source.name]["skipped"] = utterance_list.bad + len(bad)
            draft.results |= summary(opened, results)
            (draft.folder / "results.json").write_text(json.dumps(draft.results, indent=2) + "\n")
        return processes.result(out)


def summary(opened: Opened, sets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What ran, how much of it in integers, and every set's figures."""
    products = opened.runtime.products()
    return {
        "integer_products": len(products.integer),
        "float_products": dict(products.floating),
        "runtime": opened.runtime.name,
        "device": opened.loader.device,
        "sets": sets,
        "mean_wer": sum(r["wer"] for r in sets.values()) / len(sets),
    }


def check_names(test: Sequence[Source]) -> None:
    names = [s.name for s in test]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two test sets are named {name}; name them apart with --test NAME=LIST")
        if Path(name).name != name:
            raise UsageError(f"a test set's name becomes a file's, so that it cannot be {name!r}")


def check_words(name: str, references: Sequence[str], normalizer: str) -> None:
    """Raises InputError, before anything is decoded, for a set without a word to get wrong."""
    normalize = get_normalizer(normalizer)
    if not any(normalize(text) for text in references):
        raise InputError(f"the test set {name} has no reference words after normalising: it has no word error rate")


def decode(
    opened: Opened, utterance_list: UtteranceList, config: EvalConfig, processes: Processes
) -> tuple[list[Hypothesis], float]:
    """Hypotheses of all utterances, and the wall seconds of the slowest process.

    Each process's first batch runs once before, untimed, to warm up.
    """
    utterances, size, name = utterance_list.utterances[: config.limit], config.batch_size, utterance_list.source.name
    heard = (opened.runtime, opened.loader, opened.rules)
    for _, first in islice(processes.batches(utterances, size), 1):
        list(transcribe(*heard, first, size))
    found = (
        (number, h.without_sound())
        for number, part in processes.batches(utterances, size)
        for h in transcribe(*heard, part, size)
    )
    own = list(track(found, -(-len(utterances) // processes.world), f"eval {name}", "utterances"))
    wall = max(processes.gather(sum(h.seconds for _, h in own)))
    hypotheses = processes.collect(own)
    if not hypotheses:
        raise InputError(f"the test set {name} has no usable recording")
    return hypotheses, wall


def write_hypotheses(hypotheses: Sequence[Hypothesis], path: Path, out: Path) -> None:
    """One JSON object a line; texts raw; an audio path counts from where the file will lie in the end."""
    final = out.resolve() / "hypotheses"
    with open(path, "w", encoding="utf-8") as file:
        for h in hypotheses:
            audio = h.utterance.audio
            entry = {
                "id": h.utterance.id,
                "audio_filepath": os.path.relpath(audio, final) if isinstance(audio, str) else None,
                "duration": h.audio_seconds,
                "time": h.seconds,
                "text": h.utterance.text,
                "pred_text": h.text,
            }
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def score(
    hypotheses: Sequence[Hypothesis], wall: float, opened: Opened, normalizer_name: str, seed: int
) -> dict[str, Any]:
    """Counts, WER with its 95 % interval, RTFx; `wall` in seconds."""
    normalizer = normalizer_of(normalizer_name, opened.processor.tokenizer)
    references = [h.utterance.text or "" for h in hypotheses]
    errors = count_errors(references, [h.text for h in hypotheses], normalizer)
    if errors.normalizer_changed_words:
        say(
            f"warning: the normaliser {normalizer.id} changed the number of reference words from "
            f"{errors.raw_reference_words:,} to {errors.reference_words:,}; basic keeps digits apart"
        )
    audio = sum(h.audio_seconds for h in hypotheses)
    low, high = bootstrap_interval(errors.per_utterance, seed=seed)
    return {
        **errors.as_dict(),
        "wer_interval_95": [low, high],
        "normalizer": normalizer.id,
        "normalizer_changed_words": errors.normalizer_changed_words,
        "audio_seconds": audio,
        "wall_seconds": wall,
        "rtfx": audio / wall,
    }
