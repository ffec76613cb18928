"""What a model predicts at <|startoftranscript|>, before any text: the language spoken, and whether anybody speaks.

    P(language) = softmax of the logits over the languages' tokens alone
    P(no speech) = softmax over the whole vocabulary, at <|nospeech|>

as openai/whisper reads both. Where neither is asked, the whole prompt is one step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from whisperq.runtime.interface import Runtime


class Prompted(Protocol):
    """`decoding.Rules`, as far as it is needed here."""

    @property
    def prompt(self) -> tuple[int, ...]: ...
    @property
    def languages(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Question:
    """What is asked: the probability of this token, <|nospeech|>, and which of these languages' tokens it is."""

    no_speech: int | None = None
    languages: tuple[int, ...] = ()


NOTHING = Question()


@dataclass(frozen=True)
class Start:
    """After the prompt: logits (batch, vocabulary), or (vocabulary,) of one row.

    The others are (batch,), or one row's numbers: the likeliest language token, its probability, that
    of the language in the prompt, and that of no speech; None where nobody asked.
    """

    logits: Any
    language: Any = None
    probability: Any = None
    of_prompt: Any = None
    no_speech: Any = None

    def rows(self) -> Iterator["Start"]:
        """Each utterance's, as plain numbers, without logits."""
        asked = (self.language, self.probability, self.of_prompt, self.no_speech)
        lists = [[None] * len(self.logits) if one is None else one.tolist() for one in asked]
        for row in zip(*lists, strict=True):
            yield Start(None, *row)


def spoken(runtime: Runtime, rules: Prompted, features: Tensor) -> list[int]:
    """The language's token of each utterance of features (batch, mel bins, frames): the likeliest of the rules'."""
    if not rules.languages:
        return [rules.prompt[1]] * len(features)
    return start(runtime, runtime.encode(features), rules, features).language.tolist()


def start(
    runtime: Runtime,
    state: object,
    rules: Prompted,
    features: Tensor,
    question: Question = NOTHING,
    known: Sequence[int | None] = (),
) -> Start:
    """The prompt of every utterance, given to a fresh state; known: of each its language's token, or None."""
    prompts = torch.tensor([rules.prompt] * len(features), device=features.device)
    languages = list(rules.languages or question.languages)
    if question.no_speech is None and not languages:
        return Start(runtime.decode_step(prompts, state))
    logits = runtime.decode_step(prompts[:, :1], state)
    silence = None if question.no_speech is None else logits.softmax(dim=-1)[:, question.no_speech]
    if not languages:
        return Start(_rest(runtime, state, prompts, logits), no_speech=silence)
    probabilities = logits[:, languages].softmax(dim=-1)
    probability, place = probabilities.max(dim=-1)
    detected = torch.tensor(languages, device=place.device)[place]
    if rules.languages:
        given = torch.tensor([-1 if k is None else k for k in known or [None] * len(prompts)], device=detected.device)
        prompts[:, 1] = torch.where(given < 0, detected, given)
    at = torch.tensor([languages.index(token) for token in prompts[:, 1].tolist()], device=detected.device)
    of_prompt = probabilities.gather(1, at[:, None]).squeeze(1)
    return Start(_rest(runtime, state, prompts, logits), detected, probability, of_prompt, silence)


def _rest(runtime: Runtime, state: object, prompts: Tensor, logits: Tensor) -> Tensor:
    return runtime.decode_step(prompts[:, 1:], state) if prompts.shape[1] > 1 else logits
