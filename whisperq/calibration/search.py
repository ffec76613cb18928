"""StableQuant's search for activation ranges, on a model of either family; quant/stable.py has the equations.

    float    the model as it is                                                        (metric wer alone)
    alone    one layer in integers at its full range, all others float
    cut-off  a costly layer at its full range or that of one cut-off, all before it as they will be, all behind it float

A layer is a site that integer products take in, with the weights that they multiply it by, in 8 bits per output
channel whatever the recipe will have: q, k, v and gate are one. Layers are searched in the order of computation, so
that each cut-off is judged on the input that the layer will really get, and what lies before it is computed once. One
whose range mathematics knows, as the spectrogram's, has that range in every trial and is never searched.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from whisperq.artifact import plain
from whisperq.errors import InputError
from whisperq.jobs.journal import Journal, whole_lines
from whisperq.kinds.observations import Searched
from whisperq.quant.ranges import RangeEnds, SiteRange
from whisperq.quant.stable import CUT_OFFS, best_cut_off, costly_by_snr, costly_by_wer, stable_range

DECISIONS = "decisions.jsonl"
SEARCHED, FULL, CHOSEN = "search", "full range", "chosen"


@dataclass(frozen=True)
class Trial:
    """One state of the model and what was measured of it: a line of the log."""

    bits: int
    stage: str  # float, alone or cut-off
    layer: str | None = None
    cut_off: float | None = None  # percent kept; None: the full range
    range: Sequence[float] | None = None
    wer: float | None = None  # a fraction
    snr_db: float | None = None
    decision: str | None = None

    @property
    def key(self) -> tuple:
        return self.bits, self.stage, self.layer, self.cut_off, *(self.range or ())

    @property
    def value(self) -> float:
        """Raises ValueError where nothing was measured."""
        measured = self.snr_db if self.wer is None else self.wer
        if measured is None:
            raise ValueError(f"nothing was measured of {self.layer or self.stage}")
        return measured

    @property
    def ends(self) -> RangeEnds:
        """The range. Raises ValueError where the trial has none."""
        if self.range is None:
            raise ValueError(f"the trial {self.stage} of {self.layer} has no range")
        low, high = self.range
        return low, high

    def __str__(self) -> str:
        if self.layer is None:
            return f"{self.stage}: {self._figure}"
        cut = ", full range" if self.cut_off is None else f", {self.cut_off:g} % kept"
        return f"{self.layer}, {self.bits} bits{cut}: {self._figure}"

    @property
    def _figure(self) -> str:
        return f"SNR {self.snr_db:.2f} dB" if self.wer is None else f"WER {100 * self.wer:.2f} %"


class TrialJournal(Journal):
    """The trials so far, beside the place where the calibration will lie."""

    def __init__(self, out: Path, config: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(out, config, inputs, "trials", "trials.jsonl")
        self.path = self.folder / "trials.jsonl"

    def trials(self) -> dict[tuple, Trial]:
        return {trial.key: trial for path in self.files() for trial in whole_lines(path, Trial)[0]}


@dataclass(frozen=True)
class Criterion:
    """How much a layer may cost before it is searched, and the metric that measures it."""

    metric: str  # wer or snr
    points: float  # percentage points of WER
    decibels: float

    def costly(self, alone: Mapping[str, float], exact: float | None) -> list[str]:
        if self.metric == "wer":
            if exact is None:
                raise ValueError("word error rates are compared with the float model's")
            return costly_by_wer(alone, exact, self.points)
        return costly_by_snr(alone, self.decibels)


Ask = Callable[[list[Trial], Mapping[str, RangeEnds]], list[Trial]]  # measure, with these layers before in integers


@dataclass(frozen=True)
class Desk:
    """Callbacks of the search: to measure trials, to announce, and to show progress."""

    ask: Ask
    say: Callable[[str], None]
    track: Callable[[Iterable[str], int, str, str], Iterable[str]]


def search(
    layers: Sequence[str], observed: Mapping[str, SiteRange], bits: int, criterion: Criterion, desk: Desk
) -> tuple[dict[str, RangeEnds], list[Trial]]:
    """The ranges of the costly layers, and the log of all trials with what was decided on them.

    Raises InputError for a layer that leaves no finite logits whatever its range.
    """
    full = {a: observed[a].full for a in layers}
    log = desk.ask([Trial(bits, "float")], {}) if criterion.metric == "wer" else []
    exact = log[0].value if log else None
    for trial in log:
        desk.say(str(trial))
    alone: dict[str, Trial] = {}
    for layer in desk.track(layers, len(layers), f"stablequant, {bits} bits, each layer alone", "layers"):
        (alone[layer],) = desk.ask([Trial(bits, "alone", layer, None, full[layer])], {})
        desk.say(f"{alone[layer]}, alone")
    costly = criterion.costly({layer: trial.value for layer, trial in alone.items()}, exact)
    costly = [layer for layer in costly if observed[layer].known is None]  # beyond a known range there is nothing
    desk.say(f"to be searched: {', '.join(costly) or 'none'}; the rest keep their full range")
    log += [replace(trial, decision=SEARCHED if layer in costly else FULL) for layer, trial in alone.items()]
    ranges = dict(full)
    for layer in desk.track(costly, len(costly), f"stablequant, {bits} bits, cut-offs", "layers"):
        before = {a: ranges[a] for a in layers[: layers.index(layer)]}
        trials = desk.ask(candidates(layer, observed[layer], full[layer], bits), before)
        best = best_cut_off({t.cut_off: t.value for t in trials}, criterion.metric)
        if not any(t.value > -math.inf for t in trials):
            raise InputError(f"{layer} in {bits} bits breaks the logits, to NaN or infinity, with every range of it")
        decided = [replace(t, decision=CHOSEN if t.cut_off == best else None) for t in trials]
        ranges[layer] = next(t.ends for t in decided if t.decision)
        desk.say(f"{next(t for t in decided if t.decision)}, the best of {len(trials)} ranges")
        log += decided
    return {layer: ranges[layer] for layer in costly}, log


def candidates(layer: str, observed: SiteRange, full: RangeEnds, bits: int) -> list[Trial]:
    """The full range, and each cut-off's that no other one has."""
    if observed.histogram is None:
        raise ValueError(f"no histogram was kept of {layer}")
    ranges: dict[RangeEnds, float | None] = {full: None}
    for kept in CUT_OFFS:
        ranges.setdefault(stable_range(observed.histogram, kept, bits), kept)
    return [Trial(bits, "cut-off", layer, kept, ends) for ends, kept in ranges.items()]


def summary(log: Sequence[Trial]) -> list[Searched]:
    """The layers that were searched: what each cost alone, and what was chosen."""
    chosen = {(t.bits, t.layer): t for t in log if t.decision == CHOSEN}
    return [
        {"layer": t.layer, "bits": t.bits, "alone": t.value, "cut_off": best.cut_off, "chosen": best.value}
        for t in log
        if t.decision == SEARCHED and t.layer and (best := chosen[t.bits, t.layer])
    ]


def write_log(log: Sequence[Trial], folder: Path) -> None:
    """decisions.jsonl; null in JSON are an infinite ratio, where nothing changes, and that of logits that are NaN."""
    lines = [json.dumps(plain(asdict(trial)), allow_nan=False) + "\n" for trial in log]
    (folder / DECISIONS).write_text("".join(lines))
