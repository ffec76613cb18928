"""Greedy decoding, once for every runtime."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whisperq.runtime.pytorch import Runtime


@dataclass(frozen=True)
class Rules:
    """What decoding must know of a model besides its logits."""

    prompt: tuple[int, ...]
    end: int
    max_tokens: int  # prompt included
    suppressed: tuple[int, ...] = ()  # never written
    suppressed_first: tuple[int, ...] = ()  # never written first


def make_rules(codec, generation_config) -> Rules:
    """Prompt, and suppressed tokens as `generate` reads them; the only limit is the decoder's own length."""
    return Rules(
        codec.prompt,
        codec.end,
        codec.max_tokens,
        tuple(generation_config.suppress_tokens or ()),
        tuple(generation_config.begin_suppress_tokens or ()),
    )


@torch.inference_mode()
def greedy(runtime: Runtime, features: Tensor, rules: Rules) -> list[list[int]]:
    """features (batch, mel bins, frames) -> each utterance's new tokens, without prompt and end."""
    state = runtime.encode(features)
    tokens = torch.tensor([rules.prompt] * len(features), device=features.device)
    done = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    written: list[Tensor] = []
    for step in range(rules.max_tokens - len(rules.prompt)):
        logits = runtime.decode_step(tokens, state)
        _suppress(logits, rules.suppressed)
        if step == 0:
            _suppress(logits, rules.suppressed_first)
        best = logits.argmax(dim=-1).masked_fill(done, rules.end)
        written.append(best)
        done |= best == rules.end
        if bool(done.all()):
            break
        tokens = best[:, None]
    return [_until_end(row, rules.end) for row in torch.stack(written, dim=1).tolist()]


def _suppress(logits: Tensor, tokens: Sequence[int]) -> None:
    # WhisperConfig suppresses ids of OpenAI's vocabulary by default, also where the vocabulary is smaller.
    if known := [t for t in tokens if t < logits.shape[-1]]:
        logits[:, known] = -torch.inf


def _until_end(row: list[int], end: int) -> list[int]:
    return row[: row.index(end)] if end in row else row
