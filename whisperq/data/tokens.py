"""Text to Whisper's tokens and back.

Decoder sequence: <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|> text <|endoftext|>.
The text starts with a space, as Whisper writes it. Teacher-forced, the decoder sees all but the last
token and is to predict all but the first. A model that writes times is prompted without <|notimestamps|>,
and its text stands between them: <|0.00|> text <|2.40|><|2.40|> text <|3.90|>.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase, WhisperProcessor, WhisperTokenizer

from whisperq.data.languages import code_of, ids_of, languages_of
from whisperq.data.timed_words import Segment
from whisperq.errors import InputError

IGNORED = -100  # cross-entropy's mark for padding
TIME_STEP = 0.02  # seconds between two of the vocabulary's times
TIMES = 1501  # <|0.00|> to <|30.00|>: openai/whisper's; a model of a shorter window may name fewer
NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # the same token's newer and older name
MULTILINGUAL_VOCABULARY = 51865  # openai/whisper: smaller ones are English only


@dataclass(frozen=True)
class Tokens:
    """Padded decoder sequences: inputs and labels (batch, tokens), lengths (batch)."""

    inputs: Tensor
    labels: Tensor  # IGNORED where padded
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Codec:
    """A model's tokenizer with its prompt."""

    tokenizer: WhisperTokenizer
    prompt: tuple[int, ...]
    end: int
    max_tokens: int  # what the decoder takes, prompt included
    times: range = range(0)  # ids of <|0.00|>, <|0.02|>, ...; none where the vocabulary has none
    languages: Mapping[str, int] = field(default_factory=dict)  # code -> token; none of an English-only model
    task: int | None = None  # its token, where there are languages
    no_speech: int | None = None  # <|nospeech|>, that the model was trained to begin with where nobody speaks

    @property
    def open_language(self) -> bool:
        """Whether nobody said which language it is, so that each recording's own is to be found out."""
        return bool(self.languages) and self.task not in self.prompt

    def prompt_in(self, language: int | None) -> tuple[int, ...]:
        """The prompt, with this language's token where nobody said which language it is."""
        if language is None or self.task is None or not self.open_language:
            return self.prompt
        return (self.prompt[0], language, self.task, self.prompt[-1])

    def words(self, text: str) -> list[int]:
        """A text's own tokens; none where nothing is said. What spells a control token or a time is text as well."""
        text, (plain, added) = whole_characters(text).strip(), self._plain
        return [added.get(i, i) for i in plain.encode(f" {text}").ids] if text else []

    @cached_property
    def _plain(self) -> tuple[Tokenizer, dict[int, int]]:
        """The tokenizer without <|endoftext|>, <|0.00|> and their like; its ids of added words -> the model's."""
        whole = self.tokenizer.backend_tokenizer
        plain = Tokenizer(whole.model)
        plain.pre_tokenizer = whole.pre_tokenizer
        if whole.normalizer is not None:
            plain.normalizer = whole.normalizer
        known = self.tokenizer.added_tokens_decoder
        words = {i: word for i, word in known.items() if not word.special and not word.content.startswith("<|")}
        plain.add_tokens(list(words.values()))
        return plain, {index: i for i, word in words.items() if (index := plain.token_to_id(word.content)) is not None}

    def encode(self, text: str, language: int | None = None) -> list[int]:
        """The whole sequence, prompt to <|endoftext|>; where nothing is said, these alone. language: as `prompt_in`."""
        return [*self.prompt_in(language), *self.words(text), self.end]

    def encode_timed(self, segments: Sequence[Segment]) -> list[int]:
        """The whole sequence with each segment between its times, seconds from the window's start."""
        ids = list(self.prompt[:-1])
        for segment in segments:
            if words := self.words(segment.text):
                ids += [self._time(segment.start), *words, self._time(segment.end)]
        return [*ids, self.end]

    def _time(self, seconds: float) -> int:
        return self.times[round(seconds / TIME_STEP)]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def labels(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Text of each token, control tokens too; a space is shown as an open box."""
        return tuple(self.tokenizer.decode([i]).replace(" ", "\u2423") for i in ids)

    def segments(self, ids: Sequence[int], start: float, seconds: float) -> list[Segment]:
        """Words and times of a piece that starts at `start` s of its recording and lasts `seconds`.

        A time ends the words before it; the piece's end, those that none ends. Words to which the times leave
        no room, as when they lie in the silence behind the piece, join those before them.
        """
        found: list[Segment] = []
        begin, words = 0.0, []
        for token in [*ids, self.end]:
            if token not in self.times and token != self.end:
                words.append(token)
                continue
            moment = seconds if token == self.end else min(TIME_STEP * (token - self.times.start), seconds)
            if text := self.decode(words):
                if begin < moment or not found:
                    begin = begin if begin < moment else 0.0
                    found.append(Segment(start + begin, start + moment, text))
                else:
                    found[-1] = replace(found[-1], text=f"{found[-1].text} {text}")
            begin, words = moment, []
        return found

    def check(self, sequence: Sequence[int], origin: str) -> None:
        """Raises InputError for a text that is longer than the decoder takes: it is never cut silently."""
        if not self.fits(sequence):
            raise InputError(
                f"{origin}: its text has {len(sequence)} tokens, but the decoder takes {self.max_tokens + 1}"
            )

    def fits(self, sequence: Sequence[int]) -> bool:
        return len(sequence) - 1 <= self.max_tokens

    def batch(self, texts: list[str], origins: list[str], languages: Sequence[int | None] = ()) -> Tokens:
        """Tokens of a batch of texts; languages: of each, as `prompt_in`. Raises InputError as `check` does."""
        sequences = [self.encode(*pair) for pair in zip(texts, languages or [None] * len(texts), strict=True)]
        for sequence, origin in zip(sequences, origins, strict=True):
            self.check(sequence, origin)
        return self.pad(sequences)

    def pad(self, sequences: Sequence[Sequence[int]]) -> Tokens:
        """Pad sequences to one batch; labels are the inputs shifted by one token."""
        longest = max(map(len, sequences)) - 1
        inputs = torch.full((len(sequences), longest), self.end)
        labels = torch.full((len(sequences), longest), IGNORED)
        for row, sequence in enumerate(sequences):
            inputs[row, : len(sequence) - 1] = torch.tensor(sequence[:-1])
            labels[row, : len(sequence) - 1] = torch.tensor(sequence[1:])
        return Tokens(inputs, labels, tuple(len(s) - 1 for s in sequences))


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each lone half of a surrogate pair, which JSON allows and tokenizers do not.

    As openai/whisper's tokenizer has it.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Described(Protocol):
    """A network, or what stands for one that is no PyTorch module."""

    @property
    def config(self) -> Any: ...
    @property
    def generation_config(self) -> Any: ...


def make_codec(processor: WhisperProcessor, model: Described, language: str | None, task: str) -> Codec:
    """The prompt of this model. Raises InputError for a language or task that it does not know."""
    tokenizer, generation = processor.tokenizer, model.generation_config
    multilingual = getattr(generation, "is_multilingual", None)
    if multilingual is None:
        multilingual = model.config.vocab_size >= MULTILINGUAL_VOCABULARY
    names = ["<|startoftranscript|>"]
    if multilingual and language is not None:
        names += [f"<|{code_of(language, tokenizer)}|>", f"<|{task}|>"]
    elif not multilingual and language is not None and code_of(language, tokenizer) != "en":
        raise InputError(f"this model is English only, but the language asked for is {language!r}")
    elif not multilingual and task == "translate":
        raise InputError("this model is English only, and cannot translate; take a multilingual one")
    names.append("<|notimestamps|>")
    ids: list[int] = []
    for name in names:
        if (index := named(tokenizer, name)) is None:
            raise InputError(f"this model's tokenizer has no token {name}; check language and task")
        ids.append(index)
    return Codec(
        tokenizer,
        tuple(ids),
        tokenizer.eos_token_id,
        model.config.max_target_positions,
        time_ids(tokenizer, ids[-1] + 1, model.config.vocab_size),
        languages_of(tokenizer) if multilingual else {},
        named(tokenizer, f"<|{task}|>") if multilingual else None,
        next((index for name in NO_SPEECH if (index := named(tokenizer, name)) is not None), None),
    )


def named(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    """The id of a token; unknown ones would get another's."""
    index = tokenizer.convert_tokens_to_ids(name)
    return index if isinstance(index, int) and tokenizer.convert_ids_to_tokens(index) == name else None


def time_ids(tokenizer: PreTrainedTokenizerBase, first: int, vocabulary: int) -> range:
    """The ids of <|0.00|>, <|0.02|>, ... by their names; `first` is the id behind <|notimestamps|>, where they begin.

    What somebody has added behind them is no time. Tokenizers of English-only models name none of them.
    """
    names = [f"<|{TIME_STEP * i:.2f}|>" for i in range(min(TIMES, vocabulary - first))]
    if first >= len(tokenizer):
        return range(first, first + len(names))
    found = ids_of(tokenizer, names)
    count = next((i for i, token in enumerate(found) if token != first + i), len(names))
    return range(first, first + count)
