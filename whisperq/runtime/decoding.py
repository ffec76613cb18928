"""Greedy decoding, once for every runtime."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from whisperq.data.tokens import Codec
from whisperq.errors import InputError
from whisperq.runtime.interface import Runtime
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

    def read(self, runtime: Runtime, features: Tensor) -> list[list[int]]:
        """Each utterance's tokens."""
        return guarded(runtime, features, lambda some, _: greedy(runtime, some, self), self.words)

    def words(self, tokens: list[int]) -> list[int]:
        """Without times."""
        return [token for token in tokens if token not in self.times]


def make_rules(codec: Codec, generation_config) -> Rules:
    """Prompt, and suppressed tokens as `generate` reads them; the only limit is the decoder's own length.

    Who knows times: the checkpoints of OpenAI name the heads that follow the audio (`alignment_heads`), and so does
    what is quantized or exported from them. A student made here has lost these heads; `trained_with_times` says
    whether its own training wrote some.
    """
    signs = (getattr(generation_config, name, None) for name in ("alignment_heads", "trained_with_times"))
    return Rules(
        codec.prompt,
        codec.end,
        codec.max_tokens,
        tuple(generation_config.suppress_tokens or ()),
        tuple(generation_config.begin_suppress_tokens or ()),
        knows_times=bool(codec.times) and any(signs),
    )


def with_times(rules: Rules, codec: Codec) -> Rules:
    """The same rules, but that times are written: the prompt loses <|notimestamps|>."""
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
    tokens = torch.tensor([rules.prompt] * len(features), device=features.device)
    done = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    suppressed = torch.tensor(rules.suppressed, dtype=torch.long, device=features.device)
    suppressed_first = torch.tensor(rules.suppressed_first, dtype=torch.long, device=features.device)
    written: list[Tensor] = []
    for step in range(rules.max_tokens - len(rules.prompt)):
        logits = finite(runtime.decode_step(tokens, state))
        suppress(logits, suppressed)
        if step == 0:
            suppress(logits, suppressed_first)
        if rules.times:
            restrict_times(logits, written, rules.times, rules.end)
        best = logits.argmax(dim=-1).masked_fill(done, rules.end)
        if log_probabilities is not None:
            log_probabilities += _log_probability(logits, best).masked_fill(done, 0.0)
        written.append(best)
        done |= best == rules.end
        if bool(done.all()):
            break
        tokens = best[:, None]
    return [_until_end(row, rules.end) for row in torch.stack(written, dim=1).tolist()]


def finite(logits: Tensor) -> Tensor:
    """The same (..., vocabulary). Raises InputError where a row's greatest value is not finite: it says nothing."""
    if not logits.amax(dim=-1).isfinite().all():
        raise InputError(
            "decoding stopped: the model's logits are not finite; its weights are damaged, or too large for the number "
            "format (--dtype float32 is the widest)"
        )
    return logits


def suppress(logits: Tensor, tokens: Tensor) -> None:
    """logits (batch, vocabulary), in place; tokens (some,)."""
    # WhisperConfig suppresses ids of OpenAI's vocabulary by default, also where the vocabulary is smaller.
    logits.index_fill_(1, tokens[tokens < logits.shape[-1]], -torch.inf)


def _log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """logits (batch, vocabulary), tokens (batch,) -> (batch,)."""
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(dim=-1)


def _until_end(row: list[int], end: int) -> list[int]:
    return row[: row.index(end)] if end in row else row
