"""Divergence of quantized outputs against the bits of the activations: what a word error rate is too coarse to see."""

import math
import re
from collections.abc import Mapping, Sequence
from statistics import geometric_mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from whisperq.report.distortion_tables import Distorted, log_kl
from whisperq.report.figures import MODEL_COLOURS, new_figure, shorten, style
from whisperq.report.pareto import MARKERS
from whisperq.report.system_labels import plain_last

BITS = re.compile(r"(?P<before>.* W[\d.]+)A(?P<bits>\d+)(?P<after>.*)")
Panels = Mapping[str, Mapping[str, Sequence[Distorted]]]  # what is equal but for the bits -> gate -> its line
COLOURS = (*MODEL_COLOURS, "#D55E00", "#56B4E9")


def bits_of(one: Distorted) -> int:
    """Bits of the activations. Raises ValueError where the model's numbers name none."""
    if (match := BITS.fullmatch(one.model.numbers)) is None:
        raise ValueError(f"{one.model.numbers} names no bits of activations")
    return int(match["bits"])


def narrowings(found: Sequence[Distorted]) -> dict[str, Panels]:
    """Model title, such as "student, 3 + 2 layers" -> scheme -> gate -> results; only lines of two widths or more.

    found: of one condition.
    """
    lines: dict[tuple[str, str, str], list[Distorted]] = {}
    for one in found:
        if match := BITS.fullmatch(one.model.numbers):
            title = f"{one.model.origin}, {one.model.layers} layers"
            lines.setdefault((title, f"{match['before']}{match['after']}", one.model.gate), []).append(one)
    titles: dict[str, dict[str, dict[str, Sequence[Distorted]]]] = {}
    for (title, scheme, gate), line in sorted(lines.items(), key=lambda item: (*item[0][:2], plain_last(item[0][2]))):
        if len({bits_of(one) for one in line}) > 1:
            titles.setdefault(title, {}).setdefault(scheme, {})[gate] = line
    return dict(titles)


@style()
def narrowing_figure(title: str, panels: Panels) -> Figure:
    """A panel for each scheme; KL logarithmic upwards, bits falling to the right, gates a little beside each other."""
    figure = new_figure(1.2 + 2.6 * len(panels), 3.2, layout="constrained")
    figure.suptitle(shorten(title, 30 * len(panels)), x=0.01, ha="left", fontsize=9)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    gates = list(dict.fromkeys(gate for lines in panels.values() for gate in lines))
    for axes, (scheme, lines) in zip(row, panels.items(), strict=True):
        for gate, line in lines.items():
            _line(axes, gates.index(gate), (gates.index(gate) - (len(gates) - 1) / 2) * 0.07, line)
        _axes(axes, sorted({bits_of(one) for line in lines.values() for one in line}))
        axes.set_title(shorten(scheme, 36), loc="left")
    row[0].set_ylabel("KL(float || quantized), nats per token")
    handles, names = row[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", frameon=False, ncols=3)
    return figure


def _axes(axes: Axes, widths: Sequence[int]) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(widths, [f"A{bits}" for bits in widths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(widths[-1] + 0.4, widths[0] - 0.4)
    axes.set_xlabel("bits of the activations")
    axes.spines[["top", "right"]].set_visible(False)


def _line(axes: Axes, number: int, beside: float, line: Sequence[Distorted]) -> None:
    colour, gate = COLOURS[number % len(COLOURS)], line[0].model.gate
    points = {bits: list(log_kl(o for o in line if bits_of(o) == bits).values()) for bits in map(bits_of, line)}
    points = {bits: [math.exp(v) for v in values] for bits, values in sorted(points.items()) if values}
    seeds = max((len(values) for values in points.values()), default=0)
    axes.plot(
        [bits + beside for bits in points], list(map(geometric_mean, points.values())), color=colour, linewidth=1,
        marker=MARKERS[number % len(MARKERS)], markerfacecolor=colour if gate != "none" else "white", markersize=4.5,
        label=f"gate {gate}, {seeds} seed{'s' if seeds != 1 else ''}",
    )  # fmt: skip
    for bits, values in points.items():
        axes.plot([bits + beside] * len(values), values, "_", color=colour, markersize=4, markeredgewidth=0.8)
