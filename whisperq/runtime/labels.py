"""What a teacher hears in each utterance, kept line by line: whoever is killed goes on after the last whole line.

    NAME-partial/settings.json        the settings and inputs that the labels belong to
    NAME-partial/labels-<rank>.jsonl  what one process has done, a line for each utterance

A line names its utterance by number, its place in the data, so that any number of processes can go on with it.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from whisperq.data.batches import Loader
from whisperq.data.features import log_mel
from whisperq.data.utterance import Utterance
from whisperq.disk import replace
from whisperq.errors import InputError, UsageError, WhisperqError
from whisperq.runtime.decoding import Rules, greedy
from whisperq.runtime.interface import Runtime

SETTINGS = "settings.json"
UNREADABLE, TOO_LONG, UNFINISHED = "unreadable", "longer than the window", "unfinished"


@dataclass(frozen=True)
class Label:
    """What became of an utterance: a text, or why there is none.

    avg_logprob: as in openai/whisper, the sum of the natural log-probabilities of the tokens and of the end, after
    suppression, over their number.
    left_out: UNREADABLE; TOO_LONG, no window of a training; UNFINISHED, a text that filled the decoder before its
    end came, as a rule one that runs in circles.
    """

    number: int
    seconds: float = 0.0  # of audio
    text: str = ""
    avg_logprob: float = 0.0
    left_out: str | None = None


def label_batch(
    runtime: Runtime, loader: Loader, rules: Rules, utterances: Sequence[Utterance], first: int
) -> list[Label]:
    """The labels of a batch whose first utterance has the number `first`: texts as `transcribe` hears them."""
    rate, window = loader.extractor.sampling_rate, loader.extractor.n_samples
    labels, heard = [], {}
    for number, utterance in enumerate(utterances, first):
        audio = loader.audio(utterance)
        if audio is None:
            labels.append(Label(number, left_out=UNREADABLE))
        elif len(audio) > window:
            labels.append(Label(number, len(audio) / rate, left_out=TOO_LONG))
        else:
            heard[number] = audio
    if not heard:
        return labels
    features = log_mel(list(heard.values()), loader.extractor, loader.device)
    sums = torch.zeros(len(features), dtype=torch.float64, device=features.device)
    rows = greedy(runtime, features, rules, sums)
    room = rules.max_tokens - len(rules.prompt)
    for (number, audio), ids, total in zip(heard.items(), rows, sums.tolist(), strict=True):
        why = UNFINISHED if len(ids) == room else None
        labels.append(Label(number, len(audio) / rate, loader.codec.decode(ids), total / (len(ids) + 1), why))
    return labels


class LabelBook:
    """The labels so far, beside the place where the finished ones will lie."""

    def __init__(self, out: Path, config: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> None:
        self.folder = out.with_name(f"{out.name}-partial")
        hashes = {f"input {role}": entry["sha256"] for role, entry in inputs.items()}
        self.settings = json.loads(json.dumps({**config, **hashes}))  # as they will be read back

    def check(self) -> None:
        """Raises UsageError where the labels so far belong to another command, InputError where nobody can tell.

        --skip-bad may be added: what was labelled without it is the same with it.
        """
        if (old := self._read_settings()) is None:
            return
        if old.get("skip_bad") is False:
            old["skip_bad"] = self.settings["skip_bad"]
        keys = sorted(k for k in {*old, *self.settings} if old.get(k) != self.settings.get(k))
        if keys:
            raise UsageError(
                f"{self.folder} holds unfinished labels of another command (it differs in {', '.join(keys)}); "
                "repeat that one, give --force to begin anew, or --out to write elsewhere"
            )

    def prepare(self) -> None:
        """Make the folder ready for lines, without another command's; for one of the processes to do."""
        try:
            self.check()
        except WhisperqError:
            self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        replace(self.folder / SETTINGS, json.dumps(self.settings, indent=2) + "\n")

    def _read_settings(self) -> dict[str, Any] | None:
        """None where there is nothing that they could decide about."""
        if not self._files():
            return None
        try:
            return dict(json.loads((self.folder / SETTINGS).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.folder} holds labels, but its {SETTINGS} cannot be read; give --force to begin anew"
            ) from error

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("labels-*.jsonl"))

    def labels(self) -> dict[int, Label]:
        """By number, all that are whole."""
        found: dict[int, Label] = {}
        for path in self._files():
            found |= {label.number: label for label in _whole_lines(path)[0]}
        return found

    @contextmanager
    def writing(self, rank: int) -> Iterator[Callable[[Sequence[Label]], None]]:
        """A function that keeps labels: when it returns they are on the disk. A torn last line is dropped before."""
        path = self.folder / f"labels-{rank}.jsonl"
        if path.exists():
            os.truncate(path, _whole_lines(path)[1])
        with open(path, "a", encoding="utf-8", newline="\n") as file:

            def keep(labels: Sequence[Label]) -> None:
                file.writelines(json.dumps(asdict(label), ensure_ascii=False) + "\n" for label in labels)
                file.flush()
                os.fsync(file.fileno())

            yield keep

    def remove_leftovers(self) -> None:
        """Of this very command, killed between its last file and its end."""
        with suppress(OSError, ValueError):
            if json.loads((self.folder / SETTINGS).read_text()) == self.settings:
                self.remove()

    def remove(self) -> None:
        """What is ours of the folder, and the folder where that was all."""
        for path in (*self._files(), self.folder / SETTINGS):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


def _whole_lines(path: Path) -> tuple[list[Label], int]:
    """The labels up to the first line that is torn or, after a failure of the machine, damaged; and their bytes."""
    labels: list[Label] = []
    size = 0
    for line in path.read_bytes().split(b"\n")[:-1]:  # behind the last newline lies nothing, or a torn line
        try:
            labels.append(Label(**json.loads(line)))
        except (ValueError, TypeError):
            break
        size += len(line) + 1
    return labels, size
