"""A teacher's transcript of each utterance in an append-only journal; a killed run resumes after its last full line.

    NAME-partial/labels-<rank>.jsonl  what one process has done, a line for each utterance

A line names its utterance by number, its place in the data, so that any number of processes can go on with it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whisperq.data.batches import Loader
from whisperq.data.utterance import Utterance
from whisperq.jobs.journal import Journal, appending, whole_lines
from whisperq.runtime.decoding import Rules
from whisperq.runtime.fallback import ONCE, Care, Decoding
from whisperq.runtime.interface import Runtime
from whisperq.runtime.padding import again_in_full

UNREADABLE, TOO_LONG, UNFINISHED = "unreadable", "longer than the window", "unfinished"


@dataclass(frozen=True)
class Label:
    """Result of one utterance: a text, or why there is none.

    avg_logprob: as in openai/whisper, the sum of the natural log-probabilities of the tokens and of the end, after
    suppression, over their number.
    left_out: UNREADABLE; TOO_LONG, no window of a training; UNFINISHED, a text that filled the decoder, or came to
    the bound of its length, before its end came: as a rule one that runs in circles.
    again: windows that --padding short decoded again in full, of the whole batch, on the line of its last.
    """

    number: int
    seconds: float = 0.0  # of audio
    text: str = ""
    avg_logprob: float = 0.0
    left_out: str | None = None
    again: int = 0


def label_batch(
    runtime: Runtime, loader: Loader, rules: Rules, utterances: Sequence[Utterance], first: int, care: Care = ONCE
) -> list[Label]:
    """The labels of a batch whose first utterance has the number `first`: with the texts that `transcribe` gives."""
    rate, window = loader.extractor.sampling_rate, loader.extractor.n_samples
    labels, usable = [], {}
    for number, utterance in enumerate(utterances, first):
        audio = loader.audio(utterance)
        if audio is None:
            labels.append(Label(number, left_out=UNREADABLE))
        elif len(audio) > window:
            labels.append(Label(number, len(audio) / rate, left_out=TOO_LONG))
        else:
            usable[number] = audio
    if not usable:
        return labels
    features = loader.features(list(usable.values()))
    decoding = Decoding(runtime, rules, loader.codec.decode, care)
    room = rules.max_tokens - len(rules.prompt)
    before = again_in_full(runtime)
    found = decoding.windows(features, list(usable.values()))
    short = rules.cut_short(features, [one.ids for one in found])
    for (number, audio), one, cut in zip(usable.items(), found, short, strict=True):
        why = UNFINISHED if cut or len(one.ids) == room else None
        labels.append(Label(number, len(audio) / rate, loader.codec.decode(one.ids), one.mean_logprob, why))
    labels[-1] = replace(labels[-1], again=again_in_full(runtime) - before)
    return labels


class LabelBook(Journal):
    """The labels so far, beside the place where the finished ones will lie."""

    computation = ("batch_size",)

    def __init__(self, out: Path, config: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(out, config, inputs, "labels", "labels-*.jsonl")

    def labels(self) -> dict[int, Label]:
        """The labels on all complete lines, by utterance number."""
        return {label.number: label for path in self.files() for label in whole_lines(path, Label)[0]}

    def writing(self, rank: int) -> AbstractContextManager[Callable[[Sequence[Label]], None]]:
        """Context manager that gives one process a function which appends labels to its file (see `appending`)."""
        return appending(self.folder / f"labels-{rank}.jsonl", Label)
