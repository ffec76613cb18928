"""Failures noticed, and decoded again at a temperature, as users of openai/whisper know them.

    failed(w) = len(text) / len(zlib(text)) > 2.4, which a loop is, or mean log p(token) < -1, a guess
    silent(w) = P(no speech) > t and mean log p(token) < -1, or P(no speech) > (1 + t) / 2 and mean log p < -1/2

t is 0.6. openai/whisper has the first of the two, and writes "you" or "Thank you." in still rooms, with 0.8 to 0.95 and
-0.7 to -1; of a second of speech the probability was at most 0.76, with nearly 0 of ten seconds.

What failed is drawn at the temperatures 0.2, 0.4, ... 1 in turn until it does not fail; where all do, the likeliest
that is no loop is taken. The numbers for drawing follow from the seed and the window's samples, so that the same window
gives the same text in whatever batch it is.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from whisperq.errors import UsageError
from whisperq.runtime.decoding import Draws, Rules, Written, write
from whisperq.runtime.detection import NOTHING, Question
from whisperq.runtime.interface import Runtime
from whisperq.runtime.padding import guarded

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # behind 0, which is greedy
LOOPING = 2.4  # bytes over compressed bytes
GUESSED = -1.0  # nats a token
UNSURE = -0.5  # nats a token: enough where nearly certainly nobody speaks


@dataclass(frozen=True)
class Care:
    """What is done beside decoding each window once."""

    fallback: bool = False
    no_speech: float | None = None  # the probability above which nothing was said; None: nobody asks, nor for a level
    seed: int = 0

    @property
    def wanted(self) -> bool:
        return self.fallback or self.no_speech is not None

    def silent(self, written: Written) -> bool:
        """Whether what was written was said by nobody."""
        probability = written.start.no_speech
        if self.no_speech is None or probability is None:
            return False
        guessed = probability > self.no_speech and written.mean_logprob < GUESSED
        return guessed or (probability > (1 + self.no_speech) / 2 and written.mean_logprob < UNSURE)


ONCE = Care()


def careful(rules: object, fallback: bool, seed: int) -> Care:
    """Failures decoded again, where asked for. Raises UsageError for rules that are not greedy decoding."""
    if fallback and type(rules) is not Rules:
        raise UsageError("--temperature-fallback is for a Whisper that decodes greedily; leave it or --beams out")
    return Care(fallback, seed=seed)


@dataclass(frozen=True)
class Decoding:
    """All that decodes windows: `text` turns tokens to text."""

    runtime: Runtime
    rules: Rules
    text: Callable[[list[int]], str]
    care: Care
    question: Question = NOTHING

    def windows(
        self, features: Tensor, samples: Sequence[np.ndarray], known: Sequence[int | None] = ()
    ) -> list[Written]:
        """features (batch, mel bins, frames) of samples, (samples,) each; known: each one's language, where known."""
        known = known or [None] * len(samples)
        found = guarded(
            self.runtime,
            features,
            lambda some, rows: write(self.runtime, some, self.rules, self.question, [known[i] for i in rows]),
            lambda one: self.rules.words(one.ids),
        )
        if not self.care.fallback:
            return found
        tries: dict[int, list[Written]] = {i: [one] for i, one in enumerate(found) if self.failed(one)}
        for number, temperature in enumerate(TEMPERATURES):
            rows = [i for i in tries if self.failed(tries[i][-1])]
            if not rows:
                break
            numbers = [np.random.default_rng((self.care.seed, number, zlib.crc32(samples[i].tobytes()))) for i in rows]
            languages = [known[i] for i in rows]
            draws = Draws(temperature, numbers)
            again = write(self.runtime, features[rows], self.rules, self.question, languages, draws)
            for i, one in zip(rows, again, strict=True):
                tries[i].append(one)
        return [self.best(tries[i]) if i in tries else one for i, one in enumerate(found)]

    def failed(self, written: Written) -> bool:
        if self.care.silent(written):
            return False
        return self.loops(written) or written.mean_logprob < GUESSED

    def loops(self, written: Written) -> bool:
        return compression(self.text(written.ids)) > LOOPING

    def best(self, tries: Sequence[Written]) -> Written:
        """The one that did not fail, else the likeliest."""
        if not self.failed(tries[-1]):
            return tries[-1]
        sound = [one for one in tries if not self.loops(one)]
        return max(sound or tries, key=lambda one: one.mean_logprob)


def compression(text: str) -> float:
    """Bytes of UTF-8 over those that zlib makes of them."""
    content = text.encode("utf-8", "surrogatepass")
    return len(content) / len(zlib.compress(content))
