"""Word error rate and speed over test sets, greedy decoding."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.batches import require_texts
from whisperq.data.groups import read_all
from whisperq.data.lists import UtteranceList
from whisperq.errors import InputError, UsageError
from whisperq.options import Context, EvalConfig
from whisperq.report.progress import say, say_how, track
from whisperq.runtime.opening import Opened, open_runtime
from whisperq.runtime.transcription import Hypothesis, transcribe
from whisperq.scoring.intervals import bootstrap_interval
from whisperq.scoring.normalizers import get_normalizer, normalizer_of
from whisperq.scoring.words import count_errors


def eval(
    model: Path, test: Sequence[Source], normalizer: str, out: Path, config: EvalConfig, context: Context
) -> artifact.Artifact:
    """Transcribe every test set and count word errors; `normalizer` serves sets that name none.

    Writes results.json and hypotheses/<set>.jsonl. Raises InputError and UsageError for unusable sets.
    """
    check_names(test)
    lists = {source.name: read_all([source], config.skip_bad) for source in test}
    require_texts([u for group in lists.values() for u in group.utterances], "scoring")
    normalizers = {s.name: config.normalizer or s.normalizer or normalizer for s in test}
    for name, group in lists.items():
        check_words(name, [u.text or "" for u in group.utterances[: config.limit]], normalizers[name])
    settings = context.settings(config, normalizers=normalizers)
    inputs = {"model": artifact.reference(model)} | {f"test {n}": group.reference for n, group in lists.items()}
    with (
        artifact.create(out, "evaluation", "eval", settings, inputs, context.force) as draft,
        open_runtime(model, config, context, config.skip_bad) as opened,
    ):
        say_how(opened.runtime)
        (draft.folder / "hypotheses").mkdir()
        results = {}
        for source in test:
            utterance_list = lists[source.name].lists[0]
            hypotheses = decode(opened, utterance_list, config)
            write_hypotheses(hypotheses, draft.folder / "hypotheses" / f"{source.name}.jsonl", out)
            results[source.name] = score(hypotheses, opened, normalizers[source.name], context.seed)
            bad = {u.origin for u in utterance_list.utterances} & opened.loader.skipped
            results[source.name]["skipped"] = utterance_list.bad + len(bad)
        products = opened.runtime.products()
        draft.results |= {
            "integer_products": len(products.integer),
            "float_products": dict(products.floating),
            "runtime": opened.runtime.name,
            "device": opened.loader.device,
            "sets": results,
        }
        draft.results["mean_wer"] = sum(r["wer"] for r in results.values()) / len(results)
        (draft.folder / "results.json").write_text(json.dumps(draft.results, indent=2) + "\n")
    return artifact.load(out)


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


def decode(opened: Opened, utterance_list: UtteranceList, config: EvalConfig) -> list[Hypothesis]:
    """Hypotheses of all utterances; the first batch runs once before, untimed, to warm up."""
    utterances = utterance_list.utterances[: config.limit]
    arguments = (opened.runtime, opened.loader, opened.rules)
    list(transcribe(*arguments, utterances[: config.batch_size], config.batch_size))
    found = transcribe(*arguments, utterances, config.batch_size)
    name = utterance_list.source.name
    hypotheses = list(track(found, len(utterances), f"eval {name}", "utterances"))
    if not hypotheses:
        raise InputError(f"the test set {name} has no usable recording")
    return hypotheses


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


def score(hypotheses: Sequence[Hypothesis], opened: Opened, normalizer_name: str, seed: int) -> dict[str, Any]:
    """Counts, WER with its 95 % interval, RTFx."""
    normalizer = normalizer_of(normalizer_name, opened.processor.tokenizer)
    references = [h.utterance.text or "" for h in hypotheses]
    errors = count_errors(references, [h.text for h in hypotheses], normalizer)
    if errors.normalizer_changed_words:
        say(
            f"warning: the normaliser {normalizer.id} changed the number of reference words from "
            f"{errors.raw_reference_words:,} to {errors.reference_words:,}; basic keeps digits apart"
        )
    audio, wall = sum(h.audio_seconds for h in hypotheses), sum(h.seconds for h in hypotheses)
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
