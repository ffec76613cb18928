"""Times written by the model itself: which tokens may follow.

Whisper writes <|0.00|> text <|2.40|><|2.40|> text <|3.90|>: each stretch of words stands between two times, and the
end of one is the start of the next. A model's own logits do not keep to that, so decoding holds it to the rules of
openai/whisper's `ApplyTimestampRules`:

    1. the first token is a time, of at most one second;
    2. a time after words is followed by another time or by the end, two times by words or by the end;
    3. times do not fall, and no stretch is empty;
    4. where the times together are likelier than the likeliest other token, a time is written.

Rule 3 and the decoder's length end every loop.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LATEST_FIRST = 50  # steps of 0.02 s: openai/whisper's max_initial_timestamp of one second


def restrict_times(logits: Tensor, written: Sequence[Tensor], times: range, end: int) -> None:
    """Forbid, in place, what may not follow: logits (batch, vocabulary); written holds a (batch,) for each step so far.

    times: ids of <|0.00|>, <|0.02|>, ...; <|notimestamps|> lies before them. All from `end` to there are no words, but
    what was added to the vocabulary behind the times are words as those before `end`.
    """
    first, behind = times.start, times.stop
    logits[:, first - 1] = -torch.inf  # <|notimestamps|>
    if not written:
        logits[:, :first] = -torch.inf
        logits[:, min(first + LATEST_FIRST + 1, behind) :] = -torch.inf
        return
    after_time = _are_times(written[-1], times)
    after_pair = after_time & _are_times(written[-2], times) if len(written) > 1 else after_time
    closed = after_time & ~after_pair
    so_far = torch.stack(tuple(written))
    latest = so_far.masked_fill(~_are_times(so_far, times), first - 1).amax(dim=0)  # before the first where none was
    lowest = torch.where(closed, latest, latest + 1)
    # Views of the vocabulary's parts, each with one mask a row: masks of the whole vocabulary cost more than all else.
    words, moments, added = logits[:, :end], logits[:, first:behind], logits[:, behind:]
    ids = torch.arange(first, behind, device=logits.device)
    moments.masked_fill_(after_pair[:, None] | (ids < lowest[:, None]), -torch.inf)
    for part in (words, added):
        part.masked_fill_(closed[:, None], -torch.inf)
    likelier = moments.logsumexp(dim=-1) > torch.maximum(_most(logits[:, :first]), _most(added))
    for part in (logits[:, :first], added):
        part.masked_fill_(likelier[:, None], -torch.inf)


def _are_times(ids: Tensor, times: range) -> Tensor:
    return (ids >= times.start) & (ids < times.stop)


def _most(logits: Tensor) -> Tensor:
    """logits (batch, some) -> (batch,); -inf where there are none."""
    return logits.amax(dim=-1) if logits.shape[-1] else logits.new_full(logits.shape[:1], -torch.inf)
