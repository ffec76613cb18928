"""Which utterances are trained on at all, decided from what the index and the headers say."""

from collections.abc import Sequence

import numpy as np

from whisperq.data.audio import audio_seconds
from whisperq.data.batches import Loader
from whisperq.data.index import Index
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError
from whisperq.training_options import TrainingConfig

TOO_LONG = "longer than the window"


class Filters:
    """Filters of training utterances, and how many each has dropped, by reason."""

    def __init__(self, loader: Loader, config: TrainingConfig) -> None:
        self.loader, self.config = loader, config
        self.dropped: dict[str, int] = {}

    def apply(self, utterances: Sequence[Utterance], facts: Index) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the utterances that stay, and the seconds of all: packing needs each, a header has it.

        Raises InputError for an utterance longer than the model's window; skip_bad drops it.
        """
        numbers, seconds = np.arange(len(facts)), facts.duration.astype(np.float64)
        if self.config.max_label_wer is not None:
            # False of NaN, a text that nobody guessed. The index has 7 digits, so that 7 % may be 7.0000002.
            above = 100 * facts.label_wer > self.config.max_label_wer + 1e-4
            self._drop(f"label WER above {self.config.max_label_wer:g} %", int(above.sum()))
            numbers = numbers[~above]
        if self.config.pack:
            numbers = self._measure(utterances, numbers, seconds)
        long = {n for n in numbers[seconds[numbers] > self.loader.window_seconds].tolist() if self._long(utterances[n])}
        self._drop(TOO_LONG, len(long))
        return (numbers[~np.isin(numbers, list(long))] if long else numbers), seconds

    def nothing_left(self) -> InputError:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.dropped.items())
        return InputError(f"nothing is left of the training data ({reasons or 'its sources are empty'})")

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def _measure(self, utterances: Sequence[Utterance], numbers: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """Fill in what no list said; leaves out what cannot be opened, if skip_bad lets it."""
        unusable = set()
        for number in numbers[np.isnan(seconds[numbers])].tolist():
            try:
                seconds[number] = audio_seconds(utterances[number])
            except InputError as error:
                self.loader.refuse(utterances[number], str(error))
                unusable.add(number)
        return numbers[~np.isin(numbers, list(unusable))] if unusable else numbers

    def _long(self, utterance: Utterance) -> bool:
        """Whether the recording exceeds the model's window. Unreadable audio is refused later, when it is loaded."""
        try:
            seconds = audio_seconds(utterance)
        except InputError:
            return False
        if seconds <= self.loader.window_seconds:
            return False
        if not self.config.skip_bad:
            raise InputError(self.loader.too_long(utterance, seconds))
        return True
