"""Beam search as transformers' `generate(num_beams=N)` does it, over any runtime.

    score of a hypothesis of n tokens, the end among them = sum of log p / n

log p is that before suppression, as there. At each step the 2 N likeliest continuations are looked at: those of the N
best that end are finished, the N best of the others live on. An utterance is done when it has N finished ones and the
best living one, at its present length, is no better than the worst of them.
"""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from whisperq.errors import UsageError
from whisperq.runtime.ctc import CtcRules
from whisperq.runtime.decoding import Rules, finite, suppress
from whisperq.runtime.detection import start
from whisperq.runtime.interface import Runtime
from whisperq.runtime.padding import guarded


@dataclass(frozen=True)
class BeamRules(Rules):
    """Decoding rules of beam search: `beams` hypotheses are kept at a time."""

    beams: int = 2

    def read(self, runtime: Runtime, features: Tensor) -> list[list[int]]:
        return guarded(runtime, features, lambda some, _: beam_search(runtime, some, self), self.words)


def with_beams(rules: Rules | CtcRules, beams: int) -> Rules | CtcRules:
    """Rules for decoding with `beams` beams; one is greedy. Raises UsageError for CTC, which has no beams."""
    if beams == 1:
        return rules
    if not isinstance(rules, Rules):
        raise UsageError("--beams is for Whisper; of a CTC model each frame's best label is taken")
    return BeamRules(**{f.name: getattr(rules, f.name) for f in fields(Rules)}, beams=beams)


def with_loop_limit(rules: Rules | CtcRules, times: int | None) -> Rules | CtcRules:
    """Rules by which an utterance ends once an n-gram came so often in a row; None: it does not.

    Raises UsageError for CTC and for several beams.
    """
    return rules if times is None else replace(_greedy(rules, "--loop-limit"), loop_limit=times)


def with_tokens_per_second(rules: Rules | CtcRules, number: float | None) -> Rules | CtcRules:
    """Rules by which an utterance ends at the bound of its length (runtime/bounds.py); None: it has none.

    Raises UsageError for CTC and for several beams.
    """
    return rules if number is None else replace(_greedy(rules, "--tokens-per-second"), tokens_per_second=number)


def _greedy(rules: Rules | CtcRules, option: str) -> Rules:
    if not isinstance(rules, Rules) or isinstance(rules, BeamRules):
        raise UsageError(f"{option} is for a Whisper that decodes greedily; leave it or --beams out")
    return rules


@dataclass
class Search:
    """One utterance's hypotheses: (score, tokens) each, the best first."""

    beams: int
    living: list[tuple[float, list[int]]] = field(default_factory=list)
    finished: list[tuple[float, list[int]]] = field(default_factory=list)
    open: bool = True

    def step(self, candidates: list[tuple[float, int, int]], end: int, last: bool) -> list[tuple[int, int]]:
        """candidates: score, beam and token, the best first; which beam and token each living one comes from."""
        grown = [(score, [*self.living[beam][1], token]) for score, beam, token in candidates]
        ends = [last or token == end for _, _, token in candidates]
        length = len(grown[0][1])
        if self.open:
            done = [(score / length, ids) for (score, ids), over in zip(grown, ends, strict=True) if over]
            done = done[: sum(ends[: self.beams])]  # of the N best alone
            self.finished = sorted(self.finished + done, key=lambda one: -one[0])[: self.beams]
        chosen = [i for i, over in enumerate(ends) if not over][: self.beams]
        if not chosen:
            self.open = False
            return []
        self.living = [grown[i] for i in chosen]
        full = len(self.finished) == self.beams
        self.open = self.open and not (full and self.living[0][0] / length <= self.finished[-1][0])
        return [candidates[i][1:] for i in chosen]


@torch.inference_mode()
def beam_search(runtime: Runtime, features: Tensor, rules: BeamRules) -> list[list[int]]:
    """features (batch, mel bins, frames) -> each utterance's best new tokens, without prompt and end."""
    state = runtime.encode(features)
    searches = [Search(rules.beams, [(0.0, [])]) for _ in features]  # from the prompt on they branch
    logits = start(runtime, state, rules, features).logits
    room = rules.max_tokens - len(rules.prompt)
    for step in range(room):
        log_probs = finite(logits).log_softmax(dim=-1)
        suppress(log_probs, torch.tensor(rules.suppressed, dtype=torch.long, device=log_probs.device))
        if step == 0:
            suppress(log_probs, torch.tensor(rules.suppressed_first, dtype=torch.long, device=log_probs.device))
        before = torch.tensor([[score for score, _ in s.living] for s in searches], device=log_probs.device)
        chosen = [
            search.step(candidates, rules.end, step == room - 1)
            for search, candidates in zip(searches, _candidates(log_probs, before, rules.beams), strict=True)
        ]
        if not any(search.open for search in searches):
            break
        rows = [before.shape[1] * i + beam for i, pairs in enumerate(chosen) for beam, _ in pairs]
        runtime.branch(state, torch.tensor(rows, device=features.device))
        tokens = torch.tensor([[token] for pairs in chosen for _, token in pairs], device=features.device)
        logits = runtime.decode_step(tokens, state)
    best = [search.finished[0][1] for search in searches]
    return [ids[:-1] if ids[-1] == rules.end else ids for ids in best]


def _candidates(log_probs: Tensor, before: Tensor, beams: int) -> list[list[tuple[float, int, int]]]:
    """Each utterance's likeliest continuations, two for each beam: their scores, and which hypothesis and token.

    log_probs (batch * living, vocabulary); before (batch, living): the scores so far.
    """
    vocabulary = log_probs.shape[-1]
    sums = (log_probs.view(*before.shape, vocabulary) + before[:, :, None]).flatten(1)
    scores, places = sums.topk(min(2 * beams, sums.shape[1]), dim=-1)  # after the prompt there is but one hypothesis
    return [
        [(score, place // vocabulary, place % vocabulary) for score, place in zip(*pair, strict=True)]
        for pair in zip(scores.tolist(), places.tolist(), strict=True)
    ]
