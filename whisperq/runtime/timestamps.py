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

    times: ids of <|0.00|>, <|0.02|>, ..., the vocabulary's last; <|notimestamps|> lies before them, words before `end`.
    """
    first = times.start
    logits[:, first - 1] = -torch.inf  # <|notimestamps|>
    if not written:
        logits[:, :first] = -torch.inf
        logits[:, first + LATEST_FIRST + 1 :] = -torch.inf
        return
    after_time = written[-1] >= first
    after_pair = after_time & (written[-2] >= first) if len(written) > 1 else after_time
    closed = after_time & ~after_pair
    ids = torch.arange(logits.shape[-1], device=logits.device)
    latest = torch.stack(tuple(written)).amax(dim=0)  # a time where there was one: their ids are the highest and grow
    lowest = torch.where(closed, latest, latest + 1)
    unfit_time = (ids >= first) & (after_pair[:, None] | (ids < lowest[:, None]))
    unfit_word = (ids < end) & closed[:, None]
    logits.masked_fill_(unfit_time | unfit_word, -torch.inf)
    likelier = logits[:, first:].logsumexp(dim=-1) > logits[:, :first].amax(dim=-1)
    logits[:, :first].masked_fill_(likelier[:, None], -torch.inf)
