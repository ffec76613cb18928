"""Greedy decoding, once for every runtime; at a temperature tokens are drawn instead."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from whisperq.data.tokens import Codec
from whisperq.errors import InputError
from whisperq.runtime.bounds import bounds_of
from whisperq.runtime.detection import NOTHING, Question, Start, start
from whisperq.runtime.interface import Runtime
from whisperq.runtime.loops import LOOK, looping
from whisperq.runtime.padding import guarded
from whisperq.runtime.timestamps import restrict_times


@dataclass(frozen=True)
class Rules:
    """What decoding must know of a model besides its logits."""

    prompt: tuple[int, ...]
    end: int
    max_tokens: int  # prompt included
    suppressed: tuple[int, ...] = ()  # never written
    suppressed_first: tuple[int, ...] = ()  # never written first
    times: range = range(0)  # ids of the times that are to be written; none: the prompt ends in <|notimestamps|>
    knows_times: bool = False  # whether the model was trained to write them
    loop_limit: int | None = None  # how often an n-gram may come in a row; then the utterance is at its end
    tokens_per_second: float | None = None  # of sound, that may be written; None: as many as the decoder takes
    languages: tuple[int, ...] = ()  # the prompt's second token is the likeliest of these; none: it is known

    def read(self, runtime: Runtime, features: Tensor) -> list[list[int]]:
        """Tokens of each utterance."""
        return guarded(runtime, features, lambda some, _: greedy(runtime, some, self), self.words)

    def words(self, tokens: list[int]) -> list[int]:
        """`tokens` without the tokens of times."""
        return [token for token in tokens if token not in self.times]

    def bounds(self, features: Tensor) -> list[int] | None:
        """The most new tokens of each utterance of features (batch, mel bins, frames); None: as many as it likes."""
        if self.tokens_per_second is None:
            return None
        return bounds_of(features, self.tokens_per_second, self.max_tokens - len(self.prompt))

    def cut_short(self, features: Tensor, rows: Sequence[Sequence[int]]) -> list[bool]:
        """Of which utterances the tokens, without prompt and end, came to their bound before they came to an end."""
        bounds = self.bounds(features)
        return [bounds is not None and len(row) >= bounds[i] for i, row in enumerate(rows)]


@dataclass(frozen=True)
class Draws:
    """Tokens are drawn from softmax(logits / temperature), each utterance's with its own numbers."""

    temperature: float
    numbers: Sequence[np.random.Generator]


@dataclass(frozen=True)
class Written:
    """What decoding one window gives; mean_logprob: natural, of all tokens and the end, after suppression."""

    ids: list[int]
    mean_logprob: float
    start: Start  # one row's


def make_rules(codec: Codec, generation_config: Any) -> Rules:
    """Prompt, and suppressed tokens as `generate` reads them; the only limit is the decoder's own length.

    Who knows times: the checkpoints of OpenAI name the heads that follow the audio (`alignment_heads`), and so does
    what is quantized or exported from them. A student made here has lost these heads; `trained_with_times` says
    whether its own training wrote some.
    """
    signs = (getattr(generation_config, name, None) for name in ("alignment_heads", "trained_with_times"))
    languages = tuple(codec.languages.values())
    return Rules(
        codec.prompt_in(next(iter(languages), None)),
        codec.end,
        codec.max_tokens,
        tuple(generation_config.suppress_tokens or ()),
        tuple(generation_config.begin_suppress_tokens or ()),
        knows_times=bool(codec.times) and any(signs),
        languages=languages if codec.open_language and len(languages) > 1 else (),
    )


def with_times(rules: Rules, codec: Codec) -> Rules:
    """A copy of the rules with which times are written: the prompt loses <|notimestamps|>."""
    return replace(rules, prompt=rules.prompt[:-1], times=codec.times)


@torch.inference_mode()
def greedy(
    runtime: Runtime, features: Tensor, rules: Rules, log_probabilities: Tensor | None = None
) -> list[list[int]]:
    """features (batch, mel bins, frames) -> each utterance's new tokens, without prompt and end.

    To `log_probabilities` (batch,), where given, is added the natural logarithm of each token's probability, that of
    the end included: openai/whisper's `sum_logprobs`, of the distribution that is left after suppression.
    """
    state = runtime.encode(features)
    logits = start(runtime, state, rules, features).logits
    return decode(runtime, state, logits, rules, rules.bounds(features), log_probabilities)


