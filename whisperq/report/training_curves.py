"""What training did to attention: kurtosis of each block's output and each head's gate, over the steps.

A gate is drawn relative to its start, which is one: above it a head is let through more than in the teacher, below it
less. Logs of older versions hold one value for all blocks and one for all heads of a block.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from whisperq.report.figures import HIGHLIGHT, LOG_ABOVE, new_figure, shorten, style

COLOURS = "viridis"
PANEL = 2.6, 1.75  # inches, width and height
ACROSS = 3
MOST = 12  # lines that a legend names one by one

Series = Mapping[str, tuple[Sequence[int], Sequence[float]]]  # name -> steps, values


def kurtosis_series(log: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Panels of one training: encoder, decoder, cross-attention, each with a line for each block."""
    measured = [e for e in log if e.get("kurtosis") is not None]
    if not any("kurtosis_by_site" in e for e in measured):
        return {"mean of all blocks": {"mean": _points(measured, lambda e: e["kurtosis"])}} if measured else {}
    panels: dict[str, dict[str, Any]] = {}
    for address in next(e["kurtosis_by_site"] for e in measured if "kurtosis_by_site" in e):
        part = "decoder, cross" if ".cross." in address else {"enc": "encoder", "dec": "decoder"}[address[:3]]
        line = _points(measured, lambda e, a=address: e.get("kurtosis_by_site", {}).get(a))
        panels.setdefault(part, {})[address.removesuffix(".out_proj")] = line
    return dict(panels)


def gate_series(log: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """A panel for each gated block, with a line for each head."""
    measured = [e for e in log if e.get("gates")]
    panels: dict[str, Series] = {}
    for address in measured[-1]["gates"] if measured else ():
        heads = max((len(e.get("gates_by_head", {}).get(address, ())) for e in measured), default=0)
        lines = {
            f"head {h}": _points(measured, lambda e, a=address, h=h: _head(e.get("gates_by_head", {}).get(a), h))
            for h in range(heads)
        }
        panels[address.removesuffix(".gate")] = lines or {
            "mean": _points(measured, lambda e, a=address: e["gates"].get(a))
        }
    return panels


def _head(values: Sequence[float] | None, head: int) -> float | None:
    return values[head] if values is not None and head < len(values) else None


def _points(log: Sequence[Mapping[str, Any]], value: Any) -> tuple[list[int], list[float]]:
    found = [(e["step"], v) for e in log if (v := value(e)) is not None and math.isfinite(v)]
    return [step for step, _ in found], [v for _, v in found]


@style()
def kurtosis_growth(models: Mapping[str, Mapping[str, Series]]) -> Figure:
    """A row for each model, a column for each part; models title -> panels. One scale for all."""
    width = max(map(len, models.values()))
    figure = new_figure(max(4.6, PANEL[0] * width), (PANEL[1] + 0.45) * len(models) + 0.4, layout="constrained")
    grid = figure.subplots(len(models), width, sharex=True, sharey=True, squeeze=False)
    every = [v for panels in models.values() for lines in panels.values() for _, vs in lines.values() for v in vs]
    for row, (title, panels) in zip(grid, models.items(), strict=True):
        for axes in row[len(panels) :]:
            axes.set_visible(False)
        for axes, (part, lines) in zip(row, panels.items(), strict=False):
            axes.axhline(3, color="black", linewidth=0.7, linestyle="--")
            draw_lines(axes, lines)
            axes.set_title(f"{shorten(title, 60)}\n{part}" if axes is row[0] else part, loc="left")
            axes.set_xlabel("training step")
            axes.tick_params(labelbottom=True)
        row[0].set_ylabel("kurtosis (Gaussian = 3)")
    if every and max(every) > LOG_ABOVE:
        for axes in grid.flat:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.yaxis.set_major_formatter("{x:,g}")  # the usual one writes powers as formulas
            axes.yaxis.set_minor_locator(NullLocator())
    return figure


@style()
def gate_growth(title: str, panels: Mapping[str, Series]) -> Figure:
    """One model's gated blocks, a panel each, on one scale."""
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = new_figure(max(4.2, PANEL[0] * across), (PANEL[1] + 0.1) * down + 0.6, layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (block, lines) in zip(grid.flat, panels.items(), strict=False):
        axes.axhline(1, color="black", linewidth=0.7, linestyle="--")
        draw_lines(axes, lines)
        axes.set_title(block, loc="left")
        axes.tick_params(labelbottom=True)
    figure.supxlabel("training step", fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel("mean gate\n(start = 1)")
    figure.suptitle(shorten(title, 80), x=0.01, ha="left", fontsize=9, fontweight="bold")
    return figure


def draw_lines(axes: Axes, lines: Series) -> None:
    """Dark to light in order, markers in turn; named in a legend, many lines by their numbers at the end."""
    colours = matplotlib.colormaps[COLOURS](np.linspace(0, 0.88, max(2, len(lines))))
    for i, (name, (steps, values)) in enumerate(lines.items()):
        colour = colours[i] if len(lines) > 1 else HIGHLIGHT
        axes.plot(steps, values, color=colour, linewidth=1, marker="osv^D"[i % 5], markersize=2, label=name)
        if len(lines) > MOST and steps:
            at = steps[-1], values[-1]
            number = "".join(filter(str.isdigit, name))
            axes.annotate(number, at, (3 + 7 * (i % 3), 0), textcoords="offset points", fontsize=5, va="center")
    axes.spines[["top", "right"]].set_visible(False)
    if 1 < len(lines) <= MOST:
        axes.legend(frameon=False, fontsize=5, ncols=2, handlelength=1.4, columnspacing=0.8, labelspacing=0.2)
