"""Word error rate against size and against speed, with the Pareto front: what nothing else beats in both."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from whisperq.report.error_tables import NAMED, Measured, shared_sets
from whisperq.report.figures import MODEL_COLOURS, new_figure, shorten, style
from whisperq.report.speed_tables import Speed
from whisperq.report.system_labels import FLOAT
from whisperq.report.word_errors import System

MARKERS = "osD^vPX*<>hp"
MOST = 24  # points of one figure


@dataclass(frozen=True)
class Point:
    """One system: megabytes, RTFx, and WER in percent with its 95 % interval."""

    system: System
    megabytes: float
    rtfx: float
    wer: float
    interval: tuple[float, float]


def points(measured: Measured, speeds: Mapping[System, Speed]) -> list[tuple[str, list[Point]]]:
    """Title and points of each collection of sets that systems share; a point for each system of known size."""
    found = []
    for sets, rates in shared_sets(measured):
        known = {s: (v, size) for s in rates if (v := speeds.get(s)) and (size := v.megabytes) is not None}
        names = ", ".join(s.name for s in sets) if len(sets) <= NAMED else f"{len(sets)} sets"
        title = f"{'mean of ' if len(sets) > 1 else ''}{names}; {sum(s.words for s in sets):,} {sets[0].unit}s"
        some = [(s, *v, rates[s]) for s, v in sorted(known.items(), key=lambda x: x[0].order())]
        found += apart(
            title, [Point(s, size, v.rtfx, r.points, r.interval or (r.points,) * 2) for s, v, size, r in some]
        )
    return found


def apart(title: str, some: Sequence[Point]) -> list[tuple[str, list[Point]]]:
    """More points than a figure can show are divided by their models' origins."""
    if len(some) <= MOST:
        return [(title, list(some))] if some else []
    origins = dict.fromkeys(p.system.model.origin for p in some)
    return [(f"{origin}; {title}", [p for p in some if p.system.model.origin == origin]) for origin in origins]


def front(some: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front of (cost, WER) pairs, cheapest first."""
    kept: list[tuple[float, float]] = []
    for cost, wer in sorted(set(some)):
        if not kept or wer < kept[-1][1]:
            kept.append((cost, wer))
    return kept


@style()
def pareto_figure(title: str, some: Sequence[Point], measure: str) -> Figure:
    """Colour: numbers; marker: model; filled: gated. Size to the left, speed to the right."""
    figure = new_figure(7.2, 3.2 + 0.16 * len(some), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    numbers = list(dict.fromkeys(p.system.model.numbers for p in some))
    models = list(dict.fromkeys(_model(p) for p in some))
    for i, point in enumerate(some):
        colour = (
            "black"
            if point.system.model.numbers == FLOAT
            else MODEL_COLOURS[numbers.index(point.system.model.numbers) % 4]
        )
        marker = MARKERS[models.index(_model(point)) % len(MARKERS)]
        where = point.system.where(p.system for p in some)
        what = f"{point.system.numbers}, {where}" if where else point.system.numbers
        label = f"{i + 1}  {shorten(_model(point), 48)}: {shorten(what, 40)}"
        for axes, cost in ((left, point.megabytes), (right, point.rtfx)):
            _mark(axes, cost, point, (colour, marker, label))
    _number(left, [(p.megabytes, p.wer) for p in some])
    _number(right, [(p.rtfx, p.wer) for p in some])
    _front(left, front((p.megabytes, p.wer) for p in some), "left")
    _front(right, [(-cost, wer) for cost, wer in front((-p.rtfx, p.wer) for p in some)], "right")
    left.set_ylabel(f"{measure} (%), {shorten(title, 40)}")
    left.set_xlabel("weights on disk (MB, logarithmic)")
    right.set_xlabel("RTFx (s of audio per s, logarithmic)")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", frameon=False, fontsize=6.5, ncols=1, labelspacing=0.3)
    return figure


def _model(point: Point) -> str:
    return point.system.model.title


def _number(axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    """Each point's number beside it; points that all but coincide share a label."""
    top = max(wer for _, wer in places) or 1
    clusters: list[list[int]] = []
    for i, (cost, wer) in enumerate(places):
        near = (
            c for c in clusters if abs(places[c[0]][0] / cost - 1) < 0.05 and abs(places[c[0]][1] - wer) < 0.03 * top
        )
        if (cluster := next(near, None)) is not None:
            cluster.append(i)
        else:
            clusters.append([i])
    for cluster in clusters:
        text = ", ".join(str(i + 1) for i in cluster)
        axes.annotate(text, places[cluster[0]], (4, 3), textcoords="offset points", fontsize=6)


def _mark(axes: Axes, cost: float, point: Point, look: tuple[str, str, str]) -> None:
    colour, marker, label = look
    low, high = point.interval
    filled = colour if point.system.model.gate != "none" else "white"
    below, above = max(0.0, point.wer - low), max(0.0, high - point.wer)
    axes.errorbar(
        cost, point.wer, [[below], [above]], fmt=marker, color=colour, markerfacecolor=filled, markersize=5,
        elinewidth=0.6, capsize=1.5, label=label, zorder=3,
    )  # fmt: skip


def _front(axes: Axes, corners: Sequence[tuple[float, float]], better: str) -> None:
    """A staircase: at this cost nothing here has a lower rate."""
    costs, rates = [c for c, _ in corners], [w for _, w in corners]
    where: Literal["post", "pre"] = "post" if better == "left" else "pre"
    if better == "right":
        costs, rates = costs[::-1], rates[::-1]
    axes.step(costs, rates, where=where, color="#9A9A9A", linewidth=1, linestyle="--", zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
