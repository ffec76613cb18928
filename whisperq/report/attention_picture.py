"""What the pictures of one attention block are drawn from, and what their captions say."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from whisperq.report.figures import shorten
from whisperq.scoring.shares import role_shares


@dataclass(frozen=True)
class Axis:
    """One axis of the pictures: its name, and a label for each position, or the seconds of one; which ones are what."""

    name: str
    labels: tuple[str, ...] | None
    step_seconds: float | None = None
    roles: Mapping[str, range] = field(default_factory=dict)

    def boundary(self, count: int, seconds: float) -> float | None:
        """Where padding follows the recording, or text the prompt; None where nothing does."""
        if self.step_seconds is not None:
            return seconds if 0 < seconds < (count - 0.5) * self.step_seconds else None
        return next((rows.start - 0.5 for rows in self.roles.values() if rows and rows.start), None)


@dataclass(frozen=True)
class AttentionPicture:
    """What one block (`dec.1`, `dec.1.cross`, `enc.3`) did with one utterance of `seconds` length."""

    block: str
    probs: np.ndarray  # (heads, queries, keys)
    values: np.ndarray  # (heads, keys, d_head)
    queries: Axis
    keys: Axis
    utterance: str
    seconds: float

    def caption(self, probs: np.ndarray) -> str:
        """The utterance, what dashed lines mean, and where the probabilities go: one head's, or all heads'."""
        sides = ((self.queries, self.probs.shape[1]), (self.keys, self.probs.shape[2]))
        kinds = {axis.step_seconds is None for axis, count in sides if axis.boundary(count, self.seconds) is not None}
        ends = {False: "the recording ends, padding begins", True: "the prompt ends, text begins"}
        lines = "; ".join(ends[kind] for kind in sorted(kinds))
        text = f"utterance {shorten(visible(self.utterance), 60)}, {self.seconds:.2f} s"
        return "\n".join(filter(None, (f"{text} (dashed line: {lines})" if lines else text, self.goes(probs))))

    def goes(self, probs: np.ndarray) -> str:
        """Shares of the probability that can go to rows of more than one role."""
        parts = [
            f"from {role} " + ", ".join(f"{100 * share:.1f} % to {to}" for to, share in shares.items())
            for role, shares in role_shares(probs, self.queries.roles, self.keys.roles).items()
            if sum(share > 0 for share in shares.values()) > 1
        ]
        return f"probability: {'; '.join(parts)}" if parts else ""


def visible(text: str) -> str:
    """Line breaks and control characters, which no SVG can hold, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
