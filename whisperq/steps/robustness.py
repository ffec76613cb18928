"""What INT8 may break beside words: hallucinations where nobody speaks, loops, empty transcripts, times that fall.

A quantized model and the float one that it was made from transcribe the same recordings: silence, noise and music, made
here and kept in the artifact, and the beginnings of the test sets. Both decode greedily, once as `eval` does and, where
the model knows times, once with them.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from whisperq import artifact
from whisperq.config import Source, one_normalizer
from whisperq.data.batches import require_texts
from whisperq.data.sounds import MAKERS, make_sounds
from whisperq.data.sources import read_all
from whisperq.data.timed_words import Segment
from whisperq.errors import InputError, UsageError
from whisperq.jobs.progress import say_how, say_left_out, track
from whisperq.kinds.comparisons import Robustness
from whisperq.kinds.comparisons import System as Described
from whisperq.options import RobustnessConfig
from whisperq.report.robustness import robustness_tables
from whisperq.results.cells import markdown, markdown_text
from whisperq.runtime.decoding import Rules, with_times
from whisperq.runtime.open import Opened, open_runtime
from whisperq.runtime.transcription import AnyRules, cut, transcribe_pieces
from whisperq.scoring.normalizers import Normalizer, normalizer_of
from whisperq.scoring.robustness import SPEECH, WORDLESS, Symptoms, judge, symptoms
from whisperq.settings import Context, NormalizerName

TEXTS, SOUNDS = "heard.jsonl", "sounds"


@dataclass(frozen=True)
class Recording:
    name: str
    kind: str
    text: str  # the reference; no word where nobody speaks
    samples: np.ndarray  # float32 (samples,)


@dataclass(frozen=True)
class System:
    """Hypotheses of one of the two models, recording by recording."""

    recordings: list[Recording]
    texts: list[str]
    timed: list[list[Segment]] | None  # None: the model knows no times
    symptoms: list[Symptoms]
    how: Described


def robustness(
    model: Path,
    floats: Path,
    test: Sequence[Source],
    normalizer: NormalizerName,
    out: Path,
    config: RobustnessConfig,
    context: Context,
) -> artifact.Artifact:
    """model: the quantized one; floats: what it was made from; `normalizer` counts words of sets that name none.

    Writes robustness.json, robustness.md, heard.jsonl with all texts, and sounds/. Raises UsageError in a task of
    several processes and for sets of several normalisers, InputError for models that do not belong together and for
    sets without a usable recording.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("whisperq robustness works in one process; start it without torchrun, or as one task")
    lists = {s.name: read_all([s], config.skip_bad) for s in test}
    inputs: dict[str, dict[str, str]] = {"model": artifact.reference(model), "float": artifact.reference(floats)}
    sealed = artifact.load(model, "quantized")
    if sealed.inputs["model"]["sha256"] != inputs["float"]["sha256"]:
        raise InputError(f"{model} was made from another model than {floats}")
    for group in lists.values():
        require_texts(group.lists[0].utterances[: config.limit], "robustness (an empty transcript of speech is one)")
    inputs |= {f"test {name}": group.reference for name, group in lists.items()}
    utterances = [u for group in lists.values() for u in group.lists[0].utterances[: config.limit]]
    rule = one_normalizer(test, normalizer, "whisperq robustness")
    settings = context.settings(config, normalizer=rule)
    with artifact.create(out, "robustness", "robustness", settings, inputs, context.force) as draft:
        a = listen(floats, replace(config, runtime="float"), context, rule, utterances)
        b = listen(model, config, context, rule, utterances, a.recordings)
        write_sounds(a.recordings, a.how["sampling_rate"], draft.folder)
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in texts_of(a, b))
        (draft.folder / TEXTS).write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
        found = judge([r.kind for r in a.recordings], a.symptoms, b.symptoms)
        results: Robustness = {"a": a.how, "b": b.how, "normalizer": rule, "symptoms": found}
        draft.results |= results
        (draft.folder / "robustness.json").write_text(json.dumps(artifact.plain(results), indent=1) + "\n")
        title = f"# What {markdown_text(model.resolve().name)} does where word errors do not look\n\n"
        text = title + markdown(robustness_tables(results))
        (draft.folder / "robustness.md").write_text(text, encoding="utf-8", errors="backslashreplace")
    return artifact.load(out)


