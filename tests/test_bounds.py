"""--tokens-per-second: an utterance ends at the bound of its own sound's length; all others are decoded as without."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.scripted_runtime import Scripted
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import WhisperFeatureExtractor

from whisperq.errors import UsageError
from whisperq.runtime.beams import with_beams, with_tokens_per_second
from whisperq.runtime.bounds import bounds_of
from whisperq.runtime.ctc import CtcRules
from whisperq.runtime.decoding import Rules, greedy
from whisperq.runtime.fallback import Care, Decoding

RULES = Rules(prompt=(1,), end=9, max_tokens=100)
ENDLESS = [[1, 2, 3, 4, 5, 6, 8] * 30, [2, 4, 6, 8, 1, 3] * 30, [3, 1] * 90]


def sounding(*seconds: float) -> torch.Tensor:
    """Features (batch, 80, 1000) of which so many seconds, of 10, lie above the floor."""
    x = torch.full((len(seconds), 80, 1000), -1.5)
    for row, s in zip(x, seconds, strict=True):
        row[7, : round(100 * s)] = 0.5
    return x


@pytest.mark.parametrize(
    "number, seconds, lengths",
    [
        (10, (0, 1, 3), [16, 26, 46]),
        (10, (3, 0, 1), [46, 16, 26]),
        (12.5, (0.5, 0.25, 2), [23, 20, 41]),
        (20, (10, 0.01, 4.16), [99, 17, 99]),  # the decoder takes 99 behind the prompt
    ],
)
def test_text_without_end_ends_at_its_own_bound(number, seconds, lengths):
    rules, x = replace(RULES, tokens_per_second=number), sounding(*seconds)
    rows = greedy(Scripted(ENDLESS), x, rules)
    assert [len(row) for row in rows] == lengths
    assert rows == [script[:length] for script, length in zip(ENDLESS, lengths, strict=True)]
    alone = [greedy(Scripted([script]), x[i : i + 1], rules)[0] for i, script in enumerate(ENDLESS)]
    assert rows == alone
    assert rules.cut_short(x, rows) == [True] * 3
    assert [len(row) for row in greedy(Scripted(ENDLESS), x, RULES)] == [99] * 3


def test_text_that_ends_by_itself_is_as_without():
    scripts = [[5] * 15 + [9] * 100, [*ENDLESS[1][:25], *[9] * 100], [9] * 100]
    x, rules = sounding(0, 1, 0), replace(RULES, tokens_per_second=10)
    rows = greedy(Scripted(scripts), x, rules)
    assert rows == greedy(Scripted(scripts), x, RULES) == [scripts[0][:15], scripts[1][:25], []]
    assert rules.cut_short(x, rows) == RULES.cut_short(x, rows) == [False] * 3


def test_what_is_decoded_again_is_bounded_too():
    """At each temperature; a loop fails them all."""
    runtime, rules = Scripted([[3] * 300]), replace(RULES, tokens_per_second=10)
    decoding = Decoding(runtime, rules, lambda ids: "no " * len(ids), Care(fallback=True))
    (found,) = decoding.windows(sounding(1), [np.zeros(16000, np.float32)])
    assert len(found.ids) <= 26 and len(runtime.given) <= 6 * 26


@pytest.mark.parametrize("seconds", [0.3, 1.0, 7.77, 29.99, 30.0])
@pytest.mark.parametrize("loudness", [1.0, 1e-3])
def test_a_bound_is_never_below_that_of_the_recording(seconds, loudness):
    """transformers' features of noise; its windows of 25 ms reach a frame or two into the silence behind it."""
    samples = loudness * np.random.default_rng(0).standard_normal(round(16000 * seconds))
    x = WhisperFeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt").input_features
    (bound,) = bounds_of(x, 20, 448)
    least = min(16 + int(np.ceil(20 * round(seconds, 2))), 448)
    assert least <= bound <= least + 1


class Reads(TorchDispatchMode):
    """Counts the operators that read a tensor's values, or make a tensor of the host's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        reads = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        self.found[func] += bool(reads) or "lift_fresh" in str(func)
        return func(*args, **(kwargs or {}))


def test_no_step_waits_more_often():
    """As many reads for each further step with bounds as without."""

    def reads(rules: Rules, steps: int) -> int:
        with Reads() as mode:
            greedy(Scripted([ENDLESS[0][:steps] + [9]]), sounding(9), rules)
        return sum(mode.found.values())

    bounded = replace(RULES, tokens_per_second=10)
    assert reads(bounded, 60) - reads(bounded, 20) == reads(RULES, 60) - reads(RULES, 20) > 0


def test_it_is_for_greedy_whispers_alone():
    assert with_tokens_per_second(RULES, None) is RULES
    assert with_tokens_per_second(RULES, 20).tokens_per_second == 20
    for rules in (with_beams(RULES, 3), CtcRules(0, ())):
        with pytest.raises(UsageError, match="--tokens-per-second is for a Whisper that decodes greedily"):
            with_tokens_per_second(rules, 20)
        assert with_tokens_per_second(rules, None) is rules