@torch.inference_mode()
def write(
    runtime: Runtime,
    features: Tensor,
    rules: Rules,
    question: Question = NOTHING,
    known: Sequence[int | None] = (),
    draws: Draws | None = None,
) -> list[Written]:
    """Decode windows greedily, or by drawing with `draws`; also gives the figures that tell success from failure.

    features (batch, mel bins, frames); `question` and `known` are arguments of `start`.
    """
    state = runtime.encode(features)
    begun = start(runtime, state, rules, features, question, known)
    sums = torch.zeros(len(features), dtype=torch.float64, device=begun.logits.device)
    rows = decode(runtime, state, begun.logits, rules, rules.bounds(features), sums, draws)
    triples = zip(rows, sums.tolist(), begun.rows(), strict=True)
    return [Written(ids, total / (len(ids) + 1), one) for ids, total, one in triples]


def decode(
    runtime: Runtime,
    state: object,
    logits: Tensor,
    rules: Rules,
    bounds: Sequence[int] | None = None,
    log_probabilities: Tensor | None = None,
    draws: Draws | None = None,
) -> list[list[int]]:
    """Decode from the logits (batch, vocabulary) behind the prompt until every utterance has ended.

    bounds: the most tokens that each may write; None: what the decoder takes.
    """
    device = logits.device
    done = torch.zeros(len(logits), dtype=torch.bool, device=device)
    suppressed = torch.tensor(rules.suppressed, dtype=torch.long, device=device)
    suppressed_first = torch.tensor(rules.suppressed_first, dtype=torch.long, device=device)
    limits = None if bounds is None else torch.tensor(bounds, device=device)
    written: list[Tensor] = []
    for step in range(rules.max_tokens - len(rules.prompt)):
        if step:
            logits = runtime.decode_step(written[-1][:, None], state)
        finite(logits)
        suppress(logits, suppressed)
        if step == 0:
            suppress(logits, suppressed_first)
        if rules.times:
            restrict_times(logits, written, rules.times, rules.end)
        best = (drawn(logits, draws) if draws else logits.argmax(dim=-1)).masked_fill(done, rules.end)
        if log_probabilities is not None:
            log_probabilities += _log_probability(logits, best).masked_fill(done, 0.0)
        written.append(best)
        done |= best == rules.end
        if limits is not None:
            done |= limits <= step + 1
        if rules.loop_limit and step % LOOK == LOOK - 1:
            done |= looping(written, done, rules.loop_limit)
        if bool(done.all()):
            break
    return [_until_end(row, rules.end) for row in torch.stack(written, dim=1).tolist()]


def drawn(logits: Tensor, draws: Draws) -> Tensor:
    """logits (batch, vocabulary) -> a token of each row, at a place in the sum of all probabilities."""
    sums = (logits.double() / draws.temperature).softmax(dim=-1).cumsum(dim=-1)
    places = torch.tensor([numbers.random() for numbers in draws.numbers], dtype=torch.float64, device=logits.device)
    return torch.searchsorted(sums, places[:, None] * sums[:, -1:], right=True).squeeze(1)


def finite(logits: Tensor) -> Tensor:
    """The logits (..., vocabulary) unchanged. Raises InputError where a row's greatest value is not finite."""
    if not logits.amax(dim=-1).isfinite().all():
        raise InputError(
            "decoding stopped: the model's logits are not finite; its weights are damaged, or too large for the number "
            "format (--dtype float32 is the widest)"
        )
    return logits


def suppress(logits: Tensor, tokens: Tensor) -> None:
    """logits (batch, vocabulary), in place; tokens (some,)."""
    # WhisperConfig suppresses ids of OpenAI's vocabulary by default, also where the vocabulary is smaller. To
    # openai/whisper -1 stands for its usual ones, to `generate` for nothing: it is no token, and not the last one.
    logits.index_fill_(1, tokens[(tokens >= 0) & (tokens < logits.shape[-1])], -torch.inf)


def _log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """logits (batch, vocabulary), tokens (batch,) -> (batch,)."""
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(dim=-1)


def _until_end(row: list[int], end: int) -> list[int]:
    return row[: row.index(end)] if end in row else row