def listen(
    folder: Path,
    config: RobustnessConfig,
    context: Context,
    rule: str,
    utterances: Sequence[Any],
    recordings: list[Recording] | None = None,
) -> System:
    """`recordings`: those of the other model; for the first model they are read and made."""
    with open_runtime(folder, config, context, config.skip_bad) as opened:
        say_how(opened.runtime)
        normalize = normalizer_of(rule, opened.processor.tokenizer)
        recordings = recordings or list(gathered(opened, utterances, normalize, config, context.seed))
        plain = transcripts(opened, opened.rules, recordings, config.batch_size)
        timed = None
        if isinstance(opened.rules, Rules) and opened.rules.knows_times:
            rules = with_times(opened.rules, opened.loader.codec)
            timed = transcripts(opened, rules, recordings, config.batch_size)
        how: Described = {
            "model": str(folder), "runtime": opened.runtime.name, "device": opened.loader.device,
            "sampling_rate": opened.loader.extractor.sampling_rate,
        }  # fmt: skip
    say_left_out(sorted(opened.loader.skipped))
    texts = [" ".join(segment.text for segment in segments) for segments in plain]
    return System(recordings, texts, timed, examine(recordings, texts, timed, normalize), how)


def gathered(
    opened: Opened, utterances: Sequence[Any], normalize: Normalizer, config: RobustnessConfig, seed: int
) -> Iterator[Recording]:
    """Listed ones first, as those with speech lend their voices to the noise. Raises InputError where there is none."""
    loaded = [(u, samples) for u in utterances if (samples := opened.loader.audio(u)) is not None]
    if not loaded:
        raise InputError("the test sets have no usable recording")
    listed = [Recording(u.id, SPEECH if normalize(u.text or "") else WORDLESS, u.text or "", s) for u, s in loaded]
    yield from listed
    voices = [r.samples for r in listed if r.kind == SPEECH] or [r.samples for r in listed]
    rate = opened.loader.extractor.sampling_rate
    for sound in make_sounds(config.sounds, rate, voices, seed):
        yield Recording(sound.name, sound.kind, "", sound.samples)


def transcripts(
    opened: Opened, rules: AnyRules, recordings: Sequence[Recording], batch_size: int
) -> list[list[Segment]]:
    """The segments of each recording."""
    pieces = [p for i, r in enumerate(recordings) for p in cut(i, r.samples, opened.loader.extractor)]
    found: list[list[Segment]] = [[] for _ in recordings]
    transcribed = transcribe_pieces(opened.runtime, opened.loader, rules, pieces, batch_size)
    for piece, segments in track(transcribed, len(pieces), "robustness", "pieces"):
        found[piece.recording] += segments
    return found


def examine(
    recordings: Sequence[Recording], texts: Sequence[str], timed: list[list[Segment]] | None, normalize: Normalizer
) -> list[Symptoms]:
    spans = [[(s.start, s.end) for s in segments] for segments in timed] if timed else [None] * len(texts)
    triples = zip(recordings, texts, spans, strict=True)
    return [symptoms(text, recording.text, normalize, times) for recording, text, times in triples]


def texts_of(a: System, b: System) -> Iterator[dict[str, Any]]:
    """One line for each recording with the texts and symptoms of both models; a is the float one."""
    for i, recording in enumerate(a.recordings):
        line: dict[str, Any] = {"id": recording.name, "kind": recording.kind, "text": recording.text}
        for name, system in (("float", a), ("quantized", b)):
            times = {"segments": [asdict(s) for s in system.timed[i]]} if system.timed else {}
            line[name] = {"pred_text": system.texts[i], **times, **asdict(system.symptoms[i])}
        yield line


def write_sounds(recordings: Sequence[Recording], rate: int, folder: Path) -> None:
    """sounds/NAME.flac and the utterance list sounds.jsonl, whose texts are empty."""
    made = [r for r in recordings if r.kind in MAKERS]
    (folder / SOUNDS).mkdir()
    for one in made:
        soundfile.write(folder / SOUNDS / f"{one.name}.flac", one.samples, rate, subtype="PCM_16")
    entries = (
        {"id": r.name, "audio_filepath": f"{SOUNDS}/{r.name}.flac", "duration": len(r.samples) / rate, "text": ""}
        for r in made
    )
    (folder / f"{SOUNDS}.jsonl").write_text("".join(f"{json.dumps(e)}\n" for e in entries))
